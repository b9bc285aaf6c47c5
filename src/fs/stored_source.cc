#include "fs/stored_source.h"

#include <algorithm>

namespace hm::fs {

Result<std::optional<SourceEntry>> StoredSource::lookup(const std::string& path) {
  const LayerEntry* item = tree_->find(path);
  if (item == nullptr) return std::optional<SourceEntry>{};
  SourceEntry found{item->entry, item->mtime_ns};
  if (owners_ == Owners::kSquashed) found.entry.uid = found.entry.gid = 0;
  return std::optional(std::move(found));
}

Result<Listing> StoredSource::list(const std::string& path) {
  Listing names;
  const auto children = tree_->children(path);
  names.reserve(children.size());
  for (const std::uint32_t index : children) {
    const LayerEntry& item = tree_->entries()[index];
    names.push_back({std::string(base_name(item.path)), item.entry.kind});
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<Digest> StoredSource::digest(const std::string& path) {
  const LayerEntry* item = tree_->find(path);
  if (item == nullptr || item->entry.kind != EntryKind::kFile) {
    return fail(ErrorCode::kNotFound, "/" + path + ": not a file of the image");
  }
  return item->content;
}

bool StoredSource::has_link_group(const std::string& group) const {
  const LayerEntry* first = tree_->find(group);
  return first != nullptr && first->entry.link_group == group;
}

bool is_whole_tree(const Layer& layer) {
  return layer.find("") != nullptr &&
         std::none_of(layer.entries().begin(), layer.entries().end(), [](const LayerEntry& item) {
           return item.whiteout || item.opaque || item.time_of != TimeOf::kRun;
         });
}

}  // namespace hm::fs
