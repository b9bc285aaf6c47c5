#include "fs/view.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "fs/planted_defect.h"
#include "fs/skeleton.h"

namespace hm::fs {

namespace {

Entry skeleton_entry(const SkeletonEntry& item) {
  Entry entry;
  entry.kind = item.kind;
  entry.mode = item.mode;
  return entry;
}

}  // namespace

void place_times(ViewLayer& layer, std::span<const ViewLayer> below, std::int64_t now_ns) {
  const std::int64_t after_ns = below.empty() ? INT64_MIN : below.back().times->end_ns();
  layer.times =
      ShownTimes::place(*layer.layer, layer.started_ns, layer.captured_ns, after_ns, now_ns);
}

View::View(ViewBase base, std::vector<ViewLayer> layers, std::int64_t now_ns)
    : base_(std::move(base)),
      layers_(std::move(layers)),
      may_have_xattrs_(base_.image && base_.image->may_have_xattrs()) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!layers_[i].times) place_times(layers_[i], std::span(layers_).first(i), now_ns);
    may_have_xattrs_ = may_have_xattrs_ || layers_[i].layer->has_xattrs();
  }
}

Status View::take_layer_entry(Node& node, const LayerEntry& item, std::uint16_t layer) const {
  node.entry = item.entry;
  node.origin = kOriginFirstLayer + layer;
  if (item.entry.kind == EntryKind::kDirectory) return {};  // shows the fixed time
  return take_time(node, item, layer);
}

Status View::take_time(Node& node, const LayerEntry& item, std::uint16_t layer) const {
  const ShownTimes& times = *layers_[layer].times;
  if (item.time_of == TimeOf::kKept) {
    node.mtime_ns = node.moment_ns = item.mtime_ns;
    return {};
  }
  node.of_run = item.time_of == TimeOf::kRun;
  node.mtime_ns = node.of_run ? times.shown(item.mtime_ns) : times.begin_ns();
  node.moment_ns = times.begin_ns();
  if (node.of_run) return {};
  HM_ASSIGN(Node below, root_below(layer));
  HM_ASSIGN(const auto source, walk(std::move(below), item.time_path));
  if (!source) return {};  // the step saw it: only a damaged layer gets here
  node.mtime_ns = source->mtime_ns;
  node.moment_ns = source->moment_ns;
  node.of_run = source->of_run;
  return {};
}

Result<View::Node> View::root() const { return root_below(layers_.size()); }

Result<View::Node> View::root_below(std::size_t layers) const {
  Node node;
  node.entry.kind = EntryKind::kDirectory;
  node.entry.mode = 0755;
  node.base_ = base_.image ? Base::kImage : Base::kDefaults;
  if (base_.image) {
    HM_ASSIGN(const auto image, base_.image->lookup(""));
    if (image) node.entry = image->entry;
  }
  for (std::size_t i = layers; i-- > 0;) {
    node.layers_.push_back(static_cast<std::uint16_t>(i));
  }
  for (const std::uint16_t layer : node.layers_) {
    const LayerEntry* item = layers_[layer].layer->find("");
    if (item == nullptr) continue;
    HM_TRY(take_layer_entry(node, *item, layer));
    break;
  }
  return node;
}

std::string View::workspace_path(std::string_view path) const {
  return path == kWorkspacePath ? std::string()
                                : std::string(path.substr(kWorkspacePath.size() + 1));
}

View::BaseChild View::workspace_child(Entry entry, std::int64_t mtime_ns) const {
  entry.uid = base_.uid;
  entry.gid = base_.gid;
  return {std::move(entry), Base::kWorkspace, kOriginWorkspace, mtime_ns};
}

Result<std::optional<View::BaseChild>> View::live_child(const std::string& path, Base base) const {
  const bool in_workspace = base == Base::kWorkspace;
  const auto& source = in_workspace ? base_.workspace : base_.image;
  HM_ASSIGN(auto found, source->lookup(in_workspace ? workspace_path(path) : path));
  if (!found) return std::optional<BaseChild>{};
  if (in_workspace) return std::optional(workspace_child(std::move(found->entry), found->mtime_ns));
  return std::optional(BaseChild{std::move(found->entry), base, kOriginImage, found->mtime_ns});
}

Result<std::optional<View::BaseChild>> View::base_child(const std::string& path,
                                                        Base dir_base) const {
  const std::optional<BaseChild> absent;
  if (dir_base == Base::kNone) return absent;
  if (dir_base == Base::kWorkspace) return live_child(path, Base::kWorkspace);
  if (path == kWorkspacePath && base_.workspace) {
    // Always the same directory, however the checkout's own looks.
    return std::optional(workspace_child(skeleton_entry(*find_skeleton(path)), kFixedTimeNs));
  }
  if (dir_base == Base::kImage && path != kWorkspacePath) {
    HM_ASSIGN(auto found, live_child(path, Base::kImage));
    if (found) return found;
  }
  const SkeletonEntry* item = find_skeleton(path);
  if (item == nullptr) return absent;
  return std::optional(
      BaseChild{skeleton_entry(*item), Base::kDefaults, kOriginImage, kFixedTimeNs});
}

Result<std::optional<View::Node>> View::child(const Node& dir, std::string_view name) const {
  Node node;
  node.path = join_path(dir.path, name);
  if (const SkeletonEntry* item = find_skeleton(node.path);
      item != nullptr && item->use == SkeletonUse::kMounted) {
    node.entry = skeleton_entry(*item);
    return std::optional(std::move(node));
  }
  bool found = false;
  for (const std::uint16_t layer : dir.layers_) {
    const LayerEntry* item = layers_[layer].layer->find(node.path);
    if (item == nullptr || (item->whiteout && kPlanted == Defect::kWhiteout)) continue;
    const bool is_directory = !item->whiteout && item->entry.kind == EntryKind::kDirectory;
    if (!found && !item->whiteout) {
      HM_TRY(take_layer_entry(node, *item, layer));
      found = true;
    } else if (!found) {
      return std::optional<Node>{};
    }
    if (!is_directory || node.entry.kind != EntryKind::kDirectory) {
      return std::optional(std::move(node));
    }
    node.layers_.push_back(layer);
    if (item->opaque) return std::optional(std::move(node));
  }
  HM_ASSIGN(auto below, base_child(node.path, dir.base_));
  if (!found && !below) return std::optional<Node>{};
  if (!found) {
    node.entry = std::move(below->entry);
    node.origin = below->origin;
    node.mtime_ns = node.entry.kind == EntryKind::kDirectory ? kFixedTimeNs : below->mtime_ns;
    node.moment_ns = node.origin == kOriginWorkspace ? kFixedTimeNs : kImageMomentNs;
    node.base_ = below->base;
  } else if (below && below->entry.kind == EntryKind::kDirectory) {
    node.base_ = below->base;
  }
  return std::optional(std::move(node));
}

Result<Listing> View::list(const Node& dir) const {
  std::map<std::string, EntryKind> names;
  std::unordered_set<std::string> hidden;
  const auto add = [&](const std::string& name, EntryKind kind) {
    if (!hidden.contains(name)) names.emplace(name, kind);
  };
  for (const std::uint16_t layer : dir.layers_) {
    for (const std::uint32_t index : layers_[layer].layer->children(dir.path)) {
      const LayerEntry& item = layers_[layer].layer->entries()[index];
      const std::string name(base_name(item.path));
      if (!item.whiteout) {
        add(name, item.entry.kind);
      } else if (!names.contains(name) && kPlanted != Defect::kWhiteout) {
        hidden.insert(name);
      }
    }
  }
  if (dir.base_ == Base::kWorkspace) {
    HM_ASSIGN(const Listing below, base_.workspace->list(workspace_path(dir.path)));
    for (const DirEntry& item : below) add(item.name, item.kind);
  }
  if (dir.base_ == Base::kImage) {
    HM_ASSIGN(const Listing below, base_.image->list(dir.path));
    for (const DirEntry& item : below) {
      if (join_path(dir.path, item.name) != kWorkspacePath) add(item.name, item.kind);
    }
  }
  const bool on_skeleton = dir.base_ == Base::kImage || dir.base_ == Base::kDefaults;
  for (const SkeletonEntry& item : kSkeleton) {
    if (parent_path(item.path) != dir.path) continue;
    const std::string name(base_name(item.path));
    if (item.use == SkeletonUse::kMounted) {
      names[name] = item.kind;
    } else if (on_skeleton) {
      add(name, item.kind);
    }
  }
  Listing out;
  out.reserve(names.size());
  for (const auto& [name, kind] : names) out.push_back({name, kind});
  return out;
}

Result<std::optional<View::Node>> View::resolve(std::string_view path) const {
  HM_ASSIGN(Node node, root());
  return walk(std::move(node), path);
}

Result<std::optional<View::Node>> View::walk(Node node, std::string_view path) const {
  while (!path.empty()) {
    if (node.entry.kind != EntryKind::kDirectory) return std::optional<Node>{};
    const std::size_t slash = path.find('/');
    HM_ASSIGN(auto next, child(node, path.substr(0, slash)));
    if (!next) return std::optional<Node>{};
    node = std::move(*next);
    path = slash == std::string_view::npos ? std::string_view{} : path.substr(slash + 1);
  }
  return std::optional(std::move(node));
}

Result<Digest> View::digest(const Node& file) const {
  switch (file.base_) {
    case Base::kImage:
      return base_.image->digest(file.path);
    case Base::kWorkspace:
      return base_.workspace->digest(workspace_path(file.path));
    case Base::kDefaults:
      return Digest::of("");
    case Base::kNone:
      break;
  }
  if (file.origin < kOriginFirstLayer) return Digest::of("");
  const LayerEntry* item = layers_[file.origin - kOriginFirstLayer].layer->find(file.path);
  if (item == nullptr) return fail(ErrorCode::kNotFound, file.path + ": not in its layer");
  return item->content;
}

Result<Digest> View::capture(const Node& file) const {
  if (file.base_ == Base::kImage) return base_.image->capture(file.path);
  if (file.base_ == Base::kWorkspace) return base_.workspace->capture(workspace_path(file.path));
  return digest(file);
}

Source* View::live_source(const Node& file) const {
  const auto& source = file.base_ == Base::kWorkspace ? base_.workspace : base_.image;
  const bool in_source = file.base_ == Base::kWorkspace || file.base_ == Base::kImage;
  return in_source && source->is_live() ? source.get() : nullptr;
}

std::string View::source_path(const Node& file) const {
  return file.base_ == Base::kWorkspace ? workspace_path(file.path) : file.path;
}

Result<Digest> View::read_small(const Node& file, const store::BlobStore& blobs,
                                std::string& bytes) const {
  if (Source* live = live_source(file)) return live->read_small(source_path(file), bytes);
  HM_ASSIGN(const Digest content, digest(file));
  HM_TRY(blobs.read_whole(content, file.entry.size, bytes));
  return content;
}

Result<std::optional<LiveFile>> View::open_resting(const Node& file) const {
  if (Source* live = live_source(file)) return live->open_resting(source_path(file));
  return std::optional<LiveFile>{};
}

Result<Digest> View::hash(const Node& file) const {
  Source* live = live_source(file);
  return live != nullptr ? live->hash(source_path(file)) : digest(file);
}

void View::read_ahead(const Node& file, const store::BlobStore& blobs) const {
  if (Source* live = live_source(file)) {
    live->read_ahead(source_path(file));
  } else if (const auto content = digest(file)) {
    blobs.read_ahead(*content);
  }
}

OnDisk View::files_on_disk(const Node& dir, const store::BlobStore& blobs) const {
  if (Source* live = live_source(dir)) return live->files_on_disk(source_path(dir));
  const auto names = list(dir);
  if (!names) return {};
  OnDisk out;
  std::vector<Digest> contents;
  for (const DirEntry& item : *names) {
    if (item.kind != EntryKind::kFile) continue;
    const auto file = child(dir, item.name);
    const auto content = file && *file ? digest(**file) : Result<Digest>(Digest{});
    if (!content || content->is_zero()) continue;
    out.names.push_back(item.name);
    contents.push_back(*content);
  }
  out.fetch = [&blobs, contents = std::move(contents)](std::size_t place) {
    blobs.read_ahead(contents[place]);
  };
  return out;
}

OnDisk View::directories_on_disk(const Node& dir) const {
  Source* const live = live_source(dir);
  return live != nullptr ? live->directories_on_disk(source_path(dir)) : OnDisk{};
}

View::LivePaths View::live_paths(std::span<const std::string_view> paths) const {
  LivePaths out;
  for (const std::string_view path : paths) {
    if (!base_.workspace || !is_within(path, kWorkspacePath)) {
      out.image.push_back(path);
    } else {
      out.workspace.push_back(path.substr(std::min(path.size(), kWorkspacePath.size() + 1)));
    }
  }
  return out;
}

Result<std::optional<std::string>> View::first_moved(
    std::span<const std::string_view> paths) const {
  const LivePaths live = live_paths(paths);
  if (base_.workspace) {
    HM_ASSIGN(const auto moved, base_.workspace->first_moved(live.workspace));
    if (moved) return std::optional(join_path(kWorkspacePath, *moved));
  }
  return base_.image ? base_.image->first_moved(live.image)
                     : Result<std::optional<std::string>>(std::nullopt);
}

std::vector<store::FileDigest> View::lasting_digests(
    std::span<const std::string_view> paths) const {
  const LivePaths live = live_paths(paths);
  std::vector<store::FileDigest> out;
  if (base_.workspace) out = base_.workspace->lasting_digests(live.workspace);
  if (base_.image) {
    const auto more = base_.image->lasting_digests(live.image);
    out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

std::size_t View::link_rank(const Node& node) const {
  const std::string& group = node.entry.link_group;
  if (group.empty() || node.origin < kOriginFirstLayer) return 0;
  const auto own = layers_.begin() + static_cast<std::ptrdiff_t>(node.origin - kOriginFirstLayer);
  const auto older = std::count_if(layers_.begin(), own, [&](const ViewLayer& layer) {
    const LayerEntry* first = layer.layer->find(group);
    return first != nullptr && first->entry.link_group == group;
  });
  const bool in_image = base_.image && base_.image->has_link_group(group);
  return static_cast<std::size_t>(older) + (in_image ? 1 : 0);
}

}  // namespace hm::fs
