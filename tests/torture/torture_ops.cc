// torture_ops: executes a small operation language; the only program of a torture case's image.
//
//   sh -c 'TEXT'      executes the operations of TEXT (so the program can be an image's /bin/sh)
//   sh FILE           executes those of FILE (so a script with `#!/bin/sh` is one, too)
//
// One operation a line: its name and its words, separated by blanks; %XX in a word is a byte, and
// `%` alone the empty word. Each line adds one line to the results: what the step learned, never
// an inode number or an absolute time. Operations never abort; errors are results. The results go
// to stdout, and with `results FILE` to that file at the end.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Words = std::vector<std::string>;

std::string results_file;                     // where the results go at the end; "" for nowhere
constexpr std::time_t kOldTime = 1262304000;  // times before 2010 are shown, later ones are "now"

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::string unescape(const std::string& word) {
  if (word == "%") return "";
  std::string out;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (word[i] == '%' && i + 2 < word.size() && ::isxdigit(word[i + 1]) &&
        ::isxdigit(word[i + 2])) {
      out += static_cast<char>(std::stoi(word.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += word[i];
    }
  }
  return out;
}

std::string escape(const std::string& text) {
  static const char* const kHex = "0123456789abcdef";
  std::string out;
  for (const unsigned char c : text) {
    if (c > ' ' && c < 127 && c != '%') {
      out += static_cast<char>(c);
    } else {
      out += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return out.empty() ? "%" : out;
}

std::string error() { return ::strerrorname_np(errno) ? ::strerrorname_np(errno) : "E?"; }
std::string outcome(long result) { return result < 0 ? error() : std::to_string(result); }

// Of the test's own bytes, not of an adversary's: FNV-1a.
std::string bytes_digest(const std::string& bytes) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const unsigned char c : bytes) hash = (hash ^ c) * 1099511628211ULL;
  char text[40];
  std::snprintf(text, sizeof text, "%zu:%016llx", bytes.size(),
                static_cast<unsigned long long>(hash));
  return text;
}

char type_letter(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return '-';
    case S_IFDIR:
      return 'd';
    case S_IFLNK:
      return 'l';
    case S_IFIFO:
      return 'p';
    case S_IFSOCK:
      return 's';
    case S_IFCHR:
      return 'c';
    case S_IFBLK:
      return 'b';
    default:
      return '?';
  }
}

// Directories have neither a size nor a link count that a step may rely on.
std::string stat_text(const struct stat& st) {
  char text[160];
  std::snprintf(text, sizeof text, "%c%04o %u:%u", type_letter(st.st_mode), st.st_mode & 07777,
                st.st_uid, st.st_gid);
  std::string out = text;
  if (S_ISDIR(st.st_mode)) return out;
  out += " size=" + std::to_string(st.st_size) + " nlink=" + std::to_string(st.st_nlink);
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) out += " rdev=" + std::to_string(st.st_rdev);
  return out;
}

std::string time_text(const struct stat& st) {
  if (S_ISDIR(st.st_mode)) return "";
  return st.st_mtim.tv_sec < kOldTime ? " t=" + std::to_string(st.st_mtim.tv_sec) : " t=now";
}

// Everything is opened without blocking: there are fifos about.
int open_flags(const std::string& letters) {
  int flags = O_NONBLOCK | O_CLOEXEC;
  const bool read = letters.find('r') != std::string::npos;
  const bool write = letters.find('w') != std::string::npos;
  flags |= read && write ? O_RDWR : write ? O_WRONLY : O_RDONLY;
  for (const char c : letters) {
    if (c == 'c') flags |= O_CREAT;
    if (c == 'x') flags |= O_EXCL;
    if (c == 't') flags |= O_TRUNC;
    if (c == 'a') flags |= O_APPEND;
    if (c == 'n') flags |= O_NOFOLLOW;
    if (c == 'd') flags |= O_DIRECTORY;
    if (c == 'p') flags |= O_PATH;
    if (c == 's') flags |= O_SYNC;
    if (c == 'N') flags |= O_NOATIME;
  }
  return flags;
}

std::string read_all(int fd) {
  std::string out;
  char buffer[65536];
  ssize_t n;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0) out.append(buffer, n);
  return out;
}

// The bytes of a file, "" if it cannot be read.
std::string slurp(const std::string& path) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  return fd.ok() ? read_all(fd.get()) : "";
}

std::string write_text(const std::string& path, int flags, const std::string& text) {
  const Fd fd(::open(path.c_str(), flags, 0666));
  if (!fd.ok()) return error();
  return outcome(::write(fd.get(), text.data(), text.size()));
}

std::string pattern(std::size_t size, unsigned seed) {
  std::string out(size, '\0');
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<char>((i * 31 + seed * 17 + i / 251));
  return out;
}

// Sorted "name/kind" of a directory; `count` bounds how many entries are read (their number is the
// result then: which come first is not defined).
std::string list(const std::string& path, std::size_t count = SIZE_MAX) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return error();
  Words names;
  while (names.size() < count) {
    const dirent* entry = ::readdir(dir);
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    names.push_back(escape(name) + "/" + type_letter(DTTOIF(entry->d_type)));
  }
  ::closedir(dir);
  if (count != SIZE_MAX) return std::to_string(names.size());
  std::sort(names.begin(), names.end());
  std::string out;
  for (const std::string& name : names) out += name + " ";
  return out + ".";
}

Words names_in(int dir_fd) {
  Words names;
  DIR* dir = ::fdopendir(::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY));
  if (dir == nullptr) return names;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

std::string xattr_text(const std::string& path) {
  std::string names(65536, '\0');
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) return errno == ENOTSUP ? "" : " xattrs=" + error();
  Words all;
  for (std::size_t at = 0; at < static_cast<std::size_t>(size); at = names.find('\0', at) + 1) {
    const std::string name = names.c_str() + at;
    std::string value(65536, '\0');
    const ssize_t n = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    all.push_back(escape(name) + "=" + (n < 0 ? error() : escape(value.substr(0, n))));
  }
  std::sort(all.begin(), all.end());
  std::string out;
  for (const std::string& one : all) out += " " + one;
  return out;
}

// Every entry below a directory, one a line. A link group is named by its first path.
class Dump {
 public:
  std::string run(const std::string& root) {
    const Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY));
    if (!fd.ok()) return error();
    struct stat st {};
    ::fstat(fd.get(), &st);
    out_ = escape(root) + " " + stat_text(st) + "\n";
    directory(fd.get(), root == "/" ? "" : root);
    return out_;
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
      out_ += escape(path) + " " + error() + "\n";
      return;
    }
    out_ += escape(path) + " " + stat_text(st) + time_text(st);
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      const auto [it, fresh] = groups_.try_emplace({st.st_dev, st.st_ino}, path);
      out_ += " group=" + escape(it->second);
    }
    const std::string host = "/proc/self/fd/" + std::to_string(dir_fd) + "/" + name;
    if (S_ISREG(st.st_mode) && path != "/bin/sh") {
      const Fd fd(::openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW));
      out_ += " " + (fd.ok() ? bytes_digest(read_all(fd.get())) : error());
    }
    if (S_ISLNK(st.st_mode)) {
      char target[5000];
      const ssize_t n = ::readlinkat(dir_fd, name.c_str(), target, sizeof target);
      out_ += " -> " + (n < 0 ? error() : escape(std::string(target, n)));
    }
    out_ += xattr_text(host) + "\n";
    if (!S_ISDIR(st.st_mode)) return;
    const Fd fd(::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (fd.ok()) directory(fd.get(), path);
  }

  std::string out_;
  std::map<std::pair<dev_t, ino_t>, std::string> groups_;
};

// Files written by one step are told apart by their times only if a tick of the clock is between.
void next_tick() {
  timespec begin{}, now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &begin);
  do {
    const timespec pause{0, 500'000};
    ::nanosleep(&pause, nullptr);
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  } while (now.tv_sec == begin.tv_sec && now.tv_nsec == begin.tv_nsec);
}

std::string newer(const std::string& a, const std::string& b) {
  struct stat x {
  }, y{};
  if (::lstat(a.c_str(), &x) != 0 || ::lstat(b.c_str(), &y) != 0) return error();
  if (S_ISDIR(x.st_mode) || S_ISDIR(y.st_mode)) return "directory";
  const auto left = std::pair(x.st_mtim.tv_sec, x.st_mtim.tv_nsec);
  const auto right = std::pair(y.st_mtim.tv_sec, y.st_mtim.tv_nsec);
  return left < right ? "older" : right < left ? "newer" : "same";
}

std::string map_read(const std::string& path, bool shared, off_t offset, std::size_t size) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  if (offset >= st.st_size) return "behind the end";
  size = std::min<std::size_t>(size, st.st_size - offset);
  const off_t page = offset & ~4095L;
  void* at = ::mmap(nullptr, size + (offset - page), PROT_READ, shared ? MAP_SHARED : MAP_PRIVATE,
                    fd.get(), page);
  if (at == MAP_FAILED) return error();
  const std::string bytes(static_cast<char*>(at) + (offset - page), size);
  ::munmap(at, size + (offset - page));
  return bytes_digest(bytes);
}

std::string map_write(const std::string& path, std::size_t offset, const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("rw")));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  if (offset + text.size() > static_cast<std::size_t>(st.st_size)) return "behind the end";
  void* at = ::mmap(nullptr, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return error();
  std::memcpy(static_cast<char*>(at) + offset, text.data(), text.size());
  ::munmap(at, st.st_size);
  return "ok";
}

std::string make_socket(const std::string& path) {
  const Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return "too long";
  std::memcpy(address.sun_path, path.data(), path.size());
  return outcome(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
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
    ::write(1, text.data(), text.size());
    ::_exit(127);
  }
  ::close(ends[1]);
  const std::string out = read_all(ends[0]);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return std::to_string(status) + " " + escape(out);
}

std::string open_beneath(const std::string& path, const std::string& how_text) {
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK;
  for (const char c : how_text) {
    if (c == 'b') how.resolve |= RESOLVE_BENEATH;
    if (c == 's') how.resolve |= RESOLVE_NO_SYMLINKS;
    if (c == 'x') how.resolve |= RESOLVE_NO_XDEV;
    if (c == 'r') how.resolve |= RESOLVE_IN_ROOT;
  }
  const Fd dir(::open("/workspace", O_PATH | O_DIRECTORY));
  const Fd fd(static_cast<int>(::syscall(SYS_openat2, dir.get(), path.c_str(), &how, sizeof how)));
  if (!fd.ok()) return error();
  struct stat st {};
  ::fstat(fd.get(), &st);
  return stat_text(st);
}

std::string get_xattr(const std::string& path, const std::string& name) {
  char value[4096];
  const ssize_t n = ::lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
  return n < 0 ? error() : escape(std::string(value, n));
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

std::string temporary_file(const std::string& dir, const std::string& name,
                           const std::string& text) {
  const Fd fd(::open(dir.c_str(), O_TMPFILE | O_RDWR, 0640));
  if (!fd.ok()) return error();
  ::write(fd.get(), text.data(), text.size());
  const std::string self = "/proc/self/fd/" + std::to_string(fd.get());
  return outcome(::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW));
}

std::string run_words(const Words& words);

// What a shell's loops and conditions are: the next question depends on the last answer.
std::string run_rest(const Words& words, std::size_t from) {
  return "then " + run_words(Words(words.begin() + static_cast<long>(from), words.end()));
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

std::string lstat_of(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) != 0 ? error() : stat_text(st);
}

std::string open_and_stat(const std::string& path, const std::string& letters) {
  const Fd fd(::open(path.c_str(), open_flags(letters), 0644));
  struct stat st {};
  return !fd.ok() ? error() : ::fstat(fd.get(), &st) != 0 ? error() : stat_text(st);
}

std::string read_part(const std::string& path, off_t offset, std::size_t size) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  if (!fd.ok()) return error();
  std::string bytes(size, '\0');
  const ssize_t n = ::pread(fd.get(), bytes.data(), size, offset);
  return n < 0 ? error() : bytes_digest(bytes.substr(0, n));
}

std::string read_whole(const std::string& path, const std::string& letters) {
  const Fd fd(::open(path.c_str(), open_flags(letters)));
  if (!fd.ok()) return error();
  errno = 0;
  const std::string bytes = read_all(fd.get());
  return bytes_digest(bytes) + (errno != 0 ? " " + error() : "");
}

std::string write_at(const std::string& path, off_t offset, const std::string& text) {
  const Fd fd(::open(path.c_str(), open_flags("w")));
  return fd.ok() ? outcome(::pwrite(fd.get(), text.data(), text.size(), offset)) : error();
}

std::string stat_of(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) != 0 ? error() : stat_text(st);
}

std::string read_link(const std::string& path) {
  char target[5000];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return n < 0 ? error() : escape(std::string(target, n));
}

std::string set_time(const std::string& path, std::time_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  return outcome(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW));
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

std::string make_node(const std::string& path, const std::string& kind) {
  const mode_t type = kind == "fifo" ? S_IFIFO : kind == "sock" ? S_IFSOCK : S_IFCHR;
  return outcome(::mknod(path.c_str(), type | 0644, ::makedev(0, 0)));
}

// rm -rf; the result is how many entries went.
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

// cp -r; the result is how many entries came. `depth` ends a copy into itself.
int copy_tree(const std::string& from, const std::string& to, int depth = 0) {
  struct stat st {};
  if (depth > 6 || ::lstat(from.c_str(), &st) != 0) return 0;
  if (S_ISLNK(st.st_mode)) return ::symlink(unescape(read_link(from)).c_str(), to.c_str()) == 0;
  if (S_ISREG(st.st_mode)) {
    return write_text(to, open_flags("wct"), slurp(from)).front() == 'E' ? 0 : 1;
  }
  if (!S_ISDIR(st.st_mode)) return 0;
  int made = ::mkdir(to.c_str(), st.st_mode & 0777) == 0 ? 1 : 0;
  const Fd fd(::open(from.c_str(), O_RDONLY | O_DIRECTORY));
  if (!fd.ok()) return made;
  for (const std::string& name : names_in(fd.get())) {
    made += copy_tree(from + "/" + name, to + "/" + name, depth + 1);
  }
  return made;
}

std::string first_word(const std::string& text) {
  std::istringstream in(text.substr(0, 4000));
  std::string word;
  in >> word;
  return word;
}

long number(const std::string& text) { return std::strtol(text.c_str(), nullptr, 0); }
mode_t octal(const std::string& text) {
  return static_cast<mode_t>(std::strtoul(text.c_str(), nullptr, 8));
}

struct Operation {
  std::size_t words;  // at least so many after the name
  std::function<std::string(const Words&)> run;
};

const std::map<std::string, Operation>& operations() {
  static const std::map<std::string, Operation> table = {
      // Looking.
      {"stat", {1, [](const Words& w) { return stat_of(w[1]); }}},
      {"lstat", {1, [](const Words& w) { return lstat_of(w[1]); }}},
      {"open", {2, [](const Words& w) { return open_and_stat(w[1], w[2]); }}},
      {"read", {2, [](const Words& w) { return read_whole(w[1], w[2]); }}},
      {"pread", {3, [](const Words& w) { return read_part(w[1], number(w[2]), number(w[3])); }}},
      {"mmap",
       {4, [](const Words& w) { return map_read(w[1], w[2] == "s", number(w[3]), number(w[4])); }}},
      {"access",
       {2,
        [](const Words& w) {
          return outcome(::faccessat(AT_FDCWD, w[1].c_str(), static_cast<int>(number(w[2])), 0));
        }}},
      {"readlink", {1, [](const Words& w) { return read_link(w[1]); }}},
      {"list", {1, [](const Words& w) { return list(w[1]); }}},
      {"listsome", {2, [](const Words& w) { return list(w[1], number(w[2])); }}},
      {"statall", {1, [](const Words& w) { return each_file(w[1], lstat_of); }}},
      {"catall",
       {1,
        [](const Words& w) {
          return each_file(w[1], [](const std::string& path) { return bytes_digest(slurp(path)); });
        }}},
      {"getxattr", {2, [](const Words& w) { return get_xattr(w[1], w[2]); }}},
      {"listxattr", {1, [](const Words& w) { return xattr_text(w[1]); }}},
      {"openat2", {2, [](const Words& w) { return open_beneath(w[1], w[2]); }}},
      {"newer", {2, [](const Words& w) { return newer(w[1], w[2]); }}},
      {"exec", {1, [](const Words& w) { return execute(w[1]); }}},
      // What is asked next depends on what was seen.
      {"ifexists",
       {2,
        [](const Words& w) {
          return ::faccessat(AT_FDCWD, w[1].c_str(), F_OK, 0) == 0 ? run_rest(w, 2) : error();
        }}},
      {"ifmissing",
       {2,
        [](const Words& w) {
          return ::faccessat(AT_FDCWD, w[1].c_str(), F_OK, 0) != 0 ? run_rest(w, 2) : "there";
        }}},
      {"ifodd",
       {2,
        [](const Words& w) {
          const std::string bytes = slurp(w[1]);
          return !bytes.empty() && bytes[0] % 2 != 0 ? run_rest(w, 2) : std::string("not odd");
        }}},
      {"iflarge",
       {2,
        [](const Words& w) {
          struct stat st {};
          if (::stat(w[1].c_str(), &st) != 0) return error();
          return st.st_size > 6 ? run_rest(w, 2) : std::string("not large");
        }}},
      {"follow",  // the file names a file
       {1,
        [](const Words& w) { return read_whole("/workspace/" + first_word(slurp(w[1])), "r"); }}},
      // Writing.
      {"write", {2, [](const Words& w) { return write_text(w[1], open_flags("wct"), w[2]); }}},
      {"create", {2, [](const Words& w) { return write_text(w[1], open_flags("wcx"), w[2]); }}},
      {"append", {2, [](const Words& w) { return write_text(w[1], open_flags("wca"), w[2]); }}},
      {"pwrite", {3, [](const Words& w) { return write_at(w[1], number(w[2]), w[3]); }}},
      {"fill",
       {3,
        [](const Words& w) {
          return write_text(w[1], open_flags("wct"), pattern(number(w[2]), number(w[3])));
        }}},
      {"mapwrite", {3, [](const Words& w) { return map_write(w[1], number(w[2]), w[3]); }}},
      {"truncate",
       {2, [](const Words& w) { return outcome(::truncate(w[1].c_str(), number(w[2]))); }}},
      {"copy",
       {2, [](const Words& w) { return write_text(w[2], open_flags("wct"), slurp(w[1])); }}},
      {"listto",
       {2, [](const Words& w) { return write_text(w[2], open_flags("wct"), list(w[1])); }}},
      {"statto",
       {2, [](const Words& w) { return write_text(w[2], open_flags("wct"), lstat_of(w[1])); }}},
      {"copyrange", {2, [](const Words& w) { return copy_range(w[1], w[2]); }}},
      {"fallocate",
       {4, [](const Words& w) { return allocate(w[1], w[2], number(w[3]), number(w[4])); }}},
      {"tmpfile", {3, [](const Words& w) { return temporary_file(w[1], w[2], w[3]); }}},
      {"rename",
       {3,
        [](const Words& w) {
          const unsigned flags = w[3] == "x" ? RENAME_EXCHANGE : w[3] == "n" ? RENAME_NOREPLACE : 0;
          return outcome(::renameat2(AT_FDCWD, w[1].c_str(), AT_FDCWD, w[2].c_str(), flags));
        }}},
      {"link", {2, [](const Words& w) { return outcome(::link(w[1].c_str(), w[2].c_str())); }}},
      {"symlink",
       {2, [](const Words& w) { return outcome(::symlink(w[1].c_str(), w[2].c_str())); }}},
      {"unlink", {1, [](const Words& w) { return outcome(::unlink(w[1].c_str())); }}},
      {"rmdir", {1, [](const Words& w) { return outcome(::rmdir(w[1].c_str())); }}},
      {"clear",  // rm -f DIR/*
       {1,
        [](const Words& w) {
          return each_file(w[1],
                           [](const std::string& path) { return outcome(::unlink(path.c_str())); });
        }}},
      {"rmtree", {1, [](const Words& w) { return std::to_string(remove_tree(w[1])); }}},
      {"copytree", {2, [](const Words& w) { return std::to_string(copy_tree(w[1], w[2])); }}},
      {"mkdir", {2, [](const Words& w) { return outcome(::mkdir(w[1].c_str(), octal(w[2]))); }}},
      {"mknod", {2, [](const Words& w) { return make_node(w[1], w[2]); }}},
      {"socket", {1, [](const Words& w) { return make_socket(w[1]); }}},
      {"chmod", {2, [](const Words& w) { return outcome(::chmod(w[1].c_str(), octal(w[2]))); }}},
      {"chown",
       {3,
        [](const Words& w) {
          return outcome(::lchown(w[1].c_str(), number(w[2]), number(w[3])));
        }}},
      {"utimens", {2, [](const Words& w) { return set_time(w[1], number(w[2])); }}},
      {"setxattr",
       {3,
        [](const Words& w) {
          return outcome(::lsetxattr(w[1].c_str(), w[2].c_str(), w[3].data(), w[3].size(), 0));
        }}},
      {"removexattr",
       {2, [](const Words& w) { return outcome(::lremovexattr(w[1].c_str(), w[2].c_str())); }}},
      // The test's own.
      {"tick", {0, [](const Words&) { return next_tick(), std::string("ok"); }}},
      {"results", {1, [](const Words& w) { return results_file = w[1], std::string("ok"); }}},
      {"dump", {1, [](const Words& w) { return "\n" + Dump().run(w[1]); }}},
  };
  return table;
}

std::string run_words(const Words& words) {
  const auto found = words.empty() ? operations().end() : operations().find(words[0]);
  if (found == operations().end()) return "no such operation";
  if (words.size() <= found->second.words) return "too few words";
  return words[0] + ": " + found->second.run(words);
}

std::string run_text(const std::string& text) {
  std::string out;
  std::istringstream lines(text);
  std::string line;
  for (int at = 1; std::getline(lines, line); ++at) {
    if (line.empty() || line[0] == '#') continue;
    Words words;
    std::istringstream in(line);
    for (std::string word; in >> word;) words.push_back(unescape(word));
    out += std::to_string(at) + " " + run_words(words) + "\n";
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_command = argc == 3 && std::string(argv[1]) == "-c";
  if (!is_command && argc < 2) return 2;
  const std::string out = run_text(is_command ? argv[2] : slurp(argv[1]));
  for (std::size_t at = 0; at < out.size();) {
    const ssize_t n = ::write(1, out.data() + at, out.size() - at);
    if (n <= 0) return 1;
    at += static_cast<std::size_t>(n);
  }
  if (!results_file.empty()) write_text(results_file, open_flags("wct"), out);
  return 0;
}
