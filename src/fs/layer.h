// Layer: what one step wrote — a sorted set of path → entry, whiteout or opaque directory.
//
// Encoded, it is a blob without the times of its execution, so that equal outputs have equal
// digests; the mtimes are a second blob, one number per entry in the same order. The decoder
// believes nothing: a layer with unsorted or duplicate paths, "..", a missing parent, or absurd
// numbers is kCorrupt. A Layer is immutable once built and then thread-safe.
//
// Format 2: "hmlayer2", number of entries, then per entry: path, type byte (EntryKind, or 7 for a
// whiteout), opaque byte, mode, uid, gid, size, rdev, content (32 bytes, files only), target,
// number of xattrs and their names and values, link group (0, or 1 + index of its first entry),
// TimeOf byte and, for kKept, the mtime in nanoseconds, for kTaken the path.
// Numbers are 8 bytes little-endian, texts length-prefixed (store/util/bytes.h). A reader refuses
// any other magic.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"
#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::fs {

// Where a file's time comes from. Only kRun is a matter of when the step was executed: the other
// two are part of its output, and of the encoding.
enum class TimeOf : std::uint8_t {
  kRun = 0,    // written while the step ran
  kKept = 1,   // set by the step to an older (or a future) time, as tar does
  kTaken = 2,  // that of `time_path` in the view below this layer: a copy-up, cp -p, touch -r
};

struct LayerEntry {
  std::string path;
  bool whiteout = false;
  bool opaque = false;  // directories: hides the children of everything below
  Entry entry;
  Digest content;  // files only
  TimeOf time_of = TimeOf::kRun;
  std::int64_t mtime_ns = 0;  // 0 with kTaken
  std::string time_path;      // kTaken only
};

class Layer {
 public:
  // Sorts, then fills in nlink and link_group from `LayerEntry::entry.link_group` (any text that
  // the members of one group share).
  static std::shared_ptr<const Layer> build(std::vector<LayerEntry> entries);
  static Result<std::shared_ptr<const Layer>> decode(std::string_view blob,
                                                     std::string_view mtimes);

  std::string encode() const;
  std::string encode_mtimes() const;

  const std::vector<LayerEntry>& entries() const { return entries_; }
  const LayerEntry* find(std::string_view path) const;
  // Indexes of the entries directly in `dir`.
  std::vector<std::uint32_t> children(std::string_view dir) const;
  bool has_xattrs() const { return has_xattrs_; }

 private:
  Layer() = default;
  Status check() const;
  void index();

  std::vector<LayerEntry> entries_;  // sorted by PathLess
  // Hash tables without a copy of any path: 1 + the index of an entry, or 0 in a free slot. They
  // are never more than half full. A large image's are made in every run that names it.
  std::vector<std::uint32_t> by_path_;
  std::vector<std::uint32_t> by_dir_;  // the first entry of each directory that has any
  std::vector<std::uint32_t> next_;    // of each entry, the next one in the same directory; or 0
  bool has_xattrs_ = false;
};

}  // namespace hm::fs
