// UpperEntries: from what lies in an upper directory to the entries of its layer. The rules that
// capture.h and upper_archive.h share, so that both make the same layer of the same upper.
//
// Told of one path after the other in the order of a walk: a directory is entered, what is in it
// is added (sorted by name, as PathLess has it), the directory is left. Follows the view below
// along the way. One thread.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/capture.h"
#include "fs/layer.h"
#include "fs/view.h"

namespace hm::fs {

class UpperEntries {
 public:
  // Each level takes a part of the stack, of whoever walks.
  static constexpr std::ptrdiff_t kMostLevels = 2048;

  UpperEntries(const View& below, const StepTimes& times);

  // Before anything is told: when the step ended, where StepTimes does not say it.
  void set_end(std::int64_t ended_ns) { ended_ns_ = times_.ended_ns.value_or(ended_ns); }

  // A directory; the first is the root. Its parent was entered and not left.
  Status enter(LayerEntry item);
  // The directory entered last: dropped where it says nothing new about the view.
  Status leave();
  std::size_t depth() const { return open_.size(); }
  const std::string& directory() const { return entries_[open_.back().entry].path; }

  // What the view has at `name` in the directory entered last.
  Result<std::optional<View::Node>> below(std::string_view name) const;
  // Anything else. Returns its number; of a file, content and attributes are still to be completed.
  struct Added {
    std::size_t number;
    bool own_time;  // it has the time of what it hides
  };
  Added add(LayerEntry item, const std::optional<View::Node>& lower);
  void complete(const Added& file, const Digest& content, Xattrs xattrs);
  // Another name of an entry that was added.
  void link(std::string path, std::size_t first);

  // The number of an entry.
  std::optional<std::size_t> find(std::string_view path) const;
  const LayerEntry& operator[](std::size_t number) const { return entries_[number]; }

  // When all directories are left and all files completed; once.
  std::shared_ptr<const Layer> finish();

 private:
  struct Open {
    std::size_t entry;
    std::optional<View::Node> lower;
    bool merges = false;  // shows what the view has in it
    bool changes_nothing = false;
  };
  void settle_time(LayerEntry& item, bool own) const;

  const View& below_;
  const StepTimes& times_;
  std::int64_t ended_ns_;
  std::vector<LayerEntry> entries_;  // sorted by PathLess
  std::vector<Open> open_;
  std::vector<std::pair<std::size_t, std::size_t>> members_;  // another name and the first one
};

// A whiteout as overlayfs makes it: nothing of the device is the step's.
LayerEntry whiteout_at(std::string path);

}  // namespace hm::fs
