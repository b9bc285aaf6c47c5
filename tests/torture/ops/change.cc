#include "change.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <cstdio>
#include <cstdlib>

#include "look.h"

namespace torture {

// The kernel stamps files by its coarse clock or, since 6.13 and where somebody asked for the time
// meanwhile, by the exact one. Whatever was stamped before this call is older than the next step
// of the coarse clock, and nothing later is stamped with less than that. Twice: the clock that we
// can read may lag behind the one that stamps.
std::string next_tick() {
  const auto coarse = [] {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return std::pair(now.tv_sec, now.tv_nsec);
  };
  for (int step = 0; step < 2; ++step) {
    const auto begin = coarse();
    while (coarse() <= begin) {
      const timespec pause{0, 300'000};
      ::nanosleep(&pause, nullptr);
    }
  }
  return "ok";
}

std::string write_text(const std::string& path, int flags, const std::string& text) {
  const Fd fd(::open(path.c_str(), flags, 0666));
  return fd.ok() ? outcome(::write(fd.get(), text.data(), text.size())) : error();
}

std::string write_at(const std::string& path, off_t offset, const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("w")));
  return fd.ok() ? outcome(::pwrite(fd.get(), text.data(), text.size(), offset)) : error();
}

std::string pattern(std::size_t size, unsigned seed) {
  std::string out(size, '\0');
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<char>(i * 31 + seed * 17 + i / 251);
  return out;
}

std::string map_write(const std::string& path, bool shared, std::size_t offset,
                      const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("rw")));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  const auto size = static_cast<std::size_t>(st.st_size);
  if (offset + text.size() > size) return "behind the end";
  void* at =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd.get(), 0);
  if (at == MAP_FAILED) return error();
  std::memcpy(static_cast<char*>(at) + offset, text.data(), text.size());
  const std::string bytes(static_cast<char*>(at), size);
  ::munmap(at, size);
  return bytes_digest(bytes) + " " + bytes_digest(read_all(fd.get()));
}

std::string allocate(const std::string& path, const std::string& how, off_t offset, off_t size) {
  const Fd fd(::open(path.c_str(), open_flags("rw")));
  if (!fd.ok()) return error();
  const int mode = how == "punch"  ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                   : how == "zero" ? FALLOC_FL_ZERO_RANGE
                   : how == "keep" ? FALLOC_FL_KEEP_SIZE
                                   : 0;
  return outcome(::fallocate(fd.get(), mode, offset, size));
}

std::string copy_range(const std::string& from, const std::string& to) {
  const Fd in(::open(from.c_str(), open_flags("r")));
  if (!in.ok()) return error();
  const Fd out(::open(to.c_str(), open_flags("wct"), 0666));
  if (!out.ok()) return "to " + error();
  long total = 0;
  ssize_t n;
  while ((n = ::copy_file_range(in.get(), nullptr, out.get(), nullptr, 1 << 20, 0)) > 0) total += n;
  return n < 0 ? error() : std::to_string(total);
}

std::string send_file(const std::string& from, const std::string& to) {
  const Fd in(::open(from.c_str(), open_flags("r")));
  if (!in.ok()) return error();
  const Fd out(::open(to.c_str(), open_flags("wc"), 0666));
  if (!out.ok()) return "to " + error();
  long total = 0;
  ssize_t n;
  while ((n = ::sendfile(out.get(), in.get(), nullptr, 1 << 20)) > 0) total += n;
  return n < 0 ? error() : std::to_string(total);
}

std::string temporary_file(const std::string& dir, const std::string& name,
                           const std::string& text) {
  const Fd fd(::open(dir.c_str(), O_TMPFILE | O_RDWR, 0640));
  if (!fd.ok()) return error();
  const std::string wrote = outcome(::write(fd.get(), text.data(), text.size()));
  return wrote + " " +
         outcome(
             ::linkat(AT_FDCWD, fd.proc_path().c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW));
}

std::string rename_to(const std::string& from, const std::string& to, const std::string& how) {
  const unsigned flags = how == "x" ? RENAME_EXCHANGE : how == "n" ? RENAME_NOREPLACE : 0;
  return outcome(::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

std::string link_to(const std::string& from, const std::string& to, bool follow) {
  return outcome(
      ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), follow ? AT_SYMLINK_FOLLOW : 0));
}

std::string write_unlinked(const std::string& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("rw")));
  if (!fd.ok()) return error();
  std::string out = outcome(::unlink(path.c_str()));
  out += " " + outcome(::pwrite(fd.get(), text.data(), text.size(), 1));
  return out + " " + bytes_digest(read_all(fd.get())) + " " + lstat_of(path);
}

std::string write_renamed(const std::string& path, const std::string& to, const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("rwa")));
  if (!fd.ok()) return error();
  std::string out = rename_to(path, to, "");
  out += " " + outcome(::write(fd.get(), text.data(), text.size()));
  return out + " " + read_whole(to, "r");
}

std::string sync_file(const std::string& path) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  return fd.ok() ? outcome(::fsync(fd.get())) : error();
}

std::string make_node(const std::string& path, const std::string& kind) {
  const mode_t type = kind == "fifo" ? S_IFIFO : kind == "sock" ? S_IFSOCK : S_IFCHR;
  return outcome(::mknod(path.c_str(), type | 0644, makedev(0, 0)));
}

std::string make_socket(const std::string& path) {
  const Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return "too long";
  std::memcpy(address.sun_path, path.data(), path.size());
  return outcome(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
}

std::string set_time(const std::string& path, const std::string& seconds) {
  timespec time{std::strtol(seconds.c_str(), nullptr, 10), 0};
  if (seconds == "now") time.tv_nsec = UTIME_NOW;
  const timespec times[2] = {time, time};
  return outcome(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW));
}

std::string set_xattr(const std::string& path, const std::string& name, const std::string& value,
                      const std::string& how) {
  const int flags = how == "c" ? XATTR_CREATE : how == "r" ? XATTR_REPLACE : 0;
  return outcome(::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), flags));
}

// user::rw-, user:7:r--, group::r--, mask::r--, other::---, as the kernel has it (version 2).
std::string set_acl(const std::string& path) {
  std::string value("\2\0\0\0", 4);
  const auto entry = [&](unsigned tag, unsigned bits, unsigned id) {
    for (const unsigned half : {tag, bits, id & 0xffff, id >> 16}) {
      value += {static_cast<char>(half & 255), static_cast<char>(half >> 8)};
    }
  };
  constexpr unsigned kNobody = 0xffffffff;
  entry(0x01, 6, kNobody);
  entry(0x02, 4, 7);
  entry(0x04, 4, kNobody);
  entry(0x10, 4, kNobody);
  entry(0x20, 0, kNobody);
  return set_xattr(path, "system.posix_acl_access", value, "");
}

int remove_tree(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return 0;
  if (!S_ISDIR(st.st_mode)) return ::unlink(path.c_str()) == 0 ? 1 : 0;
  int gone = 0;
  const Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (fd.ok()) {
    for (const std::string& name : names_in(fd.get())) gone += remove_tree(path + "/" + name);
  }
  return gone + (::rmdir(path.c_str()) == 0 ? 1 : 0);
}

int copy_tree(const std::string& from, const std::string& to, bool ticks, int depth) {
  struct stat st {};
  if (depth > 6 || ::lstat(from.c_str(), &st) != 0) return 0;
  if (ticks && !S_ISDIR(st.st_mode)) next_tick();
  if (S_ISLNK(st.st_mode)) return ::symlink(unescape(read_link(from)).c_str(), to.c_str()) == 0;
  if (S_ISREG(st.st_mode)) {
    return write_text(to, open_flags("wct"), slurp(from)).front() == 'E' ? 0 : 1;
  }
  if (!S_ISDIR(st.st_mode)) return 0;
  int made = ::mkdir(to.c_str(), st.st_mode & 0777) == 0 ? 1 : 0;
  const Fd fd(::open(from.c_str(), O_RDONLY | O_DIRECTORY));
  if (!fd.ok()) return made;
  for (const std::string& name : names_in(fd.get())) {
    made += copy_tree(from + "/" + name, to + "/" + name, ticks, depth + 1);
  }
  return made;
}

std::string make_deep(const std::string& dir, int levels, const std::string& text) {
  const std::string name(255, 'n');
  if (::chdir(dir.c_str()) != 0) return error();
  int at = 0;
  for (; at < levels; ++at) {
    if (::mkdir(name.c_str(), 0755) != 0 && errno != EEXIST) break;
    if (::chdir(name.c_str()) != 0) break;
  }
  std::string out = std::to_string(at) + " " + write_text("a", open_flags("wct"), text);
  out += " " + rename_to("a", "b", "n") + " " + rename_to("b", "a", "");
  return ::chdir("/workspace") == 0 ? out : "lost";
}

}  // namespace torture
