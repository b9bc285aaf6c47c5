// FileIndex: digests of files by their stamps, in memory. What the database would be asked for one
// by one is read as one blob (`encode`) and looked up here.
//
// Thread-safety: none; the owner locks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::store {

// The identity of a file's bytes on this machine, and their digest.
struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  auto operator<=>(const FileStamp&) const = default;
};
struct FileDigest {
  FileStamp stamp;
  Digest digest;
};

class FileIndex {
 public:
  void add(const FileDigest& file);  // of two with one stamp the later counts
  std::optional<Digest> find(const FileStamp& stamp) const;
  void clear();

  // Fixed size records, little-endian, in the order given.
  static std::string encode(std::span<const FileDigest> files);
  static Result<std::vector<FileDigest>> decode(std::string_view bytes);

 private:
  std::size_t slot_of(const FileStamp& stamp) const;
  void grow();

  std::vector<FileDigest> files_;
  std::vector<std::uint32_t> slots_;  // open addressing: place in files_, from 1
};

}  // namespace hm::store
