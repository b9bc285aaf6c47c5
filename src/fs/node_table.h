// NodeTable: what a session knows of every name that it served, in about 60 bytes each.
//
// A node is a name in a directory, present or absent, with what was shown of it. Ids are dense,
// from kRoot; a node is never changed or removed. Most files look alike but for name, size and
// time: the rest of their View::Node is kept once, as a shape. Names and symlink targets are in one
// arena, and an open-addressing table of ids finds a node by (parent, name). Directories and
// members of link groups are few: their View::Node is kept as it is. Beside that, the digest of a
// file that was read and the names of a directory that was listed: the first to set one wins.
//
// Thread-safe; no lock is held while anything but the table itself is looked at.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fs/packed_listing.h"
#include "fs/view.h"
#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::fs {

// Texts of up to 64 KiB, 4 GiB in all. One thread.
class TextArena {
 public:
  std::optional<std::uint32_t> add(std::string_view text);  // nullopt: full, or too long
  std::string_view at(std::uint32_t position) const;

 private:
  std::vector<std::unique_ptr<char[]>> chunks_;
  std::size_t used_ = 0;  // of the last chunk
};

class NodeTable {
 public:
  using Id = std::uint32_t;
  static constexpr Id kRoot = 1;

  // At most `most` names, and never more than fit.
  explicit NodeTable(View::Node root, Id most = UINT32_MAX);

  std::optional<Id> find(Id parent, std::string_view name) const;
  // The node of (parent, name); of two racing calls the first wins (second: true), and both get its
  // id. nullopt as `node`: absent. An error when there are more names than fit.
  Result<std::pair<Id, bool>> insert(Id parent, std::string_view name,
                                     std::optional<View::Node> node);

  // Of an absent node, and of an id that there is not: nullopt, null.
  std::optional<View::Node> node(Id id) const;
  // Valid as long as the table; null for what is no directory.
  const View::Node* directory(Id id) const;
  std::string path(Id id) const;
  Id parent(Id id) const;  // 0: of the root, and of an id that there is not
  Id last() const;         // the largest id

  // Whether this was the first.
  bool set_content(Id id, const Digest& content);
  bool set_listing(Id id, std::shared_ptr<const PackedListing> listing);
  std::optional<Digest> content(Id id) const;
  std::shared_ptr<const PackedListing> listing(Id id) const;

 private:
  // What many files have in common: their View::Node without path, size, time and target.
  struct Shape {
    View::Node node;
    bool moment_is_mtime = false;
    bool operator==(const Shape&) const = default;
  };
  struct Whole {
    View::Node node;
    std::shared_ptr<const PackedListing> listing;
  };
  static constexpr std::uint32_t kAbsent = UINT32_MAX;
  static constexpr std::uint32_t kWhole = UINT32_MAX - 1;
  struct Record {
    Id parent = 0;
    std::uint32_t name = 0;         // in texts_
    std::uint32_t shape = kAbsent;  // or kWhole, or an index of shapes_
    std::uint32_t content = 0;      // 1 + index of contents_; 0: not read
    std::uint64_t detail = 0;       // size; of a symlink its target in texts_; kWhole: in whole_
    std::int64_t mtime_ns = 0;
  };

  Result<Id> add(Id parent, std::string_view name, std::optional<View::Node> node);
  Result<std::uint32_t> shape_of(View::Node node);
  const Record* record(Id id) const;
  std::string path_of(const Record& item) const;
  View::Node rebuilt(const Record& item) const;
  std::size_t slot(Id parent, std::string_view name) const;
  void grow();

  const Id most_;
  mutable std::shared_mutex mutex_;  // guards everything below
  TextArena texts_;
  std::deque<Record> records_;
  std::vector<Id> slots_;  // open addressing, linear probing; a power of two, 0: free
  std::deque<Shape> shapes_;
  std::unordered_multimap<std::size_t, std::uint32_t> shapes_by_hash_;
  std::deque<Whole> whole_;  // pointers stay valid
  std::deque<Digest> contents_;
};

}  // namespace hm::fs
