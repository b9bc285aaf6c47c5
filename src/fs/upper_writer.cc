#include "fs/upper_writer.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <utility>
#include <vector>

namespace hm::fs {

namespace {

constexpr std::size_t kBlock = 512;                            // bytes; of tar
constexpr std::size_t kBuffer = std::size_t{1} << 18;          // bytes, before they are handed over
constexpr std::size_t kMostHeader = 1'000'000;                 // bytes; libarchive takes no longer
constexpr unsigned long long kMostInHeader = 077777777777ULL;  // of a size in octal digits

std::size_t padding(std::size_t size) { return (kBlock - size % kBlock) % kBlock; }

// `digits` octal digits; a zero follows them already.
void put(char* field, std::size_t digits, unsigned long long value) {
  while (digits > 0) {
    field[--digits] = static_cast<char>('0' + (value & 7));
    value >>= 3;
  }
}

// The ustar header of an entry whose name is in the extended header before it.
std::string block_of(char type, unsigned mode, unsigned long long size, dev_t device) {
  std::string block(kBlock, '\0');
  char* at = block.data();
  std::strcpy(at, "entry");
  put(at + 100, 7, mode);
  put(at + 108, 7, 0);  // uid, gid
  put(at + 116, 7, 0);
  put(at + 124, 11, size > kMostInHeader ? 0 : size);
  put(at + 136, 11, 0);  // mtime
  std::memset(at + 148, ' ', 8);
  at[156] = type;
  if (type == '1' || type == '2') std::strcpy(at + 157, "link");  // or libarchive sees no link
  std::memcpy(at + 257, "ustar\00000", 8);
  put(at + 329, 7, major(device));
  put(at + 337, 7, minor(device));
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  put(at + 148, 6, sum);
  at[154] = '\0';
  return block;
}

// "LENGTH KEY=VALUE\n", where LENGTH counts itself.
void add_record(std::string& header, const std::string& key, const std::string& value) {
  const std::size_t rest = key.size() + value.size() + 3;
  std::size_t length = rest + 1;
  while (std::to_string(length).size() + rest != length) {
    length = std::to_string(length).size() + rest;
  }
  header += std::to_string(length) + " " + key + "=" + value + "\n";
}

std::string escaped(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (c == '%') {
      out += "%25";
    } else if (c == '=') {
      out += "%3D";
    } else {
      out += c;
    }
  }
  return out;
}

std::string time_text(const timespec& time) {
  char text[48];
  std::snprintf(text, sizeof text, "%lld.%09ld", static_cast<long long>(time.tv_sec), time.tv_nsec);
  return text;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Each step returns false when something went wrong, and `error_` then says what.
class Writer {
 public:
  explicit Writer(const ArchiveSink& sink) : sink_(sink) {}

  std::string run(const std::string& upper) {
    const Descriptor root(::open(upper.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root.get() < 0) {
      failed(upper);
    } else if (directory(root.get(), "", AT_FDCWD, upper)) {
      out_.append(2 * kBlock, '\0');
      flush();
    }
    return error_;
  }

 private:
  bool failed(const std::string& what) {
    error_ = what + ": " + std::strerror(errno);
    return false;
  }

  bool flush() {
    if (!out_.empty() && !sink_(out_.data(), out_.size())) {
      error_ = "the sink is closed";
      return false;
    }
    out_.clear();
    return true;
  }

  bool add_attributes(std::string& header, int dir, const std::string& name,
                      const std::string& path) {
    const std::string file = "/proc/self/fd/" + std::to_string(dir) + "/" + name;
    std::vector<char> names(XATTR_LIST_MAX), value(XATTR_SIZE_MAX);
    const ssize_t size = ::llistxattr(file.c_str(), names.data(), names.size());
    if (size < 0) return errno == ENOTSUP || failed("/" + path + ": listxattr");
    for (const char* at = names.data(); at < names.data() + size; at += std::strlen(at) + 1) {
      const ssize_t got = ::lgetxattr(file.c_str(), at, value.data(), value.size());
      if (got < 0) return failed("/" + path + ": " + at);
      add_record(header, "SCHILY.xattr." + escaped(at),
                 std::string(value.data(), static_cast<std::size_t>(got)));
    }
    return true;
  }

  // Both headers. `link` is a target, or the name of an earlier entry.
  bool headers(char type, const std::string& path, const struct stat& st, const std::string& link,
               std::string attributes) {
    const bool has_data = type == '0';
    std::string header;
    add_record(header, "hdrcharset", "BINARY");
    add_record(header, "path", path.empty() ? "." : path);
    add_record(header, "uid", std::to_string(st.st_uid));
    add_record(header, "gid", std::to_string(st.st_gid));
    add_record(header, "mtime", time_text(st.st_mtim));
    if (!link.empty()) add_record(header, "linkpath", link);
    if (has_data) add_record(header, "size", std::to_string(st.st_size));
    header += attributes;
    if (header.size() > kMostHeader) {
      error_ = "/" + path + ": more attributes than an archive can hold";
      return false;
    }
    out_ += block_of('x', 0, header.size(), 0);
    out_ += header;
    out_.append(padding(header.size()), '\0');
    const bool is_device = type == '3' || type == '4';
    out_ += block_of(type, st.st_mode & 07777,
                     has_data ? static_cast<unsigned long long>(st.st_size) : 0,
                     is_device ? st.st_rdev : 0);
    return out_.size() < kBuffer || flush();
  }

  bool data(int dir, const std::string& name, const std::string& path, std::size_t size) {
    const Descriptor file(::openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (file.get() < 0) return failed("/" + path);
    for (std::size_t left = size; left > 0;) {
      const std::size_t before = out_.size();
      out_.resize(before + std::min(left, kBuffer));
      const ssize_t got = ::read(file.get(), out_.data() + before, out_.size() - before);
      out_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return failed("/" + path);
      if (got == 0) {
        error_ = "/" + path + ": shorter than it was";
        return false;
      }
      left -= static_cast<std::size_t>(got);
      if (out_.size() >= kBuffer && !flush()) return false;
    }
    out_.append(padding(size), '\0');
    return true;
  }

  bool directory(int fd, const std::string& path, int parent, const std::string& name) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return failed("/" + path);
    std::string attributes;
    if (path.empty()) {
      timespec now{};
      ::clock_gettime(CLOCK_REALTIME, &now);
      add_record(attributes, "atime", time_text(now));
    }
    if (!add_attributes(attributes, fd, ".", path)) return false;
    if (!headers('5', path, st, "", std::move(attributes))) return false;
    std::vector<std::string> names;
    if (!list(parent, name, names)) return failed("/" + path);
    for (const std::string& item : names) {
      if (!child(fd, item, path.empty() ? item : path + "/" + item)) return false;
    }
    return true;
  }

  static bool list(int parent, const std::string& name, std::vector<std::string>& names) {
    const int fd = ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return false;
    DIR* dir = ::fdopendir(fd);
    if (dir == nullptr) {
      ::close(fd);
      return false;
    }
    errno = 0;
    while (const dirent* item = ::readdir(dir)) {
      if (std::strcmp(item->d_name, ".") != 0 && std::strcmp(item->d_name, "..") != 0) {
        names.emplace_back(item->d_name);
      }
      errno = 0;
    }
    const int error = errno;
    ::closedir(dir);
    std::sort(names.begin(), names.end());
    errno = error;
    return error == 0;
  }

  bool child(int dir, const std::string& name, const std::string& path) {
    struct stat st {};
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return failed("/" + path);
    if (S_ISDIR(st.st_mode)) {
      const Descriptor fd(
          ::openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      return fd.get() < 0 ? failed("/" + path) : directory(fd.get(), path, dir, name);
    }
    const bool is_whiteout = S_ISCHR(st.st_mode) && st.st_rdev == 0;
    if (is_whiteout) return headers('3', path, st, "", "");
    if (st.st_nlink > 1) {
      const auto [first, is_new] = links_.try_emplace({st.st_dev, st.st_ino}, path);
      if (!is_new) return headers('1', path, st, first->second, "");
    }
    std::string attributes;
    if (!add_attributes(attributes, dir, name, path)) return false;
    if (S_ISREG(st.st_mode)) {
      return headers('0', path, st, "", std::move(attributes)) &&
             data(dir, name, path, static_cast<std::size_t>(st.st_size));
    }
    if (S_ISSOCK(st.st_mode)) {
      add_record(attributes, "SCHILY.xattr.hm.socket", "y");
      st.st_size = 0;
      return headers('0', path, st, "", std::move(attributes));
    }
    std::string target;
    if (S_ISLNK(st.st_mode) && !read_link(dir, name, target)) return failed("/" + path);
    const char type = S_ISLNK(st.st_mode)   ? '2'
                      : S_ISCHR(st.st_mode) ? '3'
                      : S_ISBLK(st.st_mode) ? '4'
                                            : '6';
    return headers(type, path, st, target, std::move(attributes));
  }

  static bool read_link(int dir, const std::string& name, std::string& target) {
    target.resize(PATH_MAX);
    const ssize_t size = ::readlinkat(dir, name.c_str(), target.data(), target.size());
    if (size < 0) return false;
    target.resize(static_cast<std::size_t>(size));
    return true;
  }

  const ArchiveSink& sink_;
  std::string out_;  // not handed over yet
  std::string error_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;  // the first name of each inode
};

}  // namespace

std::string write_upper(const std::string& upper, const ArchiveSink& sink) {
  return Writer(sink).run(upper);
}

}  // namespace hm::fs
