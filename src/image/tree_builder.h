// TreeBuilder: the tree of an image, put together entry by entry, layer upon layer.
//
// The rules are those of the OCI image specification (layer.md, "Applying Changesets"): a later
// layer's entry takes the place of an earlier one's, a directory is merged with a directory, a
// whiteout or an opaque directory takes away what earlier layers left and never what its own layer
// has. What no archiver writes is refused, with the path: names that leave the tree, entries below
// something that is no directory, links to nothing, one name twice in one layer. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fs/layer.h"
#include "image/stage.h"

namespace hm::image {

// What one import may take at most; kInvalid says which limit it was.
struct Limits {
  std::uint64_t bytes = std::uint64_t{64} << 30;      // of all files
  std::uint64_t entries = 4'000'000;                  // names, also those that a layer hides later
  std::uint64_t metadata = std::uint64_t{512} << 20;  // bytes of names, targets and attributes
};

struct TreeEntry {
  fs::Entry entry;  // without nlink and link_group
  std::int64_t mtime_ns = 0;
  std::optional<Stage::Id> file;  // where the bytes of a file are, if it has any
};

class TreeBuilder {
 public:
  explicit TreeBuilder(const Limits& limits) : limits_(limits) {}

  // The path that a name in an archive means: without "./", and without a slash at the end.
  // kInvalid when it is absolute, leaves the tree, or cannot be a path.
  static Result<std::string> path_of(std::string_view name);

  void begin_layer() { layer_ += 1, whiteouts_.clear(), parent_.reset(); }
  // All refuse (kInvalid) what cannot be; paths as of path_of.
  Status add(const std::string& path, TreeEntry item);
  Status add_link(const std::string& path, const std::string& target);
  Status add_whiteout(const std::string& path);
  Status add_opaque(const std::string& dir);
  // Says beforehand that a file of so many bytes will come, so that too many are never read.
  Status reserve(std::uint64_t bytes);

  // The tree without what is the sandbox's own. `stage` is finished.
  std::shared_ptr<const fs::Layer> build(const Stage& stage) const;
  // Of the staged files, those that are in the tree.
  std::vector<Stage::Id> files() const;

 private:
  struct Node {
    TreeEntry item;
    unsigned layer = 0;
    std::uint64_t inode = 0;  // of names that are hard links of each other; 0: of one name
    bool is_implied = false;  // a directory that is only there because something is in it
    bool is_directory() const { return item.entry.kind == fs::EntryKind::kDirectory; }
  };
  using Nodes = std::map<std::string, Node, fs::PathLess>;

  Status count(const std::string& path, const TreeEntry& item);
  Status ensure_parent(const std::string& path);
  Status ensure_directory(const std::string& dir, const std::string& path);
  Status put(const std::string& path, Node node);
  void remove_lower(const std::string& dir, bool itself);

  const Limits limits_;
  Nodes nodes_;
  unsigned layer_ = 0;
  std::uint64_t next_inode_ = 1;
  std::uint64_t entries_ = 0, bytes_ = 0, metadata_ = 0;
  std::set<std::string> whiteouts_;    // of this layer
  std::optional<std::string> parent_;  // known to be a directory
};

}  // namespace hm::image
