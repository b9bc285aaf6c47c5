// What every operation of torture_ops uses: words and how they are escaped, results as text, a
// descriptor that closes itself. Private to torture_ops; one thread.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace torture {

using Words = std::vector<std::string>;

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
  std::string proc_path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// %XX is a byte, `%` alone the empty word.
std::string unescape(const std::string& word);
std::string escape(const std::string& text);

std::string error();               // the name of errno
std::string outcome(long result);  // the number, or the name of errno when negative
std::string bytes_digest(const std::string& bytes);
char type_letter(mode_t mode);
std::string stat_text(const struct stat& st);
std::string time_text(const struct stat& st);

// Flags of open by letters; everything is opened without blocking: there are fifos about.
int open_flags(const std::string& letters);
std::string read_all(int fd);
std::string slurp(const std::string& path);  // "" if it cannot be read
Words names_in(int dir_fd);                  // sorted

}  // namespace torture
