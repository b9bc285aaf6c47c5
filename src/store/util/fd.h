// Fd: an owned file descriptor, and the few file helpers everything else is built from.
//
// Every descriptor is opened O_CLOEXEC. EINTR is retried inside the helpers. Thread-safety: an Fd
// belongs to one thread at a time; the free functions have no state.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/util/result.h"

namespace hm {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// open(2)/openat(2) with O_CLOEXEC added.
Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0);
Result<Fd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode = 0);

// openat2(2), with the RESOLVE_ flags of how far a walk may go; an empty path is the directory.
Result<Fd> open_resolving(int dir_fd, const std::string& path, int flags, std::uint64_t resolve);

// What is in a directory, sorted, without "." and "..". An error, never a part of it.
Result<std::vector<std::string>> names_at(int dir_fd);

Result<std::string> read_all(int fd);
Result<std::string> read_file(const std::string& path);
Status write_all(int fd, std::string_view data);
// Copies a whole file into an empty one, on whatever filesystem: a reflink where there are such.
// Returns how many bytes there were.
Result<std::uint64_t> copy_bytes(int from, int to);
// Temporary name in the same directory, then rename: readers see the old file or the whole new one.
Status write_file_atomically(const std::string& path, std::string_view data, mode_t mode);

// mkdir -p; existing directories are success.
Status make_directories(const std::string& path, mode_t mode);
// Removes a tree without following symlinks and without crossing mounts; absent is success. However
// deep it is, few descriptors and little stack are used.
Status remove_tree(int dir_fd, const std::string& name);

// readlink(2) of any length; an empty path reads the link that an O_PATH descriptor names.
Result<std::string> read_link_at(int dir_fd, const std::string& path);

// realpath(3); the path itself where it cannot be resolved.
std::string real_path(const std::string& path);

// Nanoseconds on CLOCK_REALTIME.
std::int64_t now_ns();
// A time beyond the years that 64 bits hold (1677 to 2262) is at their edge.
std::int64_t to_ns(const timespec& time);

}  // namespace hm
