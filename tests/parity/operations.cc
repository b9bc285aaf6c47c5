#include "operations.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <sstream>

#include "tree.h"

namespace parity {
namespace {

// --- descriptors ------------------------------------------------------------------------------

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd), error_(fd < 0 ? errno : 0) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  std::string error() const { return error_name(error_); }

 private:
  int fd_;
  int error_;
};

std::string bytes_from(int fd, std::size_t size, off_t offset) {
  std::string out(size, '\0');
  const ssize_t n = ::pread(fd, out.data(), size, offset);
  if (n < 0) return error_name(errno);
  out.resize(static_cast<std::size_t>(n));
  return short_text(out);
}

// Opens and does something with the descriptor; then what became of the path.
Op with_fd(const std::string& name, int flags, std::function<std::string(int, Name)> what,
           bool show_state = true) {
  return {name, [=](Name path) {
            std::string out;
            {
              const Fd fd(::open(path, flags | O_NONBLOCK | O_CLOEXEC, 0640));
              if (!fd.ok()) return fd.error() + " " + state(path);
              out = what(fd.get(), path);
            }
            return show_state ? out + " " + state(path) : out;
          }};
}

// A call whose result is a number or an errno; then what became of the path.
Op call(const std::string& name, std::function<long(Name)> what) {
  return {name, [=](Name path) {
            const std::string out = outcome(what(path));
            return out + " " + state(path);
          }};
}

std::string stat_through(Name path, const char* suffix) {
  struct stat st {};
  if (::stat((std::string(path) + suffix).c_str(), &st) != 0) return error_name(errno);
  char text[64];
  std::snprintf(text, sizeof text, "%06o %u:%u", st.st_mode, st.st_uid, st.st_gid);
  return text;
}

// --- opening ----------------------------------------------------------------------------------

std::string open_result(int fd, Name) {
  struct stat st {};
  std::string out = ::fstat(fd, &st) == 0 ? "open" : "open, fstat " + error_name(errno);
  char buffer[8];
  out += " read " + outcome(::read(fd, buffer, sizeof buffer));
  out += " write " + outcome(::write(fd, "abc", 3));
  out += " read " + outcome(::pread(fd, buffer, sizeof buffer, 0));
  return out;
}

// EAGAIN: anybody's rename got in the way, or the kernel had just forgotten a name.
std::string open_how_result(const std::string& path, std::uint64_t resolve) {
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC;
  how.resolve = resolve;
  std::string error;
  for (int attempt = 0; attempt < 20; ++attempt) {
    (void)stat_through(path.c_str(), "");
    const Fd fd(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
    if (fd.ok()) return "open";
    error = fd.error();
    if (error != "EAGAIN") break;
  }
  return error;
}

void add_opens(Ops& ops) {
  static const struct {
    const char* name;
    int flags;
  } kFlags[] = {{"rdonly", O_RDONLY},
                {"wronly", O_WRONLY},
                {"rdwr", O_RDWR},
                {"trunc", O_WRONLY | O_TRUNC},
                {"rdonly-trunc", O_RDONLY | O_TRUNC},
                {"creat", O_RDWR | O_CREAT},
                {"rdonly-creat", O_RDONLY | O_CREAT},
                {"creat-excl", O_WRONLY | O_CREAT | O_EXCL},
                {"creat-nofollow", O_WRONLY | O_CREAT | O_NOFOLLOW},
                {"creat-trunc", O_RDWR | O_CREAT | O_TRUNC},
                {"append", O_RDWR | O_APPEND},
                {"directory", O_RDONLY | O_DIRECTORY},
                {"directory-creat", O_RDONLY | O_DIRECTORY | O_CREAT},
                {"directory-write", O_WRONLY | O_DIRECTORY},
                {"nofollow", O_RDONLY | O_NOFOLLOW},
                {"path", O_PATH},
                {"path-nofollow", O_PATH | O_NOFOLLOW},
                {"path-directory", O_PATH | O_DIRECTORY},
                {"tmpfile", O_TMPFILE | O_RDWR},
                {"tmpfile-rdonly", O_TMPFILE | O_RDONLY},
                {"noatime", O_RDONLY | O_NOATIME},
                {"sync", O_WRONLY | O_SYNC}};
  for (const auto& row : kFlags)
    ops.push_back(with_fd(std::string("open-") + row.name, row.flags, open_result));
  static const struct {
    const char* name;
    std::uint64_t resolve;
    const char* prefix;
  } kHow[] = {{"beneath", RESOLVE_BENEATH, ""},
              {"in-root", RESOLVE_IN_ROOT, "/"},
              {"no-symlinks", RESOLVE_NO_SYMLINKS, ""},
              {"no-xdev", RESOLVE_NO_XDEV, ""},
              {"no-magiclinks", RESOLVE_NO_MAGICLINKS, ""},
              {"beneath-dotdot", RESOLVE_BENEATH, "target-dir/../../"},
              {"cached", RESOLVE_CACHED, "target-dir/../"}};
  for (const auto& row : kHow) {
    ops.push_back({std::string("openat2-") + row.name, [row](Name path) {
                     return open_how_result(std::string(row.prefix) + path, row.resolve);
                   }});
  }
}

// --- looking ----------------------------------------------------------------------------------

std::string statx_answer(Name path) {
  struct statx st {};
  if (::statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) != 0) {
    return error_name(errno);
  }
  char text[64];
  std::snprintf(text, sizeof text, "mask %x attributes %llx", st.stx_mask & STATX_BASIC_STATS,
                st.stx_attributes & ~0ULL);
  return text;
}

std::string times_of(Name path) {
  struct stat st {};
  if (::lstat(path, &st) != 0) return error_name(errno);
  return std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec) + " " +
         (st.st_ctim.tv_sec != 0 ? "ctime" : "no ctime");
}

// One inode must have one number, however it is asked for.
std::string numbers_agree(Name path) {
  struct stat by_path {};
  struct stat by_fd {};
  struct statx st {};
  const Fd fd(::open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return fd.error();
  if (::lstat(path, &by_path) != 0 || ::fstat(fd.get(), &by_fd) != 0 ||
      ::statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO, &st) != 0) {
    return error_name(errno);
  }
  std::string out = by_path.st_ino == by_fd.st_ino && by_path.st_dev == by_fd.st_dev &&
                            by_path.st_ino == st.stx_ino
                        ? "agree"
                        : "disagree";
  (void)::chmod(path, 0700);
  struct stat after {};
  if (::lstat(path, &after) == 0) {
    out += after.st_ino == by_path.st_ino && after.st_dev == by_path.st_dev ? " kept" : " changed";
  }
  return out;
}

std::string link_target(Name path) {
  std::string out(300, '\0');
  const ssize_t n = ::readlink(path, out.data(), out.size());
  if (n < 0) return error_name(errno);
  out.resize(static_cast<std::size_t>(n));
  char few[3];
  return short_text(out) + " " + outcome(::readlink(path, few, sizeof few));
}

std::string filesystem_of(Name path) {
  struct statfs st {};
  if (::statfs(path, &st) != 0) return error_name(errno);
  return "names " + std::to_string(st.f_namelen) + (st.f_blocks > 0 ? " space" : " no space") +
         (st.f_bavail > 0 ? " free" : " full") + (st.f_files > 0 ? " inodes" : " no inodes") +
         " block " + std::to_string(st.f_bsize);
}

std::string handle_of(Name path) {
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* handle = reinterpret_cast<file_handle*>(space);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  return outcome(::name_to_handle_at(AT_FDCWD, path, handle, &mount, 0));
}

void add_looks(Ops& ops) {
  ops.push_back({"stat", [](Name n) { return stat_through(n, ""); }});
  for (const char* suffix : {"/", "/.", "/..", "/below", "/file", "/../target", "//"}) {
    ops.push_back({std::string("stat") + suffix, [=](Name n) { return stat_through(n, suffix); }});
  }
  ops.push_back({"lstat", [](Name n) { return state(n); }});
  ops.push_back({"stat-identity", identity});
  ops.push_back({"statx", statx_answer});
  ops.push_back({"times", times_of});
  ops.push_back({"numbers", numbers_agree});
  ops.push_back({"readlink", link_target});
  ops.push_back({"statfs", filesystem_of});
  ops.push_back({"handle", handle_of});
  ops.push_back({"chdir", [](Name n) {
                   const int rc = ::chdir(n);
                   const std::string out = outcome(rc);
                   return rc == 0 && ::chdir("..") == 0 ? out + " and back" : out;
                 }});
  static const std::pair<const char*, int> kModes[] = {
      {"f", F_OK}, {"r", R_OK}, {"w", W_OK}, {"x", X_OK}, {"rwx", R_OK | W_OK | X_OK}};
  for (const auto& [name, mode] : kModes) {
    const int asked = mode;
    ops.push_back(
        {std::string("access-") + name, [=](Name n) { return outcome(::access(n, asked)); }});
    ops.push_back({std::string("faccessat2-") + name, [=](Name n) {
                     return outcome(::syscall(SYS_faccessat2, AT_FDCWD, n, asked,
                                              AT_EACCESS | AT_SYMLINK_NOFOLLOW));
                   }});
  }
}

// --- bytes ------------------------------------------------------------------------------------

std::string map_and_read(int fd, int flags) {
  void* at = ::mmap(nullptr, 4096, PROT_READ, flags, fd, 0);
  if (at == MAP_FAILED) return error_name(errno);
  struct stat st {};
  ::fstat(fd, &st);
  const std::string out(static_cast<const char*>(at), st.st_size < 8 ? st.st_size : 8);
  ::munmap(at, 4096);
  return short_text(out);
}

std::string map_and_write(int fd, int flags) {
  struct stat st {};
  ::fstat(fd, &st);
  if (st.st_size == 0) return "empty";
  void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at == MAP_FAILED) return error_name(errno);
  static_cast<char*>(at)[0] = '#';
  ::munmap(at, 4096);
  return "written";
}

// What was opened before still is what it was, whatever happens to the name.
std::string read_after(int fd, long done, Name) {
  return outcome(done) + " then " + bytes_from(fd, 32, 0);
}

void add_bytes(Ops& ops) {
  for (const off_t offset : {0L, 3L, 4095L, 199'999L, 1L << 40}) {
    ops.push_back(with_fd(
        "pread-" + std::to_string(offset), O_RDONLY,
        [=](int fd, Name) { return bytes_from(fd, 7, offset); }, false));
  }
  ops.push_back(
      with_fd("mmap-shared", O_RDONLY, [](int fd, Name) { return map_and_read(fd, MAP_SHARED); }));
  ops.push_back(with_fd("mmap-private", O_RDONLY,
                        [](int fd, Name) { return map_and_read(fd, MAP_PRIVATE); }));
  ops.push_back(
      with_fd("mmap-write", O_RDWR, [](int fd, Name) { return map_and_write(fd, MAP_SHARED); }));
  ops.push_back(
      with_fd("mmap-cow", O_RDONLY, [](int fd, Name) { return map_and_write(fd, MAP_PRIVATE); }));
  ops.push_back(with_fd("mmap-rdonly-write", O_RDONLY,
                        [](int fd, Name) { return map_and_write(fd, MAP_SHARED); }));
  static const std::pair<const char*, int> kSeeks[] = {
      {"end", SEEK_END}, {"data", SEEK_DATA}, {"hole", SEEK_HOLE}};
  for (const auto& [name, whence] : kSeeks) {
    for (const off_t offset : {0L, 2L, 400'000L}) {
      const int how = whence;
      ops.push_back(with_fd(
          std::string("lseek-") + name + "-" + std::to_string(offset), O_RDONLY,
          [=](int fd, Name) { return outcome(::lseek(fd, offset, how)); }, false));
    }
  }
  static const std::pair<const char*, int> kAllocate[] = {
      {"extend", 0},
      {"keep", FALLOC_FL_KEEP_SIZE},
      {"punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
      {"zero", FALLOC_FL_ZERO_RANGE},
      {"collapse", FALLOC_FL_COLLAPSE_RANGE},
      {"insert", FALLOC_FL_INSERT_RANGE},
      {"bad", 0x4000}};
  for (const auto& [name, mode] : kAllocate) {
    const int how = mode;
    ops.push_back(with_fd(std::string("fallocate-") + name, O_RDWR,
                          [=](int fd, Name) { return outcome(::fallocate(fd, how, 0, 4096)); }));
  }
  ops.push_back(with_fd("fallocate-rdonly", O_RDONLY,
                        [](int fd, Name) { return outcome(::fallocate(fd, 0, 0, 10)); }));
  for (const long size : {0L, 3L, 300'001L, -1L}) {
    ops.push_back(
        call("truncate-" + std::to_string(size), [=](Name n) { return ::truncate(n, size); }));
    ops.push_back(with_fd("ftruncate-" + std::to_string(size), O_WRONLY,
                          [=](int fd, Name) { return outcome(::ftruncate(fd, size)); }));
  }
  ops.push_back(with_fd("copy-from", O_RDONLY, [](int fd, Name) {
    const Fd out(::open("target", O_WRONLY | O_TRUNC));
    return outcome(::copy_file_range(fd, nullptr, out.get(), nullptr, 1 << 20, 0)) + " " +
           state("target");
  }));
  ops.push_back(with_fd("copy-to", O_WRONLY, [](int fd, Name) {
    const Fd in(::open("target", O_RDONLY));
    return outcome(::copy_file_range(in.get(), nullptr, fd, nullptr, 1 << 20, 0));
  }));
  ops.push_back(with_fd("copy-self", O_RDWR, [](int fd, Name) {
    off_t from = 0;
    off_t to = 100;
    return outcome(::copy_file_range(fd, &from, fd, &to, 10, 0));
  }));
  ops.push_back(with_fd("sendfile", O_RDONLY, [](int fd, Name) {
    const Fd out(::open("target", O_WRONLY | O_TRUNC));
    return outcome(::sendfile(out.get(), fd, nullptr, 1 << 20)) + " " + state("target");
  }));
  ops.push_back(with_fd("read-after-unlink", O_RDONLY,
                        [](int fd, Name n) { return read_after(fd, ::unlink(n), n); }));
  ops.push_back(with_fd("read-after-rename", O_RDONLY,
                        [](int fd, Name n) { return read_after(fd, ::rename("target", n), n); }));
  ops.push_back(with_fd("read-after-write", O_RDONLY, [](int fd, Name n) {
    const Fd again(::open(n, O_WRONLY | O_NONBLOCK));
    return read_after(fd, again.ok() ? ::write(again.get(), "new", 3) : -1, n);
  }));
  ops.push_back(with_fd("write-after-unlink", O_RDWR, [](int fd, Name n) {
    const long done = ::unlink(n);
    return outcome(done) + " " + outcome(::pwrite(fd, "abc", 3, 0)) + " " + bytes_from(fd, 32, 0);
  }));
  ops.push_back(with_fd("fsync", O_RDONLY, [](int fd, Name) { return outcome(::fsync(fd)); }));
  ops.push_back(with_fd("advise", O_RDONLY, [](int fd, Name) {
    return outcome(::posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED)) +
           outcome(::readahead(fd, 0, 4096));
  }));
}

// --- locks, notifications, ioctls, execution ----------------------------------------------------

std::string lock_twice(int fd, Name path) {
  std::string out = outcome(::flock(fd, LOCK_EX | LOCK_NB));
  const Fd other(::open(path, O_RDONLY | O_NONBLOCK));
  out += " " + outcome(::flock(other.get(), LOCK_SH | LOCK_NB));
  return out;
}

std::string record_lock(int fd, Name path) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_len = 10;
  const std::string mine = outcome(::fcntl(fd, F_SETLK, &lock));
  const int theirs = in_child([&] {
    const Fd other(::open(path, O_RDWR | O_NONBLOCK));
    struct flock wanted = lock;
    return ::fcntl(other.get(), F_SETLK, &wanted) == 0 ? 0 : errno;
  });
  return mine + " " + (theirs == 0 ? "both" : error_name(theirs));
}

int exit_of(const std::function<void()>& execute) {
  return in_child([&] {
    const Fd null(::open("/dev/null", O_WRONLY));
    ::dup2(null.get(), 2);
    execute();
    return errno;
  });
}

std::string watch_it(Name path) {
  const Fd notify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (::inotify_add_watch(notify.get(), path, IN_MODIFY | IN_CREATE | IN_ATTRIB) < 0)
    return error_name(errno);
  (void)::chmod(path, 0700);
  char buffer[4096];
  return ::read(notify.get(), buffer, sizeof buffer) > 0 ? "told" : "not told";
}

void add_rest(Ops& ops) {
  ops.push_back(with_fd("flock", O_RDONLY, lock_twice, false));
  ops.push_back(with_fd("fcntl-lock", O_RDWR, record_lock, false));
  ops.push_back(with_fd(
      "lease", O_RDONLY, [](int fd, Name) { return outcome(::fcntl(fd, F_SETLEASE, F_RDLCK)); },
      false));
  ops.push_back(with_fd(
      "fionread", O_RDONLY,
      [](int fd, Name) {
        int waiting = 0;
        const long rc = ::ioctl(fd, FIONREAD, &waiting);
        return outcome(rc) + " " + std::to_string(waiting);
      },
      false));
  ops.push_back({"inotify", watch_it});
  ops.push_back({"exec", [](Name n) {
                   return std::to_string(
                       exit_of([=] { ::execl(n, n, static_cast<char*>(nullptr)); }));
                 }});
  ops.push_back(with_fd(
      "fexecve", O_PATH,
      [](int fd, Name) {
        char* argv[] = {const_cast<char*>("x"), nullptr};
        const int moved = ::fcntl(fd, F_DUPFD, 20);
        const int rc =
            exit_of([&] { ::syscall(SYS_execveat, moved, "", argv, argv + 1, AT_EMPTY_PATH); });
        ::close(moved);
        return std::to_string(rc);
      },
      false));
  ops.push_back({"connect", [](Name n) {
                   const Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
                   sockaddr_un address{};
                   address.sun_family = AF_UNIX;
                   std::strncpy(address.sun_path, n, sizeof address.sun_path - 1);
                   const auto* to = reinterpret_cast<const sockaddr*>(&address);
                   const std::string out = outcome(::connect(fd.get(), to, sizeof address));
                   return out + " " + outcome(::bind(fd.get(), to, sizeof address)) + " " +
                          state(n);
                 }});
}

// --- changing ---------------------------------------------------------------------------------

std::string attribute_names(Name path) {
  std::string names(4096, '\0');
  const ssize_t n = ::llistxattr(path, names.data(), names.size());
  if (n < 0) return "";
  std::set<std::string> sorted;
  for (const char* at = names.data(); at < names.data() + n; at += std::strlen(at) + 1) {
    if (std::strcmp(at, "security.selinux") != 0) sorted.insert(at);
  }
  std::string out;
  for (const std::string& name : sorted) out += name + " ";
  return out;
}

std::string attribute(Name path, const char* name) {
  std::string value(4096, '\0');
  const ssize_t n = ::lgetxattr(path, name, value.data(), value.size());
  if (n < 0) return error_name(errno);
  value.resize(static_cast<std::size_t>(n));
  return short_text(value);
}

void add_attributes(Ops& ops) {
  for (const char* name :
       {"user.a", "user.none", "security.capability", "system.posix_acl_access",
        "system.posix_acl_default", "user.overlay.opaque", "trusted.a", "odd.a"}) {
    ops.push_back({std::string("getxattr-") + name, [=](Name n) { return attribute(n, name); }});
  }
  ops.push_back({"listxattr", [](Name n) {
                   const bool listed = ::llistxattr(n, nullptr, 0) >= 0;
                   return listed ? "[" + attribute_names(n) + "]" : error_name(errno);
                 }});
  ops.push_back({"getxattr-short", [](Name n) {
                   char few[2];
                   return outcome(::getxattr(n, "user.a", few, sizeof few)) + " " +
                          outcome(::getxattr(n, "user.a", nullptr, 0));
                 }});
  const auto set = [](const std::string& name, int flags) {
    return [=](Name n) {
      const std::string out = outcome(::lsetxattr(n, name.c_str(), "new", 3, flags));
      return out + " " + attribute(n, name.c_str()) + " " + attribute_names(n) + " " + state(n);
    };
  };
  ops.push_back({"setxattr", set("user.a", 0)});
  ops.push_back({"setxattr-create", set("user.a", XATTR_CREATE)});
  ops.push_back({"setxattr-replace", set("user.a", XATTR_REPLACE)});
  ops.push_back({"setxattr-other", set("user.b", 0)});
  ops.push_back({"setxattr-long", set("user." + std::string(250, 'n'), 0)});
  ops.push_back({"setxattr-acl-bad", set("system.posix_acl_access", 0)});
  ops.push_back({"removexattr", [](Name n) {
                   const std::string out = outcome(::lremovexattr(n, "user.a"));
                   return out + " " + attribute_names(n) + " " + state(n);
                 }});
  ops.push_back({"removexattr-acl", [](Name n) {
                   const std::string out = outcome(::lremovexattr(n, "system.posix_acl_access"));
                   return out + " " + attribute_names(n) + " " + state(n);
                 }});
  ops.push_back({"chmod-then-attributes", [](Name n) {
                   const std::string out = outcome(::chmod(n, 0600));
                   return out + " " + attribute(n, "user.a") + " " + attribute_names(n);
                 }});
}

void add_modes(Ops& ops) {
  for (const unsigned mode : {0U, 0600U, 0755U, 01777U, 02755U, 04711U}) {
    ops.push_back(call("chmod-" + std::to_string(mode), [=](Name n) { return ::chmod(n, mode); }));
  }
  ops.push_back(
      with_fd("fchmod", O_RDONLY, [](int fd, Name) { return outcome(::fchmod(fd, 0640)); }));
  ops.push_back(
      with_fd("fchmod-path", O_PATH, [](int fd, Name) { return outcome(::fchmod(fd, 0640)); }));
  ops.push_back(call("chown-same", [](Name n) { return ::chown(n, 0, 0); }));
  ops.push_back(call("chown-none", [](Name n) { return ::chown(n, -1, -1); }));
  ops.push_back(call("chown-other", [](Name n) { return ::chown(n, 1000, 1001); }));
  ops.push_back(call("lchown-other", [](Name n) { return ::lchown(n, 1000, 1001); }));
  ops.push_back(call("chown-group", [](Name n) { return ::chown(n, -1, 7); }));
  const timespec then{1'000'000'000, 500};
  static const struct {
    const char* name;
    timespec access, modified;
    int flags;
  } kTimes[] = {{"set", then, then, 0},
                {"set-nofollow", then, then, AT_SYMLINK_NOFOLLOW},
                {"now", {0, UTIME_NOW}, {0, UTIME_NOW}, 0},
                {"omit", {0, UTIME_OMIT}, {0, UTIME_OMIT}, 0},
                {"atime", then, {0, UTIME_OMIT}, 0},
                {"mtime", {0, UTIME_OMIT}, then, 0},
                {"bad", {0, 1'000'000'000}, then, 0},
                {"negative", {-5, 0}, {-5, 0}, 0}};
  for (const auto& row : kTimes) {
    ops.push_back(call(std::string("utimens-") + row.name, [row](Name n) {
      const timespec times[2] = {row.access, row.modified};
      return ::utimensat(AT_FDCWD, n, times, row.flags);
    }));
  }
}

void add_names(Ops& ops) {
  ops.push_back(call("unlink", [](Name n) { return ::unlink(n); }));
  ops.push_back(
      call("unlink-slash", [](Name n) { return ::unlink((std::string(n) + "/").c_str()); }));
  ops.push_back(call("rmdir", [](Name n) { return ::rmdir(n); }));
  ops.push_back(call("rmdir-dot", [](Name n) { return ::rmdir((std::string(n) + "/.").c_str()); }));
  ops.push_back(
      call("rmdir-slash", [](Name n) { return ::rmdir((std::string(n) + "/").c_str()); }));
  ops.push_back(call("mkdir", [](Name n) { return ::mkdir(n, 0751); }));
  ops.push_back(
      call("mkdir-slash", [](Name n) { return ::mkdir((std::string(n) + "/").c_str(), 0751); }));
  ops.push_back(
      call("mkdir-below", [](Name n) { return ::mkdir((std::string(n) + "/new").c_str(), 0751); }));
  ops.push_back(call("mkfifo", [](Name n) { return ::mkfifo(n, 0640); }));
  ops.push_back(call("mknod-file", [](Name n) { return ::mknod(n, S_IFREG | 0640, 0); }));
  ops.push_back(call("mknod-char", [](Name n) { return ::mknod(n, S_IFCHR | 0640, 0); }));
  ops.push_back(call("symlink", [](Name n) { return ::symlink("elsewhere", n); }));
  ops.push_back(call("symlink-empty", [](Name n) { return ::symlink("", n); }));
  ops.push_back(call("link-new", [](Name n) { return ::link(n, "fresh"); }));
  ops.push_back(call("link-below",
                     [](Name n) { return ::link("target", (std::string(n) + "/new").c_str()); }));
  ops.push_back(call("link-follow", [](Name n) {
    return ::linkat(AT_FDCWD, n, AT_FDCWD, "fresh", AT_SYMLINK_FOLLOW);
  }));
  ops.push_back(call("rename-away", [](Name n) { return ::rename(n, "fresh"); }));
  ops.push_back(call("rename-self", [](Name n) { return ::rename(n, n); }));
  ops.push_back(call("rename-below",
                     [](Name n) { return ::rename("target", (std::string(n) + "/new").c_str()); }));
  ops.push_back(call("rename-into-itself",
                     [](Name n) { return ::rename(n, (std::string(n) + "/new").c_str()); }));
  ops.push_back(call("rename-dot",
                     [](Name n) { return ::rename((std::string(n) + "/.").c_str(), "fresh"); }));
  ops.push_back(call("rename-slash",
                     [](Name n) { return ::rename((std::string(n) + "/").c_str(), "fresh"); }));
  ops.push_back(call("rename-whiteout", [](Name n) {
    return ::syscall(SYS_renameat2, AT_FDCWD, n, AT_FDCWD, "fresh", 4U);
  }));
  ops.push_back(call("rename-up", [](Name n) { return ::rename(n, "target-dir/fresh"); }));
  ops.push_back(call("creat-below", [](Name n) {
    const Fd fd(::open((std::string(n) + "/new").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0640));
    errno = fd.ok() ? 0 : errno;
    return fd.ok() ? 0L : -1L;
  }));
  ops.push_back(call("creat-slash", [](Name n) {
    const Fd fd(::open((std::string(n) + "/").c_str(), O_CREAT | O_WRONLY, 0640));
    return fd.ok() ? 0L : -1L;
  }));
  ops.push_back({"fresh-name-of-renamed", [](Name n) {
                   const std::string out = outcome(::rename(n, "fresh"));
                   return out + " " + state("fresh") + " " + attribute_names("fresh");
                 }});
  ops.push_back({"tmpfile-linked", [](Name n) {
                   const Fd fd(::open(n, O_TMPFILE | O_RDWR, 0640));
                   if (!fd.ok()) return fd.error();
                   (void)::write(fd.get(), "tmp", 3);
                   const std::string from = "/proc/self/fd/" + std::to_string(fd.get());
                   const std::string to = std::string(n) + "/linked";
                   const std::string out = outcome(
                       ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW));
                   return out + " " + state(to.c_str()) + " " + state(n);
                 }});
  ops.push_back({"both-names", [](Name n) {
                   const std::string other = std::string(n) + "-2";
                   const Fd fd(::open(n, O_WRONLY | O_NONBLOCK | O_APPEND));
                   if (!fd.ok()) return fd.error();
                   const std::string out = outcome(::write(fd.get(), "more", 4));
                   return out + " " + state(n) + " " + state(other.c_str());
                 }});
}

// --- directories ------------------------------------------------------------------------------

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

std::string seek_and_tell(Name path) {
  const Dir dir(::opendir(path));
  if (!dir) return error_name(errno);
  std::vector<std::pair<long, std::string>> seen;
  while (true) {
    const long at = ::telldir(dir.get());
    const dirent* item = ::readdir(dir.get());
    if (item == nullptr) break;
    seen.emplace_back(at, item->d_name);
  }
  for (const auto& [at, name] : seen) {
    ::seekdir(dir.get(), at);
    const dirent* item = ::readdir(dir.get());
    if (item == nullptr || name != item->d_name) return "lost its place at " + name;
  }
  ::rewinddir(dir.get());
  std::size_t again = 0;
  while (::readdir(dir.get()) != nullptr) ++again;
  return again == seen.size() ? std::to_string(again) + " names" : "names differ after rewinding";
}

// As rm -rf has it: names are removed while they are being read.
std::string remove_while_reading(Name path) {
  const Dir dir(::opendir(path));
  if (!dir) return error_name(errno);
  while (const dirent* item = ::readdir(dir.get())) {
    const std::string name = item->d_name;
    if (name == "." || name == "..") continue;
    const std::string full = std::string(path) + "/" + name;
    if (::unlink(full.c_str()) != 0) (void)::rmdir(full.c_str());
  }
  return listing(path) + " " + outcome(::rmdir(path)) + " " + state(path);
}

std::string numbers_in(Name path) {
  const Dir dir(::opendir(path));
  if (!dir) return error_name(errno);
  std::string out;
  while (const dirent* item = ::readdir(dir.get())) {
    struct stat st {};
    const std::string name = item->d_name;
    if (name == "..") continue;
    if (::fstatat(::dirfd(dir.get()), item->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        st.st_ino != item->d_ino) {
      out += " " + name;
    }
  }
  return out.empty() ? "agree" : "differ:" + out;
}

std::string add_while_open(Name path) {
  const Dir dir(::opendir(path));
  if (!dir) return error_name(errno);
  (void)::readdir(dir.get());
  const std::string made = outcome(::mkdir((std::string(path) + "/added").c_str(), 0755));
  ::rewinddir(dir.get());
  bool found = false;
  while (const dirent* item = ::readdir(dir.get()))
    found = found || std::strcmp(item->d_name, "added") == 0;
  return made + (found ? " seen" : " not seen") + " " + state(path);
}

void add_directories(Ops& ops) {
  ops.push_back({"readdir", listing});
  ops.push_back({"seekdir", seek_and_tell});
  ops.push_back({"remove-while-reading", remove_while_reading});
  ops.push_back({"add-while-open", add_while_open});
  ops.push_back({"directory-numbers", numbers_in});
  ops.push_back({"remake", [](Name n) {  // what was below must be gone for good
                   std::string out = remove_while_reading(n);
                   out += " " + outcome(::mkdir(n, 0700)) + " " + state(n);
                   out += " " + outcome(::rename(n, "fresh")) + " " + state("fresh");
                   return out;
                 }});
  ops.push_back({"remove-cwd", [](Name n) {
                   if (::chdir(n) != 0) return error_name(errno);
                   const Fd up(::open("..", O_PATH | O_CLOEXEC));
                   (void)::unlinkat(up.get(), n, AT_REMOVEDIR);
                   const std::string out = state(".") + " " + outcome(::mkdir("new", 0755));
                   (void)::fchdir(up.get());
                   return out;
                 }});
}

}  // namespace

int in_child(const std::function<int()>& what) {
  std::fflush(stdout);
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(what());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const Ops& operations() {
  static const Ops all = [] {
    Ops ops;
    add_opens(ops);
    add_looks(ops);
    add_bytes(ops);
    add_rest(ops);
    add_attributes(ops);
    add_modes(ops);
    add_names(ops);
    add_directories(ops);
    return ops;
  }();
  return all;
}

Ops guarded_operations() {
  Ops ops;
  add_modes(ops);
  add_directories(ops);
  add_looks(ops);
  static const std::set<std::string> kToo = {
      "stat",        "stat/file",   "lstat",          "chdir",      "access-r",
      "access-w",    "access-x",    "faccessat2-rwx", "readdir",    "remove-while-reading",
      "chmod-384",   "chmod-1517",  "fchmod",         "chown-same", "chown-none",
      "chown-group", "utimens-set", "utimens-now"};
  std::erase_if(ops, [](const Op& op) { return !kToo.contains(op.name); });
  ops.push_back(with_fd("open-rdonly", O_RDONLY, open_result));
  ops.push_back(with_fd("open-rdwr", O_RDWR, open_result));
  ops.push_back(with_fd("open-append", O_WRONLY | O_APPEND, open_result));
  ops.push_back(with_fd("open-trunc", O_WRONLY | O_TRUNC, open_result));
  ops.push_back(call("unlink", [](Name n) { return ::unlink(n); }));
  ops.push_back(call("rmdir", [](Name n) { return ::rmdir(n); }));
  ops.push_back(
      call("unlink-inside", [](Name n) { return ::unlink((std::string(n) + "/file").c_str()); }));
  ops.push_back(call("rename-inside", [](Name n) {
    return ::rename((std::string(n) + "/file").c_str(), (std::string(n) + "/fresh").c_str());
  }));
  ops.push_back(call("mkdir-inside",
                     [](Name n) { return ::mkdir((std::string(n) + "/new").c_str(), 0777); }));
  ops.push_back(call("link-new", [](Name n) { return ::link(n, "fresh"); }));
  ops.push_back(call("setxattr", [](Name n) { return ::setxattr(n, "user.a", "x", 1, 0); }));
  ops.push_back({"creat-inside", [](Name n) {
                   const std::string path = std::string(n) + "/new";
                   const Fd fd(::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0666));
                   return (fd.ok() ? "made" : fd.error()) + " " + state(path.c_str()) + " " +
                          attribute(path.c_str(), "system.posix_acl_access");
                 }});
  ops.push_back({"exec", [](Name n) {
                   return std::to_string(
                       exit_of([=] { ::execl(n, n, static_cast<char*>(nullptr)); }));
                 }});
  ops.push_back({"getxattr-acl", [](Name n) { return attribute(n, "system.posix_acl_access"); }});
  return ops;
}

}  // namespace parity
