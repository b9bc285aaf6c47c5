#include "fs/node_table.h"

#include <algorithm>
#include <cstring>
#include <mutex>

namespace hm::fs {

namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr std::size_t kMostChunks = std::size_t{1} << 12;  // positions are 32 bits
constexpr std::size_t kFirstSlots = 1024;

std::size_t mixed(std::size_t hash) {
  hash ^= hash >> 32;
  hash *= 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

std::size_t hash_of(NodeTable::Id parent, std::string_view name) {
  return mixed(std::hash<std::string_view>{}(name) + parent * 0xff51afd7ed558ccdULL);
}

std::size_t hash_of(const View::Node& node) {
  const std::uint64_t fields[] = {static_cast<std::uint64_t>(node.entry.kind),
                                  node.entry.mode,
                                  node.entry.uid,
                                  node.entry.gid,
                                  node.origin,
                                  static_cast<std::uint64_t>(node.moment_ns)};
  std::size_t hash = 0;
  for (const std::uint64_t field : fields) hash = mixed(hash + field);
  return hash;
}

}  // namespace

std::optional<std::uint32_t> TextArena::add(std::string_view text) {
  const auto length = static_cast<std::uint16_t>(text.size());
  if (length != text.size()) return std::nullopt;
  const std::size_t need = sizeof length + text.size();
  if (chunks_.empty() || kChunk - used_ < need) {
    if (chunks_.size() == kMostChunks) return std::nullopt;
    chunks_.push_back(std::make_unique_for_overwrite<char[]>(kChunk));
    used_ = 0;
  }
  char* to = chunks_.back().get() + used_;
  std::memcpy(to, &length, sizeof length);
  std::memcpy(to + sizeof length, text.data(), text.size());
  const std::size_t position = (chunks_.size() - 1) * kChunk + used_;
  used_ += need;
  return static_cast<std::uint32_t>(position);
}

std::string_view TextArena::at(std::uint32_t position) const {
  const char* from = chunks_[position / kChunk].get() + position % kChunk;
  std::uint16_t length = 0;
  std::memcpy(&length, from, sizeof length);
  return {from + sizeof length, length};
}

NodeTable::NodeTable(View::Node root, Id most)
    : most_(std::min(most, kWhole)), slots_(kFirstSlots) {
  (void)add(0, "", std::move(root));  // the first always fits
}

// Where (parent, name) is, or would be.
std::size_t NodeTable::slot(Id parent, std::string_view name) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash_of(parent, name) & mask;; at = (at + 1) & mask) {
    if (slots_[at] == 0) return at;
    const Record& item = records_[slots_[at] - 1];
    if (item.parent == parent && texts_.at(item.name) == name) return at;
  }
}

void NodeTable::grow() {
  slots_.assign(slots_.size() * 2, 0);
  Id id = 0;
  for (const Record& item : records_) slots_[slot(item.parent, texts_.at(item.name))] = ++id;
}

Result<std::uint32_t> NodeTable::shape_of(View::Node node) {
  Shape shape{std::move(node), false};
  shape.moment_is_mtime = shape.node.moment_ns == shape.node.mtime_ns;
  if (shape.moment_is_mtime) shape.node.moment_ns = 0;
  shape.node.path.clear();
  shape.node.entry.size = 0;
  shape.node.entry.target.clear();
  shape.node.mtime_ns = 0;
  const std::size_t hash = hash_of(shape.node);
  const auto [first, last] = shapes_by_hash_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    if (shapes_[it->second] == shape) return it->second;
  }
  shape.node.path.shrink_to_fit();
  shapes_.push_back(std::move(shape));
  const auto index = static_cast<std::uint32_t>(shapes_.size() - 1);
  shapes_by_hash_.emplace(hash, index);
  return index;
}

Result<NodeTable::Id> NodeTable::add(Id parent, std::string_view name,
                                     std::optional<View::Node> node) {
  const auto full = [] { return fail(ErrorCode::kIo, "more names than a session can remember"); };
  const auto text = texts_.add(name);
  if (!text || records_.size() >= most_) return full();
  Record item{parent, *text};
  if (node) {
    const bool is_link = node->entry.kind == EntryKind::kSymlink;
    const auto target = is_link ? texts_.add(node->entry.target) : std::nullopt;
    const bool is_whole = node->entry.kind == EntryKind::kDirectory ||
                          !node->entry.link_group.empty() || (is_link && !target);
    item.mtime_ns = node->mtime_ns;
    item.detail = target.value_or(0);
    if (node->entry.kind == EntryKind::kFile) item.detail = node->entry.size;
    if (is_whole) {
      item.shape = kWhole;
      item.detail = whole_.size();
      whole_.push_back({std::move(*node), nullptr});
    } else {
      HM_ASSIGN(item.shape, shape_of(std::move(*node)));
    }
  }
  records_.push_back(item);
  const auto id = static_cast<Id>(records_.size());
  if (records_.size() * 10 > slots_.size() * 7) {
    grow();
  } else {
    slots_[slot(parent, name)] = id;
  }
  return id;
}

std::optional<NodeTable::Id> NodeTable::find(Id parent, std::string_view name) const {
  const std::shared_lock lock(mutex_);
  const Id id = slots_[slot(parent, name)];
  return id == 0 ? std::nullopt : std::optional(id);
}

Result<std::pair<NodeTable::Id, bool>> NodeTable::insert(Id parent, std::string_view name,
                                                         std::optional<View::Node> node) {
  const std::unique_lock lock(mutex_);
  if (const Id known = slots_[slot(parent, name)]; known != 0) return std::pair(known, false);
  HM_ASSIGN(const Id id, add(parent, name, std::move(node)));
  return std::pair(id, true);
}

const NodeTable::Record* NodeTable::record(Id id) const {
  return id == 0 || id > records_.size() ? nullptr : &records_[id - 1];
}

std::string NodeTable::path_of(const Record& item) const {
  if (item.shape == kWhole) return whole_[item.detail].node.path;
  const Record* parent = record(item.parent);
  // Only a directory is looked into.
  const bool known = parent != nullptr && parent->shape == kWhole;
  return join_path(known ? whole_[parent->detail].node.path : "", texts_.at(item.name));
}

View::Node NodeTable::rebuilt(const Record& item) const {
  if (item.shape == kWhole) return whole_[item.detail].node;
  const Shape& shape = shapes_[item.shape];
  View::Node node = shape.node;
  node.path = path_of(item);
  node.mtime_ns = item.mtime_ns;
  if (shape.moment_is_mtime) node.moment_ns = item.mtime_ns;
  if (node.entry.kind == EntryKind::kSymlink) {
    node.entry.target = texts_.at(static_cast<std::uint32_t>(item.detail));
  } else {
    node.entry.size = item.detail;
  }
  return node;
}

std::optional<View::Node> NodeTable::node(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  if (item == nullptr || item->shape == kAbsent) return std::nullopt;
  return rebuilt(*item);
}

const View::Node* NodeTable::directory(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  if (item == nullptr || item->shape != kWhole) return nullptr;
  const View::Node& node = whole_[item->detail].node;
  return node.entry.kind == EntryKind::kDirectory ? &node : nullptr;
}

std::string NodeTable::path(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  return item == nullptr ? std::string() : path_of(*item);
}

NodeTable::Id NodeTable::parent(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  return item == nullptr || id == kRoot ? 0 : item->parent;
}

NodeTable::Id NodeTable::last() const {
  const std::shared_lock lock(mutex_);
  return static_cast<Id>(records_.size());
}

bool NodeTable::set_content(Id id, const Digest& content) {
  const std::unique_lock lock(mutex_);
  if (record(id) == nullptr || records_[id - 1].content != 0) return false;
  contents_.push_back(content);
  records_[id - 1].content = static_cast<std::uint32_t>(contents_.size());
  return true;
}

bool NodeTable::set_listing(Id id, std::shared_ptr<const PackedListing> listing) {
  const std::unique_lock lock(mutex_);
  const Record* item = record(id);
  if (item == nullptr || item->shape != kWhole || whole_[item->detail].listing) return false;
  whole_[item->detail].listing = std::move(listing);
  return true;
}

std::optional<Digest> NodeTable::content(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  if (item == nullptr || item->content == 0) return std::nullopt;
  return contents_[item->content - 1];
}

std::shared_ptr<const PackedListing> NodeTable::listing(Id id) const {
  const std::shared_lock lock(mutex_);
  const Record* item = record(id);
  return item == nullptr || item->shape != kWhole ? nullptr : whole_[item->detail].listing;
}

}  // namespace hm::fs
