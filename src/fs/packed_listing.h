// PackedListing: the names of one directory in one piece of memory, to be kept while it is served.
//
// Per name its kind, its length and its bytes: a Listing needs three times as much. Immutable.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"

namespace hm::fs {

class PackedListing {
 public:
  explicit PackedListing(const Listing& names) {
    std::size_t bytes = 0;
    for (const DirEntry& item : names) bytes += kHead + item.name.size();
    bytes_.reserve(bytes);
    for (const DirEntry& item : names) {
      if (count_++ % kStride == 0) marks_.push_back(bytes_.size());
      bytes_.push_back(static_cast<char>(item.kind));
      bytes_.push_back(static_cast<char>(item.name.size()));  // at most 255, like any name
      bytes_ += item.name;
    }
  }

  struct Item {
    std::string_view name;
    EntryKind kind;
    std::size_t next;  // the position of the next one
  };
  // The position of an item by its number.
  std::size_t position_of(std::size_t number) const {
    if (number >= count_) return bytes_.size();
    std::size_t position = marks_[number / kStride];
    for (std::size_t i = 0; i < number % kStride; ++i) position = at(position)->next;
    return position;
  }
  // The item at a position: 0, or what the one before it says; nullopt at the end.
  std::optional<Item> at(std::size_t position) const {
    if (position >= bytes_.size()) return std::nullopt;
    const auto length = static_cast<unsigned char>(bytes_[position + 1]);
    return Item{std::string_view(bytes_).substr(position + kHead, length),
                static_cast<EntryKind>(bytes_[position]), position + kHead + length};
  }
  Listing unpack() const {
    Listing out;
    for (auto item = at(0); item; item = at(item->next)) {
      out.push_back({std::string(item->name), item->kind});
    }
    return out;
  }

 private:
  static constexpr std::size_t kHead = 2;
  static constexpr std::size_t kStride = 64;
  std::string bytes_;
  std::vector<std::size_t> marks_;  // the position of each item whose number kStride divides
  std::size_t count_ = 0;
};

}  // namespace hm::fs
