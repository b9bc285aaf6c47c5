// PinTable: what a LiveSource remembers of each path it was asked about, in little memory.
//
// A step may look at a million names: a pin takes 88 bytes, its name and about 6 bytes of index.
// Whatever few paths have (a symlink's target, attributes, a listing) is beside it. A path is known
// by its parent's pin and its name; pins are never removed.
//
// Thread-safety: none; the owner locks. References to pins stay valid while others are added, and
// what is in a pin may be read (stat_of too) by whoever guards that pin.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "fs/live_rules.h"

namespace hm::fs {

struct Pin {
  // Of the fewest.
  struct More {
    std::uint64_t rdev = 0;
    std::string target;
    Xattrs xattrs;
    bool foreign = false;
    std::shared_ptr<const Listing> listing;
  };

  const char* name = nullptr;  // not terminated
  std::unique_ptr<More> more;
  std::uint64_t inode = 0, size = 0;
  std::int64_t mtime_ns = 0, ctime_ns = 0;
  std::uint32_t parent = 0, next_sibling = 0, first_child = 0;  // 0: none, the root is no child
  std::uint32_t hash = 0;                                       // of the path
  const Digest* content = nullptr;
  std::uint32_t uid = 0, gid = 0;
  std::uint16_t mode = 0, device = 0;  // place among the devices
  std::uint16_t name_size = 0;
  EntryKind kind = EntryKind::kFile;
  bool resolved : 1 = false;
  bool present : 1 = false;
  bool captured : 1 = false;
  bool hashed : 1 = false;  // `content` comes from the bytes, not from what was known of them
  // The stamp had rested when the content or the listing was taken: while it stays, so do they. One
  // that rests only since then says nothing, see file_age.h.
  bool lasts : 1 = false;

  More& with_more();
  const Listing* listing() const { return more ? more->listing.get() : nullptr; }
  bool foreign() const { return more && more->foreign; }
};

class PinTable {
 public:
  using Id = std::uint32_t;
  static constexpr Id kRoot = 0;

  PinTable();

  std::optional<Id> find(std::string_view path) const;
  // The pin of `path`; it and its parents are made where they are missing.
  Id at(std::string_view path);
  Pin& operator[](Id id) { return pins_[id]; }
  const Pin& operator[](Id id) const { return pins_[id]; }

  void set_stat(Pin& pin, const std::optional<LiveStat>& stat);
  std::optional<LiveStat> stat_of(const Pin& pin) const;
  void set_content(Pin& pin, const Digest& digest);

 private:
  struct Device {          // nothing is written for those that there never are
    std::uint64_t number;  // st_dev
    std::uint64_t stands;  // LiveStat::device, if it has one
    bool has_stand;
    bool operator==(const Device&) const = default;
  };

  std::optional<Id> find(std::string_view path, std::uint32_t hash) const;
  std::uint16_t place_of(const Device& device);
  bool is_at(Id id, std::string_view path) const;
  Id add(Id parent, std::string_view name, std::uint32_t hash);
  const char* keep_name(std::string_view name);
  void grow_index();
  void index(Id id);

  std::deque<Pin> pins_;
  std::vector<Id> slots_;  // open addressing; 0 (the root is never looked for) is free
  std::vector<std::unique_ptr<char[]>> names_;
  std::size_t names_left_ = 0;         // bytes of the last block
  std::unique_ptr<Device[]> devices_;  // kDevices of them, never moved; few are ever touched
  std::size_t device_count_ = 0;
  std::deque<Digest> contents_;
};

}  // namespace hm::fs
