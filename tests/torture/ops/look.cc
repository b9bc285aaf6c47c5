#include "look.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <algorithm>
#include <map>

namespace torture {

std::string stat_of(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) != 0 ? error() : stat_text(st);
}

std::string lstat_of(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) != 0 ? error() : stat_text(st);
}

std::string statx_of(const std::string& path, const std::string& letters) {
  static const std::pair<char, unsigned> kFields[] = {{'t', STATX_TYPE},
                                                      {'m', STATX_MODE},
                                                      {'l', STATX_NLINK},
                                                      {'o', STATX_UID | STATX_GID},
                                                      {'s', STATX_SIZE}};
  const auto asked = [&](char letter) { return letters.find(letter) != std::string::npos; };
  unsigned mask = 0;
  for (const auto& [letter, field] : kFields) mask |= asked(letter) ? field : 0;
  const int sync = asked('f') ? AT_STATX_FORCE_SYNC : asked('d') ? AT_STATX_DONT_SYNC : 0;
  struct statx st {};
  if (::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW | sync, mask, &st) != 0) return error();
  const bool is_directory = S_ISDIR(st.stx_mode);
  std::string out(1, type_letter(st.stx_mode));
  if (asked('m')) out += " mode=" + std::to_string(st.stx_mode & 07777);
  if (asked('o')) out += " " + std::to_string(st.stx_uid) + ":" + std::to_string(st.stx_gid);
  if (asked('l') && !is_directory) out += " nlink=" + std::to_string(st.stx_nlink);
  if (asked('s') && !is_directory) out += " size=" + std::to_string(st.stx_size);
  return out;
}

std::string access_to(const std::string& path, int mode, bool follow) {
  const int flags = follow ? 0 : AT_SYMLINK_NOFOLLOW;
  return outcome(::faccessat(AT_FDCWD, path.c_str(), mode, flags));
}

std::string open_and_stat(const std::string& path, const std::string& letters) {
  const Fd fd(::open(path.c_str(), open_flags(letters), 0644));
  struct stat st {};
  return !fd.ok() ? error() : ::fstat(fd.get(), &st) != 0 ? error() : stat_text(st);
}

std::string read_whole(const std::string& path, const std::string& letters) {
  const Fd fd(::open(path.c_str(), open_flags(letters)));
  if (!fd.ok()) return error();
  errno = 0;
  const std::string bytes = read_all(fd.get());
  return bytes_digest(bytes) + (errno != 0 ? " " + error() : "");
}

std::string read_part(const std::string& path, off_t offset, std::size_t size) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  if (!fd.ok()) return error();
  std::string bytes(size, '\0');
  const ssize_t n = ::pread(fd.get(), bytes.data(), size, offset);
  return n < 0 ? error() : bytes_digest(bytes.substr(0, static_cast<std::size_t>(n)));
}

std::string map_read(const std::string& path, bool shared, off_t offset, std::size_t size) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  if (offset >= st.st_size) return "behind the end";
  size = std::min(size, static_cast<std::size_t>(st.st_size - offset));
  const off_t page = offset & ~4095L;
  const auto lead = static_cast<std::size_t>(offset - page);
  void* at =
      ::mmap(nullptr, size + lead, PROT_READ, shared ? MAP_SHARED : MAP_PRIVATE, fd.get(), page);
  if (at == MAP_FAILED) return error();
  const std::string bytes(static_cast<char*>(at) + lead, size);
  ::munmap(at, size + lead);
  return bytes_digest(bytes);
}

std::string seek_in(const std::string& path, bool hole, off_t offset) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  if (!S_ISREG(st.st_mode)) return "no file";
  return outcome(::lseek(fd.get(), offset, hole ? SEEK_HOLE : SEEK_DATA));
}

std::string path_descriptor(const std::string& path, const std::string& letters) {
  const Fd fd(::open(path.c_str(), open_flags("p" + letters)));
  if (!fd.ok()) return error();
  struct stat st {};
  std::string out = ::fstat(fd.get(), &st) != 0 ? error() : stat_text(st);
  char byte;
  out += " read " + outcome(::read(fd.get(), &byte, 1));
  if (S_ISLNK(st.st_mode)) {
    char target[5000];
    const ssize_t n = ::readlinkat(fd.get(), "", target, sizeof target);
    return out + " -> " + (n < 0 ? error() : escape({target, static_cast<std::size_t>(n)}));
  }
  if (S_ISDIR(st.st_mode)) {
    return out + " a " + outcome(::faccessat(fd.get(), "a", F_OK, 0));
  }
  return out + " again " + read_whole(fd.proc_path(), "r");
}

std::string open_beneath(const std::string& path, const std::string& letters) {
  static const std::pair<char, std::uint64_t> kRules[] = {{'b', RESOLVE_BENEATH},
                                                          {'s', RESOLVE_NO_SYMLINKS},
                                                          {'m', RESOLVE_NO_MAGICLINKS},
                                                          {'x', RESOLVE_NO_XDEV},
                                                          {'r', RESOLVE_IN_ROOT}};
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK;
  for (const auto& [letter, rule] : kRules) {
    if (letters.find(letter) != std::string::npos) how.resolve |= rule;
  }
  const Fd dir(::open("/workspace", O_PATH | O_DIRECTORY));
  int opened = -1;
  do {  // EAGAIN: something was renamed meanwhile, anywhere, and a ".." could not be judged
    opened = static_cast<int>(::syscall(SYS_openat2, dir.get(), path.c_str(), &how, sizeof how));
  } while (opened < 0 && errno == EAGAIN);
  const Fd fd(opened);
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  return stat_text(st);
}

std::string read_link(const std::string& path) {
  char target[5000];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return n < 0 ? error() : escape(std::string(target, static_cast<std::size_t>(n)));
}

std::string get_xattr(const std::string& path, const std::string& name) {
  char value[4096];
  const ssize_t n = ::lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
  return n < 0 ? error() : escape(std::string(value, static_cast<std::size_t>(n)));
}

std::string xattr_text(const std::string& path) {
  std::string names(65536, '\0');
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) return errno == ENOTSUP ? "" : " xattrs=" + error();
  Words all;
  for (std::size_t at = 0; at < static_cast<std::size_t>(size); at = names.find('\0', at) + 1) {
    const std::string name = names.c_str() + at;
    all.push_back(escape(name) + "=" + get_xattr(path, name));
  }
  std::sort(all.begin(), all.end());
  std::string out;
  for (const std::string& one : all) out += " " + one;
  return out;
}

std::string execute(const std::string& path) {
  int ends[2];
  if (::pipe(ends) != 0) return error();
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1);
    ::close(ends[0]);
    ::close(ends[1]);
    ::execl(path.c_str(), path.c_str(), nullptr);
    const std::string text = error();
    if (::write(1, text.data(), text.size()) < 0) ::_exit(126);
    ::_exit(127);
  }
  ::close(ends[1]);
  const std::string out = read_all(ends[0]);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return std::to_string(status) + " " + escape(out);
}

std::string older_or_newer(const std::string& a, const std::string& b) {
  struct stat x {
  }, y{};
  if (::lstat(a.c_str(), &x) != 0 || ::lstat(b.c_str(), &y) != 0) return error();
  if (S_ISDIR(x.st_mode) || S_ISDIR(y.st_mode)) return "directory";
  const auto left = std::pair(x.st_mtim.tv_sec, x.st_mtim.tv_nsec);
  const auto right = std::pair(y.st_mtim.tv_sec, y.st_mtim.tv_nsec);
  return left < right ? "older" : right < left ? "newer" : "same";
}

std::string list(const std::string& path, std::size_t count, bool again) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return error();
  Words names;
  const auto read_up_to = [&](std::size_t limit) {
    while (names.size() < limit) {
      const dirent* entry = ::readdir(dir);
      if (entry == nullptr) break;
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      names.push_back(escape(name) + "/" + type_letter(DTTOIF(entry->d_type)));
    }
  };
  read_up_to(count);
  const std::size_t first = names.size();
  if (again) {
    ::rewinddir(dir);
    names.clear();
    read_up_to(SIZE_MAX);
  }
  ::closedir(dir);
  if (count != SIZE_MAX && !again) return std::to_string(first);
  std::sort(names.begin(), names.end());
  std::string out;
  for (const std::string& name : names) out += name + " ";
  return out + ".";
}

std::string each_file(const std::string& dir, const std::function<std::string(std::string)>& ask) {
  const Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY));
  if (!fd.ok()) return error();
  std::string out;
  for (const std::string& name : names_in(fd.get())) {
    out += escape(name) + "=" + ask(dir + "/" + name) + " ";
  }
  return out + ".";
}

std::string look_deep(const std::string& dir, int levels) {
  const std::string name(255, 'n');
  std::string out;
  if (::chdir(dir.c_str()) != 0) return error();
  int at = 0;
  while (at < levels && ::chdir(name.c_str()) == 0) ++at;
  out = std::to_string(at) + " " + list(".") + " a " + read_whole("a", "r");
  // The same by one path: too long from 16 levels on.
  std::string path = dir;
  for (int i = 0; i < levels; ++i) path += "/" + name;
  out += " " + lstat_of(path);
  return ::chdir("/workspace") == 0 ? out : "lost";
}

namespace {

// Which names are one inode. Equal inode numbers, and what overlayfs makes of `ln OLD NEW` with OLD
// from below: it copies OLD up and links that to NEW, but OLD keeps showing the number of the layer
// below. Two such names are equal in all else, the time of the last change included.
class LinkGroups {
 public:
  void add(std::size_t line, const struct stat& st, const std::string& path,
           const std::string& content) {
    Group& group = by_inode_[{st.st_dev, st.st_ino}];
    if (group.lines.empty()) {
      group.first = path;
      group.links = st.st_nlink;
      group.device = st.st_dev;
      group.looks = stat_text(st) + content + std::to_string(st.st_mtim.tv_sec) + "." +
                    std::to_string(st.st_mtim.tv_nsec) + " " + std::to_string(st.st_ctim.tv_sec) +
                    "." + std::to_string(st.st_ctim.tv_nsec);
    }
    group.lines.push_back(line);
  }

  // Line → the group's first path; "?" where that cannot be told.
  std::map<std::size_t, std::string> names() const {
    std::map<std::string, std::vector<const Group*>> alike;
    for (const auto& [inode, group] : by_inode_) alike[group.looks].push_back(&group);
    std::map<std::size_t, std::string> out;
    for (const auto& [looks, groups] : alike) {
      std::size_t members = 0;
      const Group* first = groups[0];
      bool one_device = true;
      for (const Group* group : groups) {
        members += group->lines.size();
        if (group->lines.front() < first->lines.front()) first = group;
        one_device = one_device && group->device == groups[0]->device;
      }
      const bool together = !one_device && members <= groups[0]->links;
      for (const Group* group : groups) {
        const std::string name = together ? first->first : one_device ? group->first : "?";
        for (const std::size_t line : group->lines) out[line] = name;
      }
    }
    return out;
  }

 private:
  struct Group {
    std::string first;
    std::string looks;  // all that one can see of it
    std::size_t links = 0;
    dev_t device = 0;
    std::vector<std::size_t> lines;
  };
  std::map<std::pair<dev_t, ino_t>, Group> by_inode_;
};

class Dump {
 public:
  std::string run(const std::string& root) {
    const Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY));
    if (!fd.ok()) return error();
    struct stat st {};
    ::fstat(fd.get(), &st);
    lines_.push_back(escape(root) + " " + stat_text(st));
    directory(fd.get(), root == "/" ? "" : root);
    for (const auto& [line, name] : groups_.names()) lines_[line] += " group=" + escape(name);
    std::string out;
    for (const std::string& line : lines_) out += line + "\n";
    return out;
  }

 private:
  void directory(int dir_fd, const std::string& path) {
    for (const std::string& name : names_in(dir_fd)) {
      const std::string child = path + "/" + name;
      if (child == "/proc" || child == "/sys" || child == "/dev" || child == "/run") continue;
      entry(dir_fd, name, child);
    }
  }

  void entry(int dir_fd, const std::string& name, const std::string& path) {
    struct stat st {};
    if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      lines_.push_back(escape(path) + " " + error());
      return;
    }
    std::string content;
    // The program itself is large, and known: read where its links have to be told apart.
    if (S_ISREG(st.st_mode) && (path != "/bin/sh" || st.st_nlink > 1)) {
      const Fd fd(::openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW));
      content = " " + (fd.ok() ? bytes_digest(read_all(fd.get())) : error());
    }
    // Extended attributes cannot be asked for relative to a descriptor.
    const std::string host = "/proc/self/fd/" + std::to_string(dir_fd) + "/" + name;
    if (S_ISLNK(st.st_mode)) content = " -> " + read_link(host);
    content += xattr_text(host);
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) groups_.add(lines_.size(), st, path, content);
    lines_.push_back(escape(path) + " " + stat_text(st) + time_text(st) + content);
    if (!S_ISDIR(st.st_mode)) return;
    const Fd fd(::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (fd.ok()) directory(fd.get(), path);
  }

  std::vector<std::string> lines_;
  LinkGroups groups_;
};

}  // namespace

std::string dump(const std::string& root) { return "\n" + Dump().run(root); }

}  // namespace torture
