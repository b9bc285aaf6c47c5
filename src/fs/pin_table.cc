#include "fs/pin_table.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace hm::fs {

namespace {

constexpr std::size_t kNameBlock = std::size_t{64} * 1024;  // bytes
constexpr std::size_t kFirstSlots = 64;                     // a power of two
constexpr std::size_t kDevices = 65535;
constexpr std::uint32_t kRootHash = 0x9e3779b9;

std::uint32_t hash_below(std::uint32_t parent, std::string_view name) {
  const std::size_t own = std::hash<std::string_view>{}(name);
  std::uint64_t mixed = (own ^ parent) * 0x9e3779b97f4a7c15ULL;
  mixed ^= mixed >> 32;
  return static_cast<std::uint32_t>(mixed);
}

std::uint32_t hash_of(std::string_view path) {
  std::uint32_t hash = kRootHash;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    hash = hash_below(hash, path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return hash;
}

}  // namespace

Pin::More& Pin::with_more() {
  if (!more) more = std::make_unique<More>();
  return *more;
}

PinTable::PinTable()
    : slots_(kFirstSlots), devices_(std::make_unique_for_overwrite<Device[]>(kDevices)) {
  pins_.emplace_back().hash = kRootHash;
}

std::optional<PinTable::Id> PinTable::find(std::string_view path) const {
  return find(path, hash_of(path));
}

std::optional<PinTable::Id> PinTable::find(std::string_view path, std::uint32_t hash) const {
  if (path.empty()) return kRoot;
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash & mask; slots_[at] != 0; at = (at + 1) & mask) {
    if (pins_[slots_[at]].hash == hash && is_at(slots_[at], path)) return slots_[at];
  }
  return std::nullopt;
}

bool PinTable::is_at(Id id, std::string_view path) const {
  while (id != kRoot) {
    const Pin& pin = pins_[id];
    const std::string_view name(pin.name, pin.name_size);
    if (!path.ends_with(name)) return false;
    path.remove_suffix(name.size());
    if (pin.parent == kRoot) return path.empty();
    if (!path.ends_with('/')) return false;
    path.remove_suffix(1);
    id = pin.parent;
  }
  return path.empty();
}

PinTable::Id PinTable::at(std::string_view path) {
  const std::uint32_t hash = hash_of(path);
  if (const auto known = find(path, hash)) return *known;
  const Id parent = at(parent_path(path));
  return add(parent, base_name(path), hash);
}

PinTable::Id PinTable::add(Id parent, std::string_view name, std::uint32_t hash) {
  if ((pins_.size() + 1) * 4 > slots_.size() * 3) grow_index();
  const Id id = static_cast<Id>(pins_.size());
  Pin& pin = pins_.emplace_back();
  pin.name = keep_name(name);
  pin.name_size = static_cast<std::uint16_t>(name.size());
  pin.parent = parent;
  pin.hash = hash;
  pin.next_sibling = pins_[parent].first_child;
  pins_[parent].first_child = id;
  index(id);
  return id;
}

const char* PinTable::keep_name(std::string_view name) {
  if (names_left_ < name.size()) {
    names_.push_back(std::make_unique_for_overwrite<char[]>(kNameBlock));
    names_left_ = kNameBlock;
  }
  char* at = names_.back().get() + (kNameBlock - names_left_);
  std::memcpy(at, name.data(), name.size());
  names_left_ -= name.size();
  return at;
}

void PinTable::grow_index() {
  slots_.assign(slots_.size() * 2, 0);
  for (Id id = 1; id < pins_.size(); ++id) index(id);
}

void PinTable::index(Id id) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = pins_[id].hash & mask;
  while (slots_[at] != 0) at = (at + 1) & mask;
  slots_[at] = id;
}

void PinTable::set_stat(Pin& pin, const std::optional<LiveStat>& stat) {
  pin.resolved = true;
  pin.present = stat.has_value();
  if (!stat) return;
  pin.kind = stat->kind;
  pin.mode = static_cast<std::uint16_t>(stat->mode);
  pin.uid = stat->uid;
  pin.gid = stat->gid;
  pin.inode = stat->stamp.inode;
  pin.size = stat->stamp.size;
  pin.mtime_ns = stat->stamp.mtime_ns;
  pin.ctime_ns = stat->stamp.ctime_ns;
  pin.device = place_of({stat->stamp.device, stat->device.value_or(0), stat->device.has_value()});
  if (stat->rdev == 0 && stat->target.empty() && stat->xattrs.empty() && !stat->foreign) return;
  Pin::More& more = pin.with_more();
  more.rdev = stat->rdev;
  more.target = stat->target;
  more.xattrs = stat->xattrs;
  more.foreign = stat->foreign;
}

std::optional<LiveStat> PinTable::stat_of(const Pin& pin) const {
  if (!pin.present) return std::nullopt;
  LiveStat stat;
  stat.kind = pin.kind;
  stat.mode = pin.mode;
  stat.uid = pin.uid;
  stat.gid = pin.gid;
  const Device& device = devices_[pin.device];
  stat.stamp = {device.number, pin.inode, pin.size, pin.mtime_ns, pin.ctime_ns};
  if (device.has_stand) stat.device = device.stands;
  if (!pin.more) return stat;
  stat.rdev = pin.more->rdev;
  stat.target = pin.more->target;
  stat.xattrs = pin.more->xattrs;
  stat.foreign = pin.more->foreign;
  return stat;
}

// Of more devices than there is room for the last ones look as one that is always another.
std::uint16_t PinTable::place_of(const Device& device) {
  Device* const end = devices_.get() + device_count_;
  Device* known = std::find(devices_.get(), end, device);
  if (known == end && device_count_ == kDevices) {
    *--known = {UINT64_MAX, 0, false};
  } else if (known == end) {
    *known = device;
    device_count_ += 1;
  }
  return static_cast<std::uint16_t>(known - devices_.get());
}

void PinTable::set_content(Pin& pin, const Digest& digest) {
  pin.content = &contents_.emplace_back(digest);
}

}  // namespace hm::fs
