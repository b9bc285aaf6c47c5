#include "text.h"

#include <dirent.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

namespace torture {

namespace {
constexpr time_t kOldTime = 1262304000;  // times before 2010 are shown, later ones are "now"
constexpr const char* kHex = "0123456789abcdef";
}  // namespace

std::string unescape(const std::string& word) {
  if (word == "%") return "";
  std::string out;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (word[i] == '%' && i + 2 < word.size() && ::isxdigit(word[i + 1]) &&
        ::isxdigit(word[i + 2])) {
      out += static_cast<char>(std::strtol(word.substr(i + 1, 2).c_str(), nullptr, 16));
      i += 2;
    } else {
      out += word[i];
    }
  }
  return out;
}

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > ' ' && byte < 127 && byte != '%') {
      out += c;
    } else {
      out += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return out.empty() ? "%" : out;
}

std::string error() { return ::strerrorname_np(errno) ? ::strerrorname_np(errno) : "E?"; }
std::string outcome(long result) { return result < 0 ? error() : std::to_string(result); }

// Of the test's own bytes, not of an adversary's: FNV-1a.
std::string bytes_digest(const std::string& bytes) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  char text[40];
  std::snprintf(text, sizeof text, "%zu:%016llx", bytes.size(),
                static_cast<unsigned long long>(hash));
  return text;
}

char type_letter(mode_t mode) {
  static const std::pair<mode_t, char> kLetters[] = {
      {S_IFREG, '-'},  {S_IFDIR, 'd'}, {S_IFLNK, 'l'}, {S_IFIFO, 'p'},
      {S_IFSOCK, 's'}, {S_IFCHR, 'c'}, {S_IFBLK, 'b'}};
  for (const auto& [type, letter] : kLetters) {
    if ((mode & S_IFMT) == type) return letter;
  }
  return '?';
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

int open_flags(const std::string& letters) {
  static const std::pair<char, int> kFlags[] = {
      {'c', O_CREAT},     {'x', O_EXCL}, {'t', O_TRUNC}, {'a', O_APPEND}, {'n', O_NOFOLLOW},
      {'d', O_DIRECTORY}, {'p', O_PATH}, {'s', O_SYNC},  {'N', O_NOATIME}};
  const bool read = letters.find('r') != std::string::npos;
  const bool write = letters.find('w') != std::string::npos;
  int flags = O_NONBLOCK | O_CLOEXEC | (read && write ? O_RDWR : write ? O_WRONLY : O_RDONLY);
  for (const auto& [letter, flag] : kFlags) {
    if (letters.find(letter) != std::string::npos) flags |= flag;
  }
  return flags;
}

std::string read_all(int fd) {
  std::string out;
  char buffer[65536];
  ssize_t n;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0) {
    out.append(buffer, static_cast<std::size_t>(n));
  }
  return out;
}

std::string slurp(const std::string& path) {
  const Fd fd(::open(path.c_str(), open_flags("r")));
  return fd.ok() ? read_all(fd.get()) : "";
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

}  // namespace torture
