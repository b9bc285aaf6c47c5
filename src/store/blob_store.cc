#include "store/blob_store.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vector>

namespace hm::store {

namespace {

constexpr std::size_t kChunk = std::size_t{256} * 1024;

Status copy_range(int from, int to) {
  if (::ioctl(to, FICLONE, from) == 0) return {};
  std::vector<char> buffer(kChunk);
  for (off_t offset = 0;;) {
    const ssize_t n = ::pread(from, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) return {};
    HM_TRY(write_all(to, {buffer.data(), static_cast<std::size_t>(n)}));
    offset += n;
  }
}

}  // namespace

Result<BlobInfo> hash_fd(int fd) {
  Hasher hasher;
  std::vector<char> buffer(kChunk);
  BlobInfo info;
  while (true) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(info.size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) break;
    hasher.update({buffer.data(), static_cast<std::size_t>(n)});
    info.size += static_cast<std::uint64_t>(n);
  }
  info.digest = hasher.finish();
  return info;
}

Result<BlobStore> BlobStore::open(const std::string& home, Scratch& scratch) {
  const std::string root = home + "/blobs";
  HM_TRY(make_directories(root, 0700));
  return BlobStore(root, &scratch);
}

std::string BlobStore::path_of(const Digest& digest) const {
  const std::string hex = digest.hex();
  return root_ + "/" + hex.substr(0, 2) + "/" + hex;
}

bool BlobStore::has(const Digest& digest, std::uint64_t size) const {
  struct stat st {};
  return ::stat(path_of(digest).c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
         static_cast<std::uint64_t>(st.st_size) == size;
}

Status BlobStore::publish(int dir_fd, const std::string& tmp, const BlobInfo& info) {
  // An existing file of another size is what a power cut left: the rename replaces it.
  if (has(info.digest, info.size)) {
    ::unlinkat(dir_fd, tmp.c_str(), 0);
    return {};
  }
  if (::fchmodat(dir_fd, tmp.c_str(), 0444, 0) != 0) return fail_errno(tmp);
  const std::string path = path_of(info.digest);
  if (::renameat(dir_fd, tmp.c_str(), AT_FDCWD, path.c_str()) == 0) return {};
  if (errno != ENOENT) return fail_errno(path);
  const std::string shard = path.substr(0, path.rfind('/'));
  if (::mkdir(shard.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(shard);
  if (::renameat(dir_fd, tmp.c_str(), AT_FDCWD, path.c_str()) != 0) return fail_errno(path);
  return {};
}

Result<Digest> BlobStore::put(std::string_view data) {
  const BlobInfo info{Digest::of(data), data.size()};
  if (has(info.digest, info.size)) return info.digest;
  const std::string tmp = scratch_->fresh("blob");
  HM_ASSIGN(const Fd fd, open_file(tmp, O_WRONLY | O_CREAT | O_EXCL, 0600));
  auto status = write_all(fd.get(), data);
  if (status) status = publish(AT_FDCWD, tmp, info);
  if (!status) {
    ::unlink(tmp.c_str());
    return fail(std::move(status).error());
  }
  return info.digest;
}

Result<BlobInfo> BlobStore::put_copy(int fd) {
  const std::string tmp = scratch_->fresh("blob");
  HM_ASSIGN(const Fd out, open_file(tmp, O_RDWR | O_CREAT | O_EXCL, 0600));
  auto status = copy_range(fd, out.get());
  if (status) {
    // What was copied is hashed, not what was read: the name is right even if the source moves.
    HM_ASSIGN(const BlobInfo info, hash_fd(out.get()));
    status = publish(AT_FDCWD, tmp, info);
    if (status) return info;
  }
  ::unlink(tmp.c_str());
  return fail(std::move(status).error());
}

Result<BlobInfo> BlobStore::adopt(int dir_fd, const std::string& name) {
  // A step may have left mode 000; an owner without capabilities could not open that.
  auto fd = open_at(dir_fd, name, O_RDONLY | O_NOFOLLOW);
  if (!fd && fd.error().errno_value == EACCES && ::fchmodat(dir_fd, name.c_str(), 0400, 0) == 0) {
    fd = open_at(dir_fd, name, O_RDONLY | O_NOFOLLOW);
  }
  if (!fd) return fail(std::move(fd).error());
  HM_ASSIGN(const BlobInfo info, hash_fd(fd->get()));
  HM_TRY(publish(dir_fd, name, info));
  return info;
}

Result<BlobInfo> BlobStore::adopt(const std::string& path) { return adopt(AT_FDCWD, path); }

Result<Fd> BlobStore::open_blob(const Digest& digest, std::uint64_t expected_size) const {
  auto fd = open_file(path_of(digest), O_RDONLY | O_NOFOLLOW);
  if (!fd) {
    if (fd.error().errno_value != ENOENT) return fail(std::move(fd).error());
    return fail(ErrorCode::kNotFound, "blob " + digest.hex() + " is missing from the store");
  }
  struct stat st {};
  if (::fstat(fd->get(), &st) != 0) return fail_errno("fstat");
  if (static_cast<std::uint64_t>(st.st_size) != expected_size) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " has the wrong size");
  }
  return fd;
}

Result<std::string> BlobStore::read(const Digest& digest) const {
  auto fd = open_file(path_of(digest), O_RDONLY | O_NOFOLLOW);
  if (!fd) {
    if (fd.error().errno_value != ENOENT) return fail(std::move(fd).error());
    return fail(ErrorCode::kNotFound, "blob " + digest.hex() + " is missing from the store");
  }
  HM_ASSIGN(std::string data, read_all(fd->get()));
  if (Digest::of(data) != digest) {
    return fail(ErrorCode::kCorrupt, "blob " + digest.hex() + " is corrupt");
  }
  return data;
}

}  // namespace hm::store
