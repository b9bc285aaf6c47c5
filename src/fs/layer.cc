#include "fs/layer.h"

#include <algorithm>
#include <bit>
#include <map>
#include <unordered_map>

#include "fs/skeleton.h"
#include "store/util/bytes.h"

namespace hm::fs {

namespace {

constexpr std::string_view kMagic = "hmlayer2";
constexpr std::uint8_t kWhiteoutType = 7;
// What an entry takes at least; keeps a hostile count from reserving memory.
constexpr std::size_t kLeastEntryBytes = 60;

tl::unexpected<Error> corrupt(const std::string& what) {
  return fail(ErrorCode::kCorrupt, "layer: " + what);
}

void encode_entry(Writer& out, const LayerEntry& item, std::uint64_t group) {
  const Entry& entry = item.entry;
  out.text(item.path);
  out.byte(item.whiteout ? kWhiteoutType : static_cast<std::uint8_t>(entry.kind));
  out.byte(item.opaque ? 1 : 0);
  for (const std::uint64_t number : {std::uint64_t{entry.mode}, std::uint64_t{entry.uid},
                                     std::uint64_t{entry.gid}, entry.size, entry.rdev}) {
    out.number(number);
  }
  if (!item.whiteout && entry.kind == EntryKind::kFile) out.raw(item.content.raw());
  out.text(entry.target);
  out.number(entry.xattrs.size());
  for (const auto& [name, value] : entry.xattrs) {
    out.text(name);
    out.text(value);
  }
  out.number(group);
  out.byte(static_cast<std::uint8_t>(item.time_of));
  if (item.time_of == TimeOf::kKept) out.number(static_cast<std::uint64_t>(item.mtime_ns));
  if (item.time_of == TimeOf::kTaken) out.text(item.time_path);
}

std::uint32_t narrow(std::uint64_t value, bool& bad) {
  if (value > 0xffffffffU) bad = true;
  return static_cast<std::uint32_t>(value);
}

// Reads one entry; `group` as in the format. False when the bytes cannot be an entry.
bool decode_entry(Reader& in, LayerEntry& item, std::uint64_t& group) {
  bool bad = false;
  item.path = in.text();
  const std::uint8_t type = in.byte();
  const std::uint8_t opaque = in.byte();
  if (type > kWhiteoutType || opaque > 1) return false;
  item.whiteout = type == kWhiteoutType;
  item.opaque = opaque == 1;
  item.entry.kind = item.whiteout ? EntryKind::kFile : static_cast<EntryKind>(type);
  item.entry.mode = narrow(in.number(), bad);
  item.entry.uid = narrow(in.number(), bad);
  item.entry.gid = narrow(in.number(), bad);
  item.entry.size = in.number();
  item.entry.rdev = in.number();
  if (!item.whiteout && item.entry.kind == EntryKind::kFile) {
    const auto digest = Digest::from_raw(in.raw(32));
    if (!digest) return false;
    item.content = *digest;
  }
  item.entry.target = in.text();
  const std::uint64_t xattrs = in.number();
  if (xattrs > in.left() / 16) return false;
  for (std::uint64_t i = 0; i < xattrs; ++i) {
    std::string name(in.text());
    item.entry.xattrs.emplace_back(std::move(name), std::string(in.text()));
  }
  group = in.number();
  const std::uint8_t time_of = in.byte();
  if (time_of > static_cast<std::uint8_t>(TimeOf::kTaken)) return false;
  item.time_of = static_cast<TimeOf>(time_of);
  if (item.time_of == TimeOf::kKept) item.mtime_ns = static_cast<std::int64_t>(in.number());
  if (item.time_of == TimeOf::kTaken) item.time_path = in.text();
  return !bad && !in.failed();
}

// Two names of one inode differ in nothing but the name.
bool is_same_inode(const LayerEntry& a, const LayerEntry& b) {
  Entry left = a.entry;
  Entry right = b.entry;
  left.link_group = right.link_group = "";
  return left == right && a.content == b.content && a.time_of == b.time_of &&
         a.mtime_ns == b.mtime_ns && a.time_path == b.time_path;
}

// Why one entry, taken alone, cannot be; "" when it can.
std::string entry_fault(const LayerEntry& item) {
  const Entry& entry = item.entry;
  const bool is_file = entry.kind == EntryKind::kFile && !item.whiteout;
  const bool is_link = entry.kind == EntryKind::kSymlink;
  const bool is_device =
      entry.kind == EntryKind::kCharDevice || entry.kind == EntryKind::kBlockDevice;
  if (!is_valid_path(item.path)) return "bad path";
  if (is_mounted_path(item.path)) return "path of the sandbox's own";
  if (item.path.empty() && entry.kind != EntryKind::kDirectory) return "root is no directory";
  if (item.whiteout && item.opaque) return "opaque whiteout";
  if (item.opaque && entry.kind != EntryKind::kDirectory) return "opaque but no directory";
  if (entry.mode > 07777) return "bad mode";
  if (!is_file && entry.size != 0) return "size without a file";
  if (entry.size > static_cast<std::uint64_t>(INT64_MAX)) return "absurd size";
  if (is_link != !entry.target.empty()) return "bad symlink target";
  if (entry.target.size() > 4095 || entry.target.find('\0') != std::string::npos) {
    return "bad symlink target";
  }
  if (is_device != (entry.rdev != 0)) return "bad device number";
  if (!is_valid_path(item.time_path)) return "bad path of a time";
  if (!std::is_sorted(entry.xattrs.begin(), entry.xattrs.end())) return "unsorted xattrs";
  return "";
}

// Where `key` is in a table, or would be put. `key_of`: of the entry with an index.
template <class Table, class KeyOf>
auto& slot_of(Table& table, std::string_view key, KeyOf key_of) {
  const std::size_t mask = table.size() - 1;
  const std::size_t hash = std::hash<std::string_view>{}(key);
  std::size_t at = hash & mask;
  while (table[at] != 0 && key_of(table[at] - 1) != key) at = (at + 1) & mask;
  return table[at];
}

}  // namespace

std::shared_ptr<const Layer> Layer::build(std::vector<LayerEntry> entries) {
  std::shared_ptr<Layer> layer(new Layer());
  layer->entries_ = std::move(entries);
  std::sort(layer->entries_.begin(), layer->entries_.end(),
            [](const auto& a, const auto& b) { return PathLess{}(a.path, b.path); });
  std::map<std::string, std::vector<LayerEntry*>> groups;
  for (LayerEntry& item : layer->entries_) {
    if (!item.entry.link_group.empty()) groups[item.entry.link_group].push_back(&item);
  }
  for (const auto& [name, members] : groups) {
    for (LayerEntry* item : members) {
      item->entry.nlink = static_cast<std::uint32_t>(members.size());
      item->entry.link_group = members.size() > 1 ? members.front()->path : "";
    }
  }
  layer->index();
  return layer;
}

std::string Layer::encode() const {
  Writer out;
  out.raw(kMagic);
  out.number(entries_.size());
  for (const LayerEntry& item : entries_) {
    const std::string& group = item.entry.link_group;
    const auto first = group.empty() ? 0 : 1 + (find(group) - entries_.data());
    encode_entry(out, item, static_cast<std::uint64_t>(first));
  }
  return out.take();
}

std::string Layer::encode_mtimes() const {
  Writer out;
  for (const LayerEntry& item : entries_) out.number(static_cast<std::uint64_t>(item.mtime_ns));
  return out.take();
}

Result<std::shared_ptr<const Layer>> Layer::decode(std::string_view blob, std::string_view mtimes) {
  Reader in(blob);
  if (in.raw(kMagic.size()) != kMagic) return corrupt("unknown format");
  const std::uint64_t count = in.number();
  if (count > in.left() / kLeastEntryBytes) return corrupt("absurd number of entries");
  if (!mtimes.empty() && mtimes.size() != count * 8) return corrupt("times do not fit");
  Reader times(mtimes);
  std::shared_ptr<Layer> layer(new Layer());
  layer->entries_.resize(count);
  std::vector<std::uint64_t> groups(count);
  for (std::size_t i = 0; i < count; ++i) {
    LayerEntry& item = layer->entries_[i];
    if (!decode_entry(in, item, groups[i])) return corrupt("malformed entry");
    const auto mtime = static_cast<std::int64_t>(times.number());
    const bool settled = item.time_of != TimeOf::kRun;
    if (!mtimes.empty() && settled && mtime != item.mtime_ns) return corrupt("bad time");
    if (!mtimes.empty()) item.mtime_ns = mtime;
    if (groups[i] == 0) continue;
    const std::uint64_t first = groups[i] - 1;
    if (first > i || groups[first] != groups[i]) return corrupt("bad link group");
    const LayerEntry& head = layer->entries_[first];
    if (item.whiteout || item.entry.kind == EntryKind::kDirectory || !is_same_inode(head, item)) {
      return corrupt("bad link group");
    }
    item.entry.link_group = head.path;
  }
  if (!in.done()) return corrupt("bytes after the last entry");
  HM_TRY(layer->check());
  std::unordered_map<std::string, std::uint32_t> members;
  for (const LayerEntry& item : layer->entries_) {
    if (!item.entry.link_group.empty()) members[item.entry.link_group] += 1;
  }
  for (LayerEntry& item : layer->entries_) {
    if (item.entry.link_group.empty()) continue;
    item.entry.nlink = members[item.entry.link_group];
    if (item.entry.nlink < 2) return corrupt("bad link group");
  }
  layer->index();
  return std::shared_ptr<const Layer>(std::move(layer));
}

Status Layer::check() const {
  std::vector<std::string_view> open_dirs = {""};  // ancestors of the entry at hand
  const LayerEntry* previous = nullptr;
  for (const LayerEntry& item : entries_) {
    if (const std::string fault = entry_fault(item); !fault.empty()) {
      return corrupt(printable(item.path) + ": " + fault);
    }
    if (previous != nullptr && !PathLess{}(previous->path, item.path)) {
      return corrupt("unsorted or duplicate path " + printable(item.path));
    }
    previous = &item;
    if (item.path.empty()) continue;
    while (!open_dirs.empty() && open_dirs.back() != parent_path(item.path)) open_dirs.pop_back();
    if (open_dirs.empty()) return corrupt("no parent for " + printable(item.path));
    if (!item.whiteout && item.entry.kind == EntryKind::kDirectory) open_dirs.push_back(item.path);
  }
  return {};
}

void Layer::index() {
  const std::size_t slots = std::bit_ceil(2 * entries_.size() + 1);
  by_path_.assign(slots, 0);
  by_dir_.assign(slots, 0);
  next_.assign(entries_.size(), 0);
  std::vector<std::uint32_t> last(entries_.size());  // of a directory, by its first entry
  const auto path_of = [&](std::uint32_t i) { return std::string_view(entries_[i].path); };
  const auto dir_of = [&](std::uint32_t i) { return parent_path(entries_[i].path); };
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    const std::string_view path = entries_[i].path;
    has_xattrs_ = has_xattrs_ || !entries_[i].entry.xattrs.empty();
    if (std::uint32_t& slot = slot_of(by_path_, path, path_of); slot == 0) slot = i + 1;
    if (path.empty()) continue;
    std::uint32_t& first = slot_of(by_dir_, parent_path(path), dir_of);
    if (first == 0) {
      first = i + 1;
    } else {
      next_[last[first - 1]] = i + 1;
    }
    last[first - 1] = i;
  }
}

const LayerEntry* Layer::find(std::string_view path) const {
  const std::uint32_t slot =
      slot_of(by_path_, path, [&](std::uint32_t i) { return std::string_view(entries_[i].path); });
  return slot == 0 ? nullptr : &entries_[slot - 1];
}

std::vector<std::uint32_t> Layer::children(std::string_view dir) const {
  std::vector<std::uint32_t> out;
  std::uint32_t at =
      slot_of(by_dir_, dir, [&](std::uint32_t i) { return parent_path(entries_[i].path); });
  for (; at != 0; at = next_[at - 1]) out.push_back(at - 1);
  return out;
}

}  // namespace hm::fs
