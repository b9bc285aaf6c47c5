#include "store/util/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <memory>

namespace hm {

namespace {

constexpr std::size_t kCopyChunk = std::size_t{256} * 1024;

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() { return std::exchange(fd_, -1); }

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<Fd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode) {
  int fd = -1;
  do {
    fd = ::openat(dir_fd, path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

Result<Fd> open_file(const std::string& path, int flags, mode_t mode) {
  return open_at(AT_FDCWD, path, flags, mode);
}

Result<Fd> open_resolving(int dir_fd, const std::string& path, int flags, std::uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = resolve;
  const char* name = path.empty() ? "." : path.c_str();
  while (true) {
    const long fd = ::syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    if (fd >= 0) return Fd(static_cast<int>(fd));
    // EAGAIN: a rename raced with the walk; the kernel asks to try again.
    if (errno != EINTR && errno != EAGAIN) return fail_errno(path);
  }
}

Result<std::vector<std::string>> names_at(int dir_fd) {
  HM_ASSIGN(Fd again, open_at(dir_fd, ".", O_RDONLY | O_DIRECTORY));
  const std::unique_ptr<DIR, DirCloser> dir(::fdopendir(again.get()));
  if (!dir) return fail_errno("opendir");
  again.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    errno = 0;
  }
  if (errno != 0) return fail_errno("readdir");
  std::sort(names.begin(), names.end());
  return names;
}

namespace {

// An Error from `errno`, naming the file behind a descriptor.
Error descriptor_error(int fd) {
  const int error = errno;
  const auto path = read_link_at(AT_FDCWD, "/proc/self/fd/" + std::to_string(fd));
  return system_error(path.value_or("descriptor " + std::to_string(fd)), error);
}

}  // namespace

Result<std::string> read_all(int fd) {
  std::string out;
  struct stat st {};
  if (::fstat(fd, &st) == 0 && st.st_size > 0) out.reserve(static_cast<std::size_t>(st.st_size));
  char buffer[65536];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(descriptor_error(fd));
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
  }
}

Result<std::string> read_file(const std::string& path) {
  HM_ASSIGN(const Fd fd, open_file(path, O_RDONLY));
  return read_all(fd.get());
}

Status write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(descriptor_error(fd));
    data.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<std::uint64_t> copy_bytes(int from, int to) {
  struct stat st {};
  if (::ioctl(to, FICLONE, from) == 0 && ::fstat(to, &st) == 0) {
    return static_cast<std::uint64_t>(st.st_size);
  }
  std::vector<char> buffer(kCopyChunk);
  for (off_t offset = 0;;) {
    const ssize_t n = ::pread(from, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) return static_cast<std::uint64_t>(offset);
    HM_TRY(write_all(to, {buffer.data(), static_cast<std::size_t>(n)}));
    offset += n;
  }
}

Status write_file_atomically(const std::string& path, std::string_view data, mode_t mode) {
  const std::string tmp = path + ".tmp" + std::to_string(::getpid());
  HM_ASSIGN(const Fd fd, open_file(tmp, O_WRONLY | O_CREAT | O_TRUNC, mode));
  auto status = write_all(fd.get(), data);
  if (status && ::rename(tmp.c_str(), path.c_str()) != 0) status = fail_errno(path);
  if (!status) ::unlink(tmp.c_str());
  return status;
}

Status make_directories(const std::string& path, mode_t mode) {
  for (std::size_t at = path.find('/', 1); true; at = path.find('/', at + 1)) {
    const std::string prefix = path.substr(0, at);
    if (::mkdir(prefix.c_str(), mode) != 0 && errno != EEXIST) {
      const int saved = errno;
      struct stat st {};
      if (::stat(prefix.c_str(), &st) != 0) return fail(system_error(prefix, saved));
    }
    if (at == std::string::npos) break;
  }
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return fail_errno(path);
  if (!S_ISDIR(st.st_mode)) return fail(system_error(path, ENOTDIR));
  return {};
}

namespace {

// What is behind a mount point is not ours to remove, on whatever filesystem it is.
bool is_mount_point(int dir_fd, const std::string& name) {
  struct statx st {};
  return ::statx(dir_fd, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
                 STATX_TYPE, &st) == 0 &&
         (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

// Removes one tree. A descent holds one descriptor a level, so it goes only so deep: what is deeper
// is moved to the top first, and removed from there.
class TreeRemoval {
 public:
  Status remove(int dir_fd, const std::string& name, int depth) {
    if (is_mount_point(dir_fd, name)) return fail(system_error(name, EBUSY));
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    auto child = open_at(dir_fd, name, flags);
    if (!child && child.error().errno_value == EACCES) {
      (void)::fchmodat(dir_fd, name.c_str(), 0700, 0);
      child = open_at(dir_fd, name, flags);
    }
    if (!child && child.error().errno_value == ENOENT) return {};
    if (!child && child.error().errno_value == ENOTDIR) {
      return ::unlinkat(dir_fd, name.c_str(), 0) == 0 ? Status{} : Status(fail_errno(name));
    }
    if (!child) return fail(std::move(child).error());
    if (depth == 0) top_ = child->get();
    HM_TRY(remove_children(child->get(), depth));
    if (::unlinkat(dir_fd, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
      return fail_errno(name);
    }
    return {};
  }

 private:
  static constexpr int kDeepest = 64;

  Status remove_children(int fd, int depth) {
    unsigned moved = 0;
    do {
      moved = moved_;
      HM_TRY(remove_names(fd, depth));
    } while (depth == 0 && moved != moved_);  // a listing need not show what came meanwhile
    return {};
  }

  Status remove_names(int fd, int depth) {
    HM_ASSIGN(Fd listing, open_at(fd, ".", O_RDONLY | O_DIRECTORY));
    const std::unique_ptr<DIR, DirCloser> dir(::fdopendir(listing.get()));
    if (!dir) return fail_errno("opendir");
    listing.release();
    while (const dirent* entry = ::readdir(dir.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (::unlinkat(fd, name.c_str(), 0) == 0 || errno == ENOENT) continue;
      // A directory that its owner may not write, as Go's module cache has.
      if (errno == EACCES && ::fchmod(fd, 0700) == 0 && ::unlinkat(fd, name.c_str(), 0) == 0)
        continue;
      if (errno != EISDIR && errno != EPERM) return fail_errno(name);
      HM_TRY(depth < kDeepest ? remove(fd, name, depth + 1) : move_up(fd, name));
    }
    return {};
  }

  Status move_up(int fd, const std::string& name) {
    (void)::fchmodat(fd, name.c_str(), 0700, 0);  // its ".." changes: it has to be writable
    while (true) {
      const std::string up = ".hm-deep-" + std::to_string(moved_++);
      if (::renameat(fd, name.c_str(), top_, up.c_str()) == 0) return {};
      const bool taken = errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR;
      if (!taken) return fail_errno(name);
    }
  }

  int top_ = -1;
  unsigned moved_ = 0;  // names used at the top
};

}  // namespace

Status remove_tree(int dir_fd, const std::string& name) {
  return TreeRemoval().remove(dir_fd, name, 0);
}

Result<std::string> read_link_at(int dir_fd, const std::string& path) {
  std::string out(256, '\0');
  while (true) {
    const ssize_t n = ::readlinkat(dir_fd, path.c_str(), out.data(), out.size());
    if (n < 0) return fail_errno(path);
    if (static_cast<std::size_t>(n) < out.size()) {
      out.resize(static_cast<std::size_t>(n));
      return out;
    }
    out.resize(out.size() * 2);
  }
}

std::string real_path(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;
  std::string out = resolved;
  std::free(resolved);  // NOLINT: allocated by realpath with malloc
  return out;
}

std::int64_t to_ns(const timespec& time) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::int64_t seconds =
      std::clamp<std::int64_t>(time.tv_sec, INT64_MIN / kSecond + 1, INT64_MAX / kSecond - 1);
  return seconds * kSecond + time.tv_nsec;
}

std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return to_ns(now);
}

}  // namespace hm
