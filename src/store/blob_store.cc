#include "store/blob_store.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <unistd.h>

#include <cstdio>

namespace hm::store {

namespace {

constexpr std::size_t kChunk = std::size_t{256} * 1024;
constexpr mode_t kBlobMode = 0444;
// No trace, layer or log is larger; something planted in its place must not fill the memory.
constexpr off_t kLargestRead = off_t{1} << 31;

}  // namespace

Result<BlobInfo> FileHasher::hash(int fd, std::optional<std::uint64_t> size) {
  if (!buffer_) buffer_ = std::make_unique_for_overwrite<char[]>(kChunk);
  hasher_.restart();
  BlobInfo info;
  while (true) {
    const ssize_t n = ::pread(fd, buffer_.get(), kChunk, static_cast<off_t>(info.size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) break;
    hasher_.update({buffer_.get(), static_cast<std::size_t>(n)});
    info.size += static_cast<std::uint64_t>(n);
    // Less than there was room for: the end, if the file is as long as it is said to be.
    if (static_cast<std::size_t>(n) < kChunk && info.size == size) break;
  }
  info.digest = hasher_.finish();
  return info;
}

Result<BlobInfo> hash_fd(int fd) { return FileHasher().hash(fd); }

Result<Fd> open_blob_file(int dir_fd, const std::string& path) {
  auto fd = open_resolving(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS);
  const int error = fd ? 0 : fd.error().errno_value;
  struct stat st {};
  const std::string blob = "blob " + path.substr(path.rfind('/') + 1);
  if (error == ENOENT) return fail(ErrorCode::kNotFound, blob + " is missing from the store");
  const bool other = error == ELOOP || error == ENXIO || error == ENOTDIR;
  if (error != 0 && !other) return fd;
  if (!other && ::fstat(fd->get(), &st) != 0) return fail_errno(path);
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kCorrupt, blob + " is not a regular file");
  return fd;
}

Result<std::size_t> read_at(int fd, char* bytes, std::size_t size, off_t offset) {
  std::size_t got = 0;
  while (got < size) {
    const ssize_t n = ::pread(fd, bytes + got, size - got, offset + static_cast<off_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  return got;
}

Result<bool> read_exactly(int fd, std::string& bytes) {
  const std::size_t size = bytes.size();
  bytes.resize(size + 1);  // a byte more shows a file that has grown
  HM_ASSIGN(const std::size_t got, read_at(fd, bytes.data(), size + 1, 0));
  bytes.resize(size);
  return got == size;
}

Result<BlobStore> BlobStore::open(const std::string& home, Scratch& scratch) {
  const std::string root = home + "/blobs";
  HM_TRY(make_directories(root, 0700));
  struct stat st {};
  if (::lstat(root.c_str(), &st) != 0) return fail_errno(root);
  if (!S_ISDIR(st.st_mode)) return fail(system_error(root, ENOTDIR));
  return BlobStore(root, &scratch);
}

std::string BlobStore::path_of(const Digest& digest) const {
  const std::string hex = digest.hex();
  return root_ + "/" + hex.substr(0, 2) + "/" + hex;
}

namespace {

std::optional<std::uint64_t> size_of_blob(const std::string& path) {
  const auto fd = open_blob_file(AT_FDCWD, path);
  struct stat st {};
  if (!fd || ::fstat(fd->get(), &st) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(st.st_size);
}

}  // namespace

bool BlobStore::has(const Digest& digest, std::uint64_t size) const {
  return scratch_->claims().add({{ClaimKind::kBlob, digest}}) &&
         size_of_blob(path_of(digest)) == size;
}

std::optional<std::uint64_t> BlobStore::size(const Digest& digest) const {
  return size_of_blob(path_of(digest));
}

Result<Fd> BlobStore::open_shard(const Digest& digest) const {
  const std::string path = root_ + "/" + digest.hex().substr(0, 2);
  auto shard = open_resolving(AT_FDCWD, path, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
  if (shard || shard.error().errno_value != ENOENT) return shard;
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(path);
  return open_resolving(AT_FDCWD, path, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
}

Status BlobStore::publish(const std::string& tmp, const Fd& file, const BlobInfo& info) {
  Adoption adoption(*this);
  HM_TRY(adoption.claim({info.digest}));
  if (::fchmod(file.get(), kBlobMode) != 0) return fail_errno(tmp);
  return adoption.move_in(AT_FDCWD, tmp, info);
}

Result<BlobInfo> Adoption::hash(const Fd& file, std::optional<std::uint64_t> size) {
  HM_ASSIGN(const BlobInfo info, hasher_.hash(file.get(), size));
  if (::fchmod(file.get(), kBlobMode) != 0) return fail_errno("chmod");
  return info;
}

Status Adoption::claim(const std::vector<Digest>& digests) {
  std::vector<Claim> claims;
  claims.reserve(digests.size());
  for (const Digest& digest : digests) claims.emplace_back(ClaimKind::kBlob, digest);
  return blobs_.scratch_->claims().add(claims);
}

Status Adoption::move_in(int dir_fd, const std::string& name, const BlobInfo& info) {
  const std::string hex = info.digest.hex();
  Fd& shard = shards_[info.digest.bytes[0]];
  Status status;
  if (!shard) {
    auto opened = blobs_.open_shard(info.digest);
    status = opened ? Status() : Status(fail(opened.error()));
    if (opened) shard = std::move(*opened);
  }
  if (status &&
      ::renameat2(dir_fd, name.c_str(), shard.get(), hex.c_str(), RENAME_NOREPLACE) != 0) {
    struct stat st {};
    const bool known = ::fstatat(shard.get(), hex.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (known && S_ISREG(st.st_mode) && static_cast<std::uint64_t>(st.st_size) == info.size) {
      ::unlinkat(dir_fd, name.c_str(), 0);
      return {};
    }
    // A file of another size is what a power cut left: it is replaced, like anything else that is
    // not a blob. And some filesystems can only replace.
    if (::renameat(dir_fd, name.c_str(), shard.get(), hex.c_str()) != 0) {
      status = fail_errno(blobs_.path_of(info.digest));
    }
  }
  if (status) {
    const std::lock_guard lock(blobs_.known_->mutex);
    blobs_.known_->unsynced.push_back(info.digest);
    blobs_.known_->checked.insert(info.digest);
    return {};
  }
  Error error = std::move(status).error();
  const bool in_the_way = error.errno_value == EISDIR || error.errno_value == ENOTDIR ||
                          error.errno_value == ELOOP || error.errno_value == ENOTEMPTY;
  if (in_the_way) error.message += std::string(": ") + kRepairHint;
  return fail(std::move(error));
}

std::vector<Digest> BlobStore::take_unsynced() {
  const std::lock_guard lock(known_->mutex);
  return std::exchange(known_->unsynced, {});
}

void BlobStore::remove(const std::vector<Digest>& blobs) {
  for (const Digest& blob : blobs) ::unlink(path_of(blob).c_str());
}

Result<Digest> BlobStore::put(std::string_view data) {
  const BlobInfo info{Digest::of(data), data.size()};
  if (has(info.digest, info.size)) return info.digest;
  const std::string tmp = scratch_->fresh("blob");
  HM_ASSIGN(const Fd fd, open_file(tmp, O_WRONLY | O_CREAT | O_EXCL, 0600));
  auto status = write_all(fd.get(), data);
  if (status) status = publish(tmp, fd, info);
  if (!status) {
    ::unlink(tmp.c_str());
    return fail(std::move(status).error());
  }
  return info.digest;
}

Result<BlobInfo> BlobStore::put_copy(int fd) {
  const std::string tmp = scratch_->fresh("blob");
  HM_ASSIGN(const Fd out, open_file(tmp, O_RDWR | O_CREAT | O_EXCL, 0600));
  const auto copied = copy_bytes(fd, out.get());
  Status status = copied ? Status{} : Status(fail(copied.error()));
  if (status) {
    // What was copied is hashed, not what was read: the name is right even if the source moves.
    HM_ASSIGN(const BlobInfo info, hash_fd(out.get()));
    status = publish(tmp, out, info);
    if (status) return info;
  }
  ::unlink(tmp.c_str());
  return fail(std::move(status).error());
}

Result<BlobInfo> BlobStore::adopt(const std::string& path) {
  HM_ASSIGN(const Fd file, open_file(path, O_RDONLY | O_NOFOLLOW));
  HM_ASSIGN(const BlobInfo info, hash_fd(file.get()));
  HM_TRY(publish(path, file, info));
  return info;
}

Result<Fd> BlobStore::open_blob(const Digest& digest, std::uint64_t expected_size) const {
  HM_ASSIGN(Fd fd, open_unverified(digest, expected_size));
  HM_TRY(check_bytes(digest, fd.get()));
  return fd;
}

Result<Fd> BlobStore::open_unverified(const Digest& digest, std::uint64_t expected_size) const {
  HM_ASSIGN(Fd fd, open_blob_file(AT_FDCWD, path_of(digest)));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("fstat");
  if (static_cast<std::uint64_t>(st.st_size) != expected_size) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " has the wrong size");
  }
  return fd;
}

Status BlobStore::check_bytes(const Digest& digest, int fd) const {
  {
    const std::lock_guard lock(known_->mutex);
    if (known_->checked.contains(digest)) return {};
  }
  HM_ASSIGN(const BlobInfo info, hash_fd(fd));
  if (info.digest != digest) {
    ::unlink(path_of(digest).c_str());
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " is corrupt");
  }
  const std::lock_guard lock(known_->mutex);
  known_->checked.insert(digest);
  return {};
}

Result<Fd> BlobStore::open_checked(const Digest& digest, std::uint64_t* size) const {
  HM_ASSIGN(Fd fd, open_blob_file(AT_FDCWD, path_of(digest)));
  HM_ASSIGN(const BlobInfo info, hash_fd(fd.get()));
  if (info.digest != digest) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " is corrupt");
  }
  if (size != nullptr) *size = info.size;
  return fd;
}

Result<std::string> BlobStore::read(const Digest& digest) const {
  HM_ASSIGN(const Fd fd, open_blob_file(AT_FDCWD, path_of(digest)));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("fstat");
  if (st.st_size > kLargestRead) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " has an absurd size");
  }
  HM_ASSIGN(std::string data, read_all(fd.get()));
  if (Digest::of(data) != digest) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " is corrupt");
  }
  return data;
}

Status BlobStore::read_whole(const Digest& digest, std::uint64_t expected_size,
                             std::string& bytes) const {
  HM_ASSIGN(const Fd fd, open_blob_file(AT_FDCWD, path_of(digest)));
  bytes.resize(expected_size);
  HM_ASSIGN(const bool whole, read_exactly(fd.get(), bytes));
  if (!whole) return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " has the wrong size");
  if (Digest::of(bytes) == digest) return {};
  ::unlink(path_of(digest).c_str());
  return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " is corrupt");
}

void BlobStore::read_ahead(const Digest& digest) const {
  const auto fd = open_blob_file(AT_FDCWD, path_of(digest));
  if (fd) ::posix_fadvise(fd->get(), 0, 0, POSIX_FADV_WILLNEED);
}

Result<std::uint64_t> BlobStore::verified_size(const Digest& digest) const {
  std::uint64_t size = 0;
  HM_TRY(open_checked(digest, &size));
  return size;
}

}  // namespace hm::store
