// A library to preload into hm: counts its file operations below one directory, and lets one fail.
//
//   HM_FAULT_DIR   what is counted: operations on paths and descriptors below it
//   HM_FAULT       KIND:N:FAULT[+] — the N-th operation of KIND fails; `+`: all from it on.
//                  KIND `change` is every operation that leaves something on the disk.
//   HM_FAULT_LOG   a file that gets "fired OPERATION PATH", and at the end "KIND COUNT" lines
//
// FAULT is an errno (EIO, ENOSPC, …), or: short — half of the bytes are read or written;
// die, die-after — SIGKILL before or after it; die-torn — SIGKILL behind half of a write.
// HM_FAULT=stall: once an overlay is being mounted, no request to /dev/fuse is answered any more.
// Armed in programs named hm… only: git, which hm starts, inherits the environment.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

enum Kind {
  kOpen,
  kCreate,
  kRead,
  kWrite,
  kSync,
  kRename,
  kUnlink,
  kTruncate,
  kMkdir,
  kLock,
  kMap,
  kChange,  // counted beside the others
  kKinds
};
constexpr std::array<const char*, kKinds> kKindNames = {"open",  "create", "read",   "write",
                                                        "sync",  "rename", "unlink", "truncate",
                                                        "mkdir", "lock",   "map",    "change"};

bool leaves_something(Kind kind) {
  return kind != kOpen && kind != kRead && kind != kLock && kind != kMap;
}

enum class Fault { kNone, kErrno, kShort, kDie, kDieAfter, kDieTorn };

struct Name {
  const char* name;
  Fault fault;
  int error;
};
constexpr Name kFaults[] = {{"EIO", Fault::kErrno, EIO},        {"ENOSPC", Fault::kErrno, ENOSPC},
                            {"EROFS", Fault::kErrno, EROFS},    {"EMFILE", Fault::kErrno, EMFILE},
                            {"ENOMEM", Fault::kErrno, ENOMEM},  {"ENOLCK", Fault::kErrno, ENOLCK},
                            {"short", Fault::kShort, 0},        {"die", Fault::kDie, 0},
                            {"die-after", Fault::kDieAfter, 0}, {"die-torn", Fault::kDieTorn, 0}};

struct Plan {
  bool armed = false;  // counts
  bool stall = false;
  std::string dir, log;
  int kind = -1;
  unsigned long nth = 0;
  bool from_then_on = false;
  Name fault{};
  std::array<std::atomic<unsigned long>, kKinds> counts{};
  std::atomic<bool> stalled{false};

  Plan();
  ~Plan();
};

Plan& plan() {
  static Plan plan;
  return plan;
}

template <class Function>
Function* real(Function*, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}
#define REAL(name) (real(&::name, #name))

void append(const std::string& path, const std::string& text) {
  const int fd = REAL(open64)(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return;
  (void)!REAL(write)(fd, text.data(), text.size());
  ::close(fd);
}

Plan::Plan() {
  const char* in = ::getenv("HM_FAULT_DIR");
  const char* what = ::getenv("HM_FAULT");
  const char* to = ::getenv("HM_FAULT_LOG");
  if (in == nullptr || std::strncmp(program_invocation_short_name, "hm", 2) != 0) return;
  dir = std::string(in) + "/";
  log = to != nullptr ? to : "";
  armed = true;
  if (what == nullptr) return;
  stall = std::strcmp(what, "stall") == 0;
  if (stall) return;
  const std::string text = what;
  const std::size_t first = text.find(':'), second = text.find(':', first + 1);
  if (second == std::string::npos) ::abort();
  std::string name = text.substr(second + 1);
  from_then_on = name.back() == '+';
  if (from_then_on) name.pop_back();
  nth = std::stoul(text.substr(first + 1));
  for (int i = 0; i < kKinds; ++i) {
    if (text.substr(0, first) == kKindNames[static_cast<std::size_t>(i)]) kind = i;
  }
  for (const Name& known : kFaults) {
    if (name == known.name) fault = known;
  }
  if (kind < 0 || fault.name == nullptr) ::abort();
}

Plan::~Plan() {
  if (!armed || log.empty()) return;
  std::string text;
  for (std::size_t i = 0; i < kKinds; ++i) {
    text += std::string(kKindNames[i]) + " " + std::to_string(counts[i]) + "\n";
  }
  armed = false;
  append(log, text);
}

std::string path_of(int fd) {
  std::array<char, PATH_MAX> out{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), out.data(), out.size());
  return n > 0 ? std::string(out.data(), static_cast<std::size_t>(n)) : "";
}

std::string path_at(int dir_fd, const char* path) {
  if (path[0] == '/') return path;
  return dir_fd == AT_FDCWD ? "" : path_of(dir_fd) + "/" + path;
}

Kind kind_of_open(int flags) { return (flags & O_CREAT) != 0 ? kCreate : kOpen; }

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

// Counts the operation; what is to happen to it.
Fault fate(Kind kind, const char* operation, const std::string& path) {
  Plan& to = plan();
  if (!to.armed) return Fault::kNone;
  const std::string inside = path + "/";  // the directory itself counts
  if (inside.compare(0, to.dir.size(), to.dir) != 0) return Fault::kNone;
  const unsigned long of_kind = ++to.counts[kind];
  const unsigned long changes = leaves_something(kind) ? ++to.counts[kChange] : 0;
  const bool planned = to.kind == kind || (to.kind == kChange && leaves_something(kind));
  if (!planned) return Fault::kNone;
  const unsigned long at = to.kind == kind ? of_kind : changes;
  if (at != to.nth && !(to.from_then_on && at > to.nth)) return Fault::kNone;
  if (at == to.nth) append(to.log, std::string("fired ") + operation + " " + path + "\n");
  if (to.fault.fault == Fault::kDie) die();
  return to.fault.fault;
}

// An operation that is done or not: `call` does it.
template <class Call>
auto whole(Kind kind, const char* operation, const std::string& path, Call call)
    -> decltype(call()) {
  const Fault fault = fate(kind, operation, path);
  if (fault == Fault::kErrno) {
    errno = plan().fault.error;
    return static_cast<decltype(call())>(-1);
  }
  const auto result = call();
  if (fault == Fault::kDieAfter || fault == Fault::kDieTorn) die();
  return result;
}

// A transfer of `size` bytes: `call` does it with fewer, too.
template <class Call>
ssize_t transfer(Kind kind, const char* operation, int fd, std::size_t size, Call call) {
  const Fault fault = plan().armed ? fate(kind, operation, path_of(fd)) : Fault::kNone;
  if (fault == Fault::kErrno) {
    errno = plan().fault.error;
    return -1;
  }
  const bool half = fault == Fault::kShort || fault == Fault::kDieTorn;
  const ssize_t result = call(half && size > 1 ? size / 2 : size);
  if (fault == Fault::kDieAfter || fault == Fault::kDieTorn) die();
  return result;
}

}  // namespace

extern "C" {

int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  static const auto next = REAL(open64);
  return whole(kind_of_open(flags), "open", path, [&] { return next(path, flags, mode); });
}

int openat64(int dir_fd, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  static const auto next = REAL(openat64);
  return whole(kind_of_open(flags), "openat", path_at(dir_fd, path),
               [&] { return next(dir_fd, path, flags, mode); });
}

ssize_t read(int fd, void* data, size_t size) {
  static const auto next = REAL(read);
  const ssize_t got =
      transfer(kRead, "read", fd, size, [&](std::size_t n) { return next(fd, data, n); });
  if (plan().stalled && path_of(fd) == "/dev/fuse") {
    for (;;) ::pause();
  }
  return got;
}

ssize_t pread64(int fd, void* data, size_t size, off64_t at) {
  static const auto next = REAL(pread64);
  return transfer(kRead, "pread", fd, size, [&](std::size_t n) { return next(fd, data, n, at); });
}

ssize_t write(int fd, const void* data, size_t size) {
  static const auto next = REAL(write);
  return transfer(kWrite, "write", fd, size, [&](std::size_t n) { return next(fd, data, n); });
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  static const auto next = REAL(pwrite64);
  return transfer(kWrite, "pwrite", fd, size, [&](std::size_t n) { return next(fd, data, n, at); });
}

int fsync(int fd) {
  static const auto next = REAL(fsync);
  return whole(kSync, "fsync", path_of(fd), [&] { return next(fd); });
}

int fdatasync(int fd) {
  static const auto next = REAL(fdatasync);
  return whole(kSync, "fdatasync", path_of(fd), [&] { return next(fd); });
}

int syncfs(int fd) noexcept {
  static const auto next = REAL(syncfs);
  return whole(kSync, "syncfs", path_of(fd), [&] { return next(fd); });
}

int rename(const char* from, const char* to) noexcept {
  static const auto next = REAL(rename);
  return whole(kRename, "rename", to, [&] { return next(from, to); });
}

int renameat(int from_fd, const char* from, int to_fd, const char* to) noexcept {
  static const auto next = REAL(renameat);
  return whole(kRename, "renameat", path_at(to_fd, to),
               [&] { return next(from_fd, from, to_fd, to); });
}

int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) noexcept {
  static const auto next = REAL(renameat2);
  return whole(kRename, "renameat2", path_at(to_fd, to),
               [&] { return next(from_fd, from, to_fd, to, flags); });
}

int unlink(const char* path) noexcept {
  static const auto next = REAL(unlink);
  return whole(kUnlink, "unlink", path, [&] { return next(path); });
}

int unlinkat(int dir_fd, const char* path, int flags) noexcept {
  static const auto next = REAL(unlinkat);
  return whole(kUnlink, "unlinkat", path_at(dir_fd, path),
               [&] { return next(dir_fd, path, flags); });
}

int ftruncate64(int fd, off64_t size) noexcept {
  static const auto next = REAL(ftruncate64);
  return whole(kTruncate, "ftruncate", path_of(fd), [&] { return next(fd, size); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto next = REAL(mkdir);
  return whole(kMkdir, "mkdir", path, [&] { return next(path, mode); });
}

// <fcntl.h> has a struct of this name.
int file_lock(int fd, int operation) noexcept __asm__("flock");
int file_lock(int fd, int operation) noexcept {
  static const auto next = real(&file_lock, "flock");
  return whole(kLock, "flock", path_of(fd), [&] { return next(fd, operation); });
}

int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  static const auto next = REAL(fcntl64);
  const auto call = [&] { return next(fd, command, argument); };
  const bool locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
  return locks ? whole(kLock, "fcntl", path_of(fd), call) : call();
}

void* mmap64(void* at, size_t size, int protection, int flags, int fd, off64_t offset) noexcept {
  static const auto next = REAL(mmap64);
  const auto call = [&] {
    return reinterpret_cast<long>(next(at, size, protection, flags, fd, offset));
  };
  return reinterpret_cast<void*>(fd < 0 ? call() : whole(kMap, "mmap", path_of(fd), call));
}

int mount(const char* source, const char* target, const char* type, unsigned long flags,
          const void* data) noexcept {
  static const auto next = real(&mount, "mount");
  if (plan().stall && type != nullptr && std::strcmp(type, "overlay") == 0) {
    append(plan().log, "fired mount " + std::string(target) + "\n");
    plan().stalled = true;
  }
  return next(source, target, type, flags, data);
}

}  // extern "C"
