#include "tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>

namespace parity {

namespace {

constexpr std::time_t kOldTime = 315619200;  // 1980-01-02: what hm shows in a workspace
constexpr std::time_t kRecently = 1262304000;

void must(long result, const char* what) {
  if (result >= 0) return;
  std::fprintf(stderr, "cannot make the tree: %s: %s\n", what, std::strerror(errno));
  std::exit(3);
}

void write_at(const char* name, const std::string& text, off_t offset) {
  const int fd = ::open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  must(fd, name);
  must(::pwrite(fd, text.data(), text.size(), offset), name);
  ::close(fd);
}

void make_dir(const char* name, unsigned mode) {
  must(::mkdir(name, 0700), name);
  must(::chmod(name, mode), name);
}

void make_full_dir(const char* name) {
  const std::string dir = name;
  make_dir(name, 0755);
  make_file((dir + "/file").c_str(), "in a directory\n", 0644);
  make_dir((dir + "/sub").c_str(), 0755);
  must(::symlink("file", (dir + "/to-file").c_str()), name);
}

void make_socket(const char* name) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, name, sizeof address.sun_path - 1);
  must(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), name);
  ::close(fd);
}

// user::rw-, user:1000:r--, group::---, mask::rw-, other::--- as linux/posix_acl_xattr.h lays it
// out.
void give_acl(const char* name, const char* attribute) {
  const unsigned char acl[] = {2,    0,    0,    0,    1,    0,    6,    0,    0xff, 0xff, 0xff,
                               0xff, 2,    0,    4,    0,    0,    0,    0,    0,    4,    0,
                               0,    0,    0xff, 0xff, 0xff, 0xff, 0x10, 0,    6,    0,    0xff,
                               0xff, 0xff, 0xff, 0x20, 0,    0,    0,    0xff, 0xff, 0xff, 0xff};
  std::string value(reinterpret_cast<const char*>(acl), sizeof acl);
  if (::setxattr(name, attribute, value.data(), value.size(), 0) == 0) {
    value[16] = static_cast<char>(1000 & 0xff);
    value[17] = static_cast<char>(1000 >> 8);
    (void)::setxattr(name, attribute, value.data(), value.size(), 0);  // without the id: uid 0's
  }
}

void give(const char* name, unsigned uid, unsigned mode) {
  must(::lchown(name, uid, uid), name);
  must(::chmod(name, mode), name);
}

std::string name_of(std::map<mode_t, const char*> names, mode_t mode) {
  const auto it = names.find(mode & S_IFMT);
  return it == names.end() ? "?" : it->second;
}

std::string type_name(mode_t mode) {
  return name_of({{S_IFREG, "file"},
                  {S_IFDIR, "dir"},
                  {S_IFLNK, "link"},
                  {S_IFIFO, "fifo"},
                  {S_IFSOCK, "socket"},
                  {S_IFCHR, "char"},
                  {S_IFBLK, "block"}},
                 mode);
}

std::string content(const char* name) {
  const int fd = ::open(name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return error_name(errno);
  std::string bytes(1 << 20, '\0');
  const ssize_t n = ::read(fd, bytes.data(), bytes.size());
  ::close(fd);
  if (n < 0) return error_name(errno);
  bytes.resize(static_cast<std::size_t>(n));
  return short_text(bytes);
}

void enter_or_die(const std::string& dir) { must(::chdir(dir.c_str()), dir.c_str()); }

int set_old_time(const char* path, const struct stat*, int, struct FTW*) {
  const timespec times[2] = {{kOldTime, 0}, {kOldTime, 0}};
  return ::utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
}

}  // namespace

const std::vector<Kind>& kinds() {
  using enum Needs;
  static const std::vector<Kind> all = {
      {"absent", kNothing, nullptr},
      {"file", kNothing, [](const char* n) { make_file(n, "some text\n", 0644); }},
      {"empty", kNothing, [](const char* n) { make_file(n, "", 0644); }},
      {"large", kNothing, [](const char* n) { make_file(n, std::string(200'001, 'x'), 0644); }},
      {"script", kNothing, [](const char* n) { make_file(n, "#!/bin/sh\nexit 7\n", 0755); }},
      {"dir", kNothing, [](const char* n) { make_dir(n, 0755); }},
      {"full-dir", kNothing, make_full_dir},
      {"link", kNothing, [](const char* n) { must(::symlink("target", n), n); }},
      {"dir-link", kNothing, [](const char* n) { must(::symlink("target-dir", n), n); }},
      {"dangling", kNothing, [](const char* n) { must(::symlink("nothing", n), n); }},
      {"loop", kNothing, [](const char* n) { must(::symlink(n, n), n); }},
      {"readonly", kModes, [](const char* n) { make_file(n, "read only\n", 0444); }},
      {"secret", kModes, [](const char* n) { make_file(n, "secret\n", 0); }},
      {"setuid", kModes, [](const char* n) { make_file(n, "#!/bin/sh\nexit 8\n", 06755); }},
      {"setgid-dir", kModes, [](const char* n) { make_dir(n, 02775); }},
      {"sticky-dir", kModes, [](const char* n) { make_dir(n, 01777); }},
      {"fifo", kModes, [](const char* n) { must(::mkfifo(n, 0644), n); }},
      {"socket", kModes, make_socket},
      {"sparse", kModes, [](const char* n) { write_at(n, "end\n", 300'000); }},
      {"linked", kModes,
       [](const char* n) {
         make_file(n, "two names\n", 0644);
         must(::link(n, (std::string(n) + "-2").c_str()), n);
       }},
      {"xattr", kAcls,
       [](const char* n) {
         make_file(n, "with an attribute\n", 0644);
         must(::setxattr(n, "user.a", "value", 5, 0), n);
       }},
      {"acl", kAcls,
       [](const char* n) {
         make_file(n, "with a list\n", 0660);
         give_acl(n, "system.posix_acl_access");
       }},
      {"owned", kOwners,
       [](const char* n) {
         make_file(n, "of 1000\n", 0644);
         give(n, 1000, 0640);
       }},
      {"owned-dir", kOwners,
       [](const char* n) {
         make_full_dir(n);
         give(n, 1000, 0750);
       }},
  };
  return all;
}

const std::vector<Kind>& guarded_kinds() {
  using enum Needs;
  static const std::vector<Kind> all = {
      {"r644", kOwners, [](const char* n) { make_file(n, "644\n", 0644); }},
      {"r640", kOwners, [](const char* n) { make_file(n, "640\n", 0640); }},
      {"r604", kOwners, [](const char* n) { make_file(n, "604\n", 0604); }},
      {"r4755", kOwners, [](const char* n) { make_file(n, "#!/bin/sh\nexit 9\n", 04755); }},
      {"r711", kOwners, [](const char* n) { make_file(n, "#!/bin/sh\nexit 9\n", 0711); }},
      {"u600", kOwners, [](const char* n) { make_file(n, "u\n", 0600), give(n, 1000, 0600); }},
      {"u660", kOwners, [](const char* n) { make_file(n, "u\n", 0600), give(n, 1000, 0660); }},
      {"u066", kOwners, [](const char* n) { make_file(n, "u\n", 0600), give(n, 1000, 0066); }},
      {"u606", kOwners, [](const char* n) { make_file(n, "u\n", 0600), give(n, 1000, 0606); }},
      {"acl", kOwners,
       [](const char* n) {
         make_file(n, "list\n", 0660);
         give_acl(n, "system.posix_acl_access");
       }},
      {"d755", kOwners, [](const char* n) { make_full_dir(n); }},
      {"d700", kOwners, [](const char* n) { make_full_dir(n), give(n, 0, 0700); }},
      {"d711", kOwners, [](const char* n) { make_full_dir(n), give(n, 0, 0711); }},
      {"d744", kOwners, [](const char* n) { make_full_dir(n), give(n, 0, 0744); }},
      {"d1777", kOwners, [](const char* n) { make_full_dir(n), give(n, 0, 01777); }},
      {"ud750", kOwners, [](const char* n) { make_full_dir(n), give(n, 1000, 0750); }},
      {"ud2775", kOwners, [](const char* n) { make_full_dir(n), give(n, 1000, 02775); }},
      {"fifo", kOwners, [](const char* n) { must(::mkfifo(n, 0600), n); }},
      {"acl-dir", kOwners,
       [](const char* n) {
         make_dir(n, 0777);
         give_acl(n, "system.posix_acl_default");
       }},
  };
  return all;
}

std::vector<Kind> pair_kinds() {
  std::vector<Kind> out;
  for (const Kind& kind : kinds()) {
    for (const char* name : {"absent", "file", "dir", "full-dir", "link", "dangling", "dir-link",
                             "linked", "fifo", "owned-dir"}) {
      if (std::string(kind.name) == name) out.push_back(kind);
    }
  }
  return out;
}

bool is_there(Needs needs, Needs most) { return needs <= most; }

void make_file(const char* name, const std::string& text, unsigned mode) {
  write_at(name, text, 0);
  must(::chmod(name, mode), name);
}

void enter(const std::string& dir, bool make) {
  if (make) must(::mkdir(dir.c_str(), 0755), dir.c_str());
  enter_or_die(dir);
}

void make_directory(const std::string& dir, const std::vector<Kind>& which, Needs most) {
  enter(dir, true);
  if (which.size() > 1) {
    make_file("target", "the target\n", 0644);
    make_dir("target-dir", 0755);
  }
  for (const Kind& kind : which) {
    if (kind.make != nullptr && is_there(kind.needs, most)) kind.make(kind.name);
  }
  enter_or_die("..");
}

void settle_times(const std::string& dir) {
  must(::nftw(dir.c_str(), set_old_time, 16, FTW_DEPTH | FTW_PHYS), dir.c_str());
}

std::string error_name(int error) {
  const char* name = ::strerrorname_np(error);
  return name == nullptr ? "E" + std::to_string(error) : name;
}

std::string outcome(long result) { return result < 0 ? error_name(errno) : std::to_string(result); }

// FNV-1a: these are the test's own bytes.
std::string short_text(const std::string& bytes) {
  const bool plain = bytes.size() < 40 && std::all_of(bytes.begin(), bytes.end(), [](char c) {
                       return c == '\n' || (c >= ' ' && c < 127);
                     });
  std::string out;
  if (plain) {
    for (const char c : bytes) out += c == '\n' ? "\\n" : std::string(1, c);
    return "'" + out + "'";
  }
  std::uint64_t hash = 14695981039346656037ULL;
  for (const unsigned char c : bytes) hash = (hash ^ c) * 1099511628211ULL;
  char text[48];
  std::snprintf(text, sizeof text, "%zu:%016llx", bytes.size(),
                static_cast<unsigned long long>(hash));
  return text;
}

std::string state(const char* name) {
  struct stat st {};
  if (::lstat(name, &st) != 0) return error_name(errno);
  char text[128];
  std::snprintf(text, sizeof text, " %04o %u:%u ", st.st_mode & 07777, st.st_uid, st.st_gid);
  std::string out = type_name(st.st_mode) + text;
  if (!S_ISDIR(st.st_mode)) out += std::to_string(st.st_size) + " x" + std::to_string(st.st_nlink);
  out += st.st_mtim.tv_sec < kRecently ? " @" + std::to_string(st.st_mtim.tv_sec) : " now";
  if (S_ISREG(st.st_mode)) out += " " + content(name);
  if (S_ISDIR(st.st_mode)) out += " " + listing(name);
  return out;
}

std::string identity(const char* name) {
  struct stat st {};
  if (::lstat(name, &st) != 0) return error_name(errno);
  return "size " + std::to_string(st.st_size) + " links " + std::to_string(st.st_nlink) +
         " blocks " + (st.st_blocks > 0 ? "some" : "none") + " block size " +
         std::to_string(st.st_blksize);
}

std::string listing(const char* name) {
  DIR* dir = ::opendir(name);
  if (dir == nullptr) return error_name(errno);
  std::vector<std::string> names;
  while (const dirent* item = ::readdir(dir)) {
    names.push_back(std::string(item->d_name) + ":" + type_name(DTTOIF(item->d_type)));
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  std::string out = "[";
  for (const std::string& item : names) out += item + " ";
  out.back() = ']';
  return out;
}

}  // namespace parity
