#include "store/file_index.h"

#include <algorithm>

#include "store/util/bytes.h"

namespace hm::store {

namespace {

constexpr std::string_view kMagic = "hmfiles1";
constexpr std::size_t kRecordBytes = 5 * 8 + 32;

std::uint64_t hash_of(const FileStamp& stamp) {
  std::uint64_t hash = (stamp.device * 31 + stamp.inode) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 32);
}

}  // namespace

// Where `stamp` is, or would be put.
std::size_t FileIndex::slot_of(const FileStamp& stamp) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash_of(stamp) & mask;
  while (slots_[at] != 0 && files_[slots_[at] - 1].stamp != stamp) at = (at + 1) & mask;
  return at;
}

void FileIndex::add(const FileDigest& file) {
  if (files_.size() * 2 >= slots_.size()) grow();
  std::uint32_t& slot = slots_[slot_of(file.stamp)];
  if (slot != 0) {
    files_[slot - 1].digest = file.digest;
    return;
  }
  files_.push_back(file);
  slot = static_cast<std::uint32_t>(files_.size());
}

void FileIndex::grow() {
  slots_.assign(std::max<std::size_t>(64, slots_.size() * 2), 0);
  for (std::uint32_t i = 0; i < files_.size(); ++i) slots_[slot_of(files_[i].stamp)] = i + 1;
}

std::optional<Digest> FileIndex::find(const FileStamp& stamp) const {
  if (slots_.empty()) return std::nullopt;
  const std::uint32_t slot = slots_[slot_of(stamp)];
  return slot == 0 ? std::nullopt : std::optional(files_[slot - 1].digest);
}

void FileIndex::clear() {
  files_.clear();
  slots_.clear();
}

std::string FileIndex::encode(std::span<const FileDigest> files) {
  Writer out;
  out.raw(kMagic);
  for (const auto& [stamp, digest] : files) {
    for (const std::uint64_t number :
         {stamp.device, stamp.inode, stamp.size, static_cast<std::uint64_t>(stamp.mtime_ns),
          static_cast<std::uint64_t>(stamp.ctime_ns)}) {
      out.number(number);
    }
    out.raw(digest.raw());
  }
  return out.take();
}

Result<std::vector<FileDigest>> FileIndex::decode(std::string_view bytes) {
  Reader in(bytes);
  const bool fits = in.raw(kMagic.size()) == kMagic && in.left() % kRecordBytes == 0;
  if (!fits) return fail(ErrorCode::kCorrupt, "digests of files: malformed");
  std::vector<FileDigest> files(in.left() / kRecordBytes);
  for (auto& [stamp, digest] : files) {
    stamp.device = in.number();
    stamp.inode = in.number();
    stamp.size = in.number();
    stamp.mtime_ns = static_cast<std::int64_t>(in.number());
    stamp.ctime_ns = static_cast<std::int64_t>(in.number());
    digest = Digest::from_raw(in.raw(32)).value_or(Digest{});
  }
  return files;
}

}  // namespace hm::store
