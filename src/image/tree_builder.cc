#include "image/tree_builder.h"

#include <climits>
#include <unordered_set>

#include "fs/live_rules.h"
#include "fs/skeleton.h"

namespace hm::image {

namespace {

using fs::EntryKind;
using fs::printable;

// In front of each name, for the tables.
constexpr std::uint64_t kOverhead = 64;
// No kernel takes more for one file.
constexpr std::size_t kMostXattrBytes = 65536;

tl::unexpected<Error> refuse(const std::string& path, const std::string& what) {
  std::string name = printable(path);
  if (name.size() > 200) name = name.substr(0, 200) + "...";
  return fail(ErrorCode::kInvalid, "/" + name + ": " + what);
}

TreeEntry implied_directory() {
  TreeEntry item;
  item.entry.kind = EntryKind::kDirectory;
  item.entry.mode = 0755;
  return item;
}

}  // namespace

Result<std::string> TreeBuilder::path_of(std::string_view name) {
  const std::string shown = printable(name.substr(0, 200));
  if (name.starts_with('/')) {
    return fail(ErrorCode::kInvalid,
                shown + ": an absolute path, where all are relative to the root");
  }
  std::string path;
  while (!name.empty()) {
    const std::size_t slash = std::min(name.find('/'), name.size());
    const std::string_view part = name.substr(0, slash);
    name.remove_prefix(std::min(slash + 1, name.size()));
    if (part.empty() || part == ".") continue;
    if (part == "..") return fail(ErrorCode::kInvalid, shown + ": leads out of the tree");
    if (!fs::is_valid_name(part)) return fail(ErrorCode::kInvalid, shown + ": cannot be a name");
    if (!path.empty()) path.push_back('/');
    path.append(part);
  }
  if (path.size() >= PATH_MAX) return fail(ErrorCode::kInvalid, shown + ": the path is too long");
  return path;
}

Status TreeBuilder::reserve(std::uint64_t bytes) {
  if (bytes > limits_.bytes - bytes_) {
    return fail(ErrorCode::kInvalid, "its files are larger than the limit of " +
                                         std::to_string(limits_.bytes) +
                                         " bytes (--max-size sets another)");
  }
  bytes_ += bytes;
  return {};
}

Status TreeBuilder::count(const std::string& path, const TreeEntry& item) {
  std::uint64_t xattrs = 0;
  for (const auto& [name, value] : item.entry.xattrs) xattrs += name.size() + value.size();
  if (xattrs > kMostXattrBytes) return refuse(path, "its extended attributes are too large");
  entries_ += 1;
  metadata_ += kOverhead + path.size() + item.entry.target.size() + xattrs;
  if (entries_ > limits_.entries) {
    return fail(ErrorCode::kInvalid,
                "it has more than " + std::to_string(limits_.entries) + " entries");
  }
  if (metadata_ > limits_.metadata) {
    return fail(ErrorCode::kInvalid, "its names and attributes take more than " +
                                         std::to_string(limits_.metadata) + " bytes");
  }
  return {};
}

Status TreeBuilder::ensure_parent(const std::string& path) {
  if (path.empty()) return {};
  const std::string parent(fs::parent_path(path));
  if (parent_ == parent) return {};
  HM_TRY(ensure_directory("", path));
  for (std::size_t at = 0; at < parent.size();) {
    at = std::min(parent.find('/', at + 1), parent.size());
    HM_TRY(ensure_directory(parent.substr(0, at), path));
  }
  parent_ = parent;
  return {};
}

Status TreeBuilder::ensure_directory(const std::string& dir, const std::string& path) {
  const auto it = nodes_.find(dir);
  if (it == nodes_.end()) {
    TreeEntry item = implied_directory();
    HM_TRY(count(dir, item));
    nodes_.emplace(dir, Node{std::move(item), layer_, 0, true});
  } else if (!it->second.is_directory()) {
    const bool is_link = it->second.item.entry.kind == EntryKind::kSymlink;
    return refuse(path, is_link ? "goes through the symbolic link /" + printable(dir)
                                : "is below /" + printable(dir) + ", which is no directory");
  }
  return {};
}

Status TreeBuilder::put(const std::string& path, Node node) {
  HM_TRY(ensure_parent(path));
  node.layer = layer_;
  const auto it = nodes_.find(path);
  if (it == nodes_.end()) {
    nodes_.emplace(path, std::move(node));
    return {};
  }
  Node& old = it->second;
  const bool merges = old.is_directory() && node.is_directory();
  const bool of_this_layer = old.layer == layer_ && !old.is_implied;
  // Archivers do repeat directories.
  if (of_this_layer && !merges) return refuse(path, "is there twice");
  if (old.is_directory() && !merges) {
    for (auto below = it; below != nodes_.end() && fs::is_within(below->first, path); ++below) {
      if (below->second.layer == layer_) return refuse(path, "is there twice, as a directory too");
    }
    remove_lower(path, true);
    nodes_.emplace(path, std::move(node));
    return {};
  }
  old = std::move(node);
  return {};
}

Status TreeBuilder::add(const std::string& path, TreeEntry item) {
  const fs::Entry& entry = item.entry;
  const bool is_device =
      entry.kind == EntryKind::kCharDevice || entry.kind == EntryKind::kBlockDevice;
  if (path.empty() && entry.kind != EntryKind::kDirectory) {
    return refuse(path, "the root is no directory");
  }
  if (entry.kind == EntryKind::kSymlink &&
      (entry.target.empty() || entry.target.size() >= PATH_MAX ||
       entry.target.find('\0') != std::string::npos)) {
    return refuse(path, "a symbolic link to what cannot be a path");
  }
  if (is_device && entry.rdev == 0) {
    return refuse(path, "the device 0:0, which overlay filesystems take for a deleted file");
  }
  HM_TRY(count(path, item));
  return put(path, Node{std::move(item)});
}

Status TreeBuilder::add_link(const std::string& path, const std::string& target) {
  const auto it = nodes_.find(target);
  if (path == target) return refuse(path, "a hard link to itself");
  if (it == nodes_.end()) {
    return refuse(path, "a hard link to /" + printable(target) + ", which is not there before it");
  }
  if (it->second.is_directory()) return refuse(path, "a hard link to a directory");
  if (it->second.inode == 0) it->second.inode = next_inode_++;
  Node node = it->second;
  HM_TRY(count(path, node.item));
  return put(path, std::move(node));
}

Status TreeBuilder::add_whiteout(const std::string& path) {
  if (!whiteouts_.insert(path).second) return refuse(path, "is deleted twice");
  HM_TRY(count(path, {}));
  HM_TRY(ensure_parent(path));
  remove_lower(path, true);
  return {};
}

Status TreeBuilder::add_opaque(const std::string& dir) {
  if (!whiteouts_.insert(dir + "/").second) return refuse(dir, "is made opaque twice");
  HM_TRY(count(dir, {}));
  HM_TRY(ensure_parent(fs::join_path(dir, "x")));
  remove_lower(dir, false);
  return {};
}

// Takes away what earlier layers left at and below `dir`. What this layer has there stays, with
// directories around it.
void TreeBuilder::remove_lower(const std::string& dir, bool itself) {
  std::vector<std::string> own;
  for (auto it = nodes_.lower_bound(dir); it != nodes_.end() && fs::is_within(it->first, dir);) {
    const bool stays = it->second.layer == layer_ || (!itself && it->first == dir);
    if (stays && it->first != dir) own.push_back(it->first);
    it = stays ? std::next(it) : nodes_.erase(it);
  }
  parent_.reset();
  for (const std::string& path : own) {
    for (std::size_t at = path.find('/', dir.size()); at != std::string::npos;
         at = path.find('/', at + 1)) {
      nodes_.try_emplace(path.substr(0, at), Node{implied_directory(), layer_, 0, true});
    }
  }
}

std::shared_ptr<const fs::Layer> TreeBuilder::build(const Stage& stage) const {
  std::vector<fs::LayerEntry> entries;
  entries.reserve(nodes_.size() + 1);
  if (!nodes_.contains("")) {
    fs::LayerEntry& root = entries.emplace_back();
    root.entry = implied_directory().entry;
    root.mtime_ns = fs::kFixedTimeNs;
  }
  for (const auto& [path, node] : nodes_) {
    if (fs::is_mounted_path(path)) continue;
    fs::LayerEntry& out = entries.emplace_back();
    out.path = path;
    out.entry = node.item.entry;
    out.mtime_ns = node.item.mtime_ns;
    if (node.inode != 0) out.entry.link_group = std::to_string(node.inode);
    if (out.entry.kind != EntryKind::kFile) continue;
    out.content = node.item.file ? stage.digest(*node.item.file) : Digest::of("");
  }
  return fs::Layer::build(std::move(entries));
}

std::vector<Stage::Id> TreeBuilder::files() const {
  std::unordered_set<Stage::Id> ids;
  for (const auto& [path, node] : nodes_) {
    if (node.item.file && !fs::is_mounted_path(path)) ids.insert(*node.item.file);
  }
  return {ids.begin(), ids.end()};
}

}  // namespace hm::image
