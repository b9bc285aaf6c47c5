// bench_ops: the work that tools/bench measures, where Python would be too slow to measure it.
//
// It prints one line "LABEL NANOSECONDS" for what it did, so that a number means the same in a
// step, in a plain sandbox and outside: starting the program is never part of it. Static, since it
// is put into images. A tree holds file number i at DIR/dNNNN/fNNNNNN, kPerDirectory in each
// directory.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

using Words = std::vector<std::string>;

constexpr std::size_t kPerDirectory = 100;
constexpr std::size_t kBlock = 1 << 20;
constexpr std::size_t kPage = 4096;

[[noreturn]] void die(const std::string& what) {
  std::perror(("bench_ops: " + what).c_str());
  std::exit(1);
}

std::size_t number(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 10); }

// The same numbers every time (splitmix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

std::string fill(std::size_t size, std::uint64_t seed) {
  Random random(seed);
  std::string out(size, '\0');
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    const std::uint64_t value = random.next();
    std::memcpy(out.data() + at, &value, std::min(sizeof value, size - at));
  }
  return out;
}

void report(const std::string& label, const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const auto took = std::chrono::steady_clock::now() - start;
  std::printf(
      "%s %lld\n", label.c_str(),
      static_cast<long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(took).count()));
}

std::string directory_of(const std::string& dir, std::size_t i) {
  char name[32];
  std::snprintf(name, sizeof name, "/d%04zu", i / kPerDirectory);
  return dir + name;
}

std::string path_of(const std::string& dir, std::size_t i) {
  char name[32];
  std::snprintf(name, sizeof name, "/f%06zu", i);
  return directory_of(dir, i) + name;
}

int open_or_die(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) die(path);
  return fd;
}

void write_all(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0) die("write");
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

// Returns how many bytes the file had.
std::size_t read_to_end(const std::string& path, std::vector<char>& buffer) {
  const int fd = open_or_die(path, O_RDONLY);
  std::size_t total = 0;
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0) die(path);
    if (n == 0) break;
    total += static_cast<std::size_t>(n);
  }
  ::close(fd);
  return total;
}

void lstat_or_die(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) die(path);
}

// tree LABEL DIR FILES SMALLEST LARGEST [FULL]: files from number FULL on are empty.
void tree(const Words& args) {
  const std::string& dir = args[1];
  const std::size_t files = number(args[2]);
  const std::size_t smallest = number(args[3]);
  const std::size_t spread = number(args[4]) - smallest + 1;
  const std::size_t full = args.size() > 5 ? number(args[5]) : files;
  const std::string bytes = fill(smallest + spread + files % 8192 + 8192, 1);
  report(args[0], [&] {
    Random random(2);
    if (::mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) die(dir);
    for (std::size_t i = 0; i < files; ++i) {
      if (i % kPerDirectory == 0) ::mkdir(directory_of(dir, i).c_str(), 0755);
      const int fd = open_or_die(path_of(dir, i), O_WRONLY | O_CREAT | O_TRUNC);
      const std::size_t size = i < full ? smallest + random.next() % spread : 0;
      // No two files are alike: each begins with its number.
      const std::string head = size > 0 ? std::to_string(i) + "\n" : "";
      write_all(fd, head.data(), head.size());
      if (size > head.size()) write_all(fd, bytes.data() + i % 8192, size - head.size());
      ::close(fd);
    }
  });
}

// read LABEL DIR FILES: all of each file, by its name; no directory is listed.
void read_files(const Words& args) {
  std::vector<char> buffer(64 << 10);
  report(args[0], [&] {
    for (std::size_t i = 0; i < number(args[2]); ++i) read_to_end(path_of(args[1], i), buffer);
  });
}

// lstat LABEL DIR FIRST COUNT FILES: file numbers wrap around at FILES, here and in look.
void lstat_files(const Words& args) {
  const std::size_t first = number(args[2]);
  report(args[0], [&] {
    for (std::size_t i = 0; i < number(args[3]); ++i) {
      lstat_or_die(path_of(args[1], (first + i) % number(args[4])));
    }
  });
}

// look LABEL DIR FIRST COUNT FILES: every other file is read, the others are looked at.
void look(const Words& args) {
  const std::size_t first = number(args[2]);
  std::vector<char> buffer(64 << 10);
  report(args[0], [&] {
    for (std::size_t i = 0; i < number(args[3]); ++i) {
      const std::string path = path_of(args[1], (first + i) % number(args[4]));
      if (i % 2 == 0) {
        read_to_end(path, buffer);
      } else {
        lstat_or_die(path);
      }
    }
  });
}

void walk_below(const std::string& dir) {
  DIR* listing = ::opendir(dir.c_str());
  if (listing == nullptr) die(dir);
  while (const dirent* entry = ::readdir(listing)) {
    if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
    struct stat st {};
    if (::fstatat(::dirfd(listing), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) die(dir);
    if (S_ISDIR(st.st_mode)) walk_below(dir + "/" + entry->d_name);
  }
  ::closedir(listing);
}

// walk LABEL DIR: lists every directory and stats every name, as find does.
void walk(const Words& args) {
  report(args[0], [&] { walk_below(args[1]); });
}

// seq LABEL FILE: all of it, 1 MiB at a time.
void read_sequentially(const Words& args) {
  std::vector<char> buffer(kBlock);
  report(args[0], [&] { read_to_end(args[1], buffer); });
}

// rand LABEL FILE COUNT: 4 KiB at random places.
void read_randomly(const Words& args) {
  const int fd = open_or_die(args[1], O_RDONLY);
  struct stat st {};
  if (::fstat(fd, &st) != 0) die(args[1]);
  const std::size_t pages = static_cast<std::size_t>(st.st_size) / kPage;
  std::vector<char> buffer(kPage);
  Random random(3);
  report(args[0], [&] {
    for (std::size_t i = 0; i < number(args[2]); ++i) {
      const auto at = static_cast<off_t>(random.next() % pages * kPage);
      if (::pread(fd, buffer.data(), kPage, at) != static_cast<ssize_t>(kPage)) die(args[1]);
    }
  });
  ::close(fd);
}

// write LABEL PREFIX FILES MIB: so many files of so many MiB each.
void write_files(const Words& args) {
  std::string block = fill(kBlock, 4);
  report(args[0], [&] {
    for (std::size_t i = 0; i < number(args[2]); ++i) {
      const int fd = open_or_die(args[1] + std::to_string(i), O_WRONLY | O_CREAT | O_TRUNC);
      for (std::size_t at = 0; at < number(args[3]); ++at) {
        std::memcpy(block.data(), &at, sizeof at);
        std::memcpy(block.data() + sizeof at, &i, sizeof i);
        write_all(fd, block.data(), block.size());
      }
      ::close(fd);
    }
  });
}

// time LABEL COMMAND…: its output goes nowhere.
void time_command(const Words& args) {
  std::vector<char*> argv;
  Words words(args.begin() + 1, args.end());
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int status = 0;
  report(args[0], [&] {
    const pid_t pid = ::fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
      ::dup2(::open("/dev/null", O_WRONLY), 1);
      ::execvp(argv[0], argv.data());
      die(words[0]);
    }
    if (::waitpid(pid, &status, 0) < 0) die("waitpid");
  });
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    std::fprintf(stderr, "bench_ops: %s failed\n", words[0].c_str());
    std::exit(1);
  }
}

struct Operation {
  const char* name;
  std::size_t arguments;  // at least
  void (*run)(const Words&);
};
constexpr Operation kOperations[] = {
    {"tree", 5, tree},          {"read", 3, read_files},   {"lstat", 5, lstat_files},
    {"look", 5, look},          {"walk", 2, walk},         {"seq", 2, read_sequentially},
    {"rand", 3, read_randomly}, {"write", 4, write_files}, {"time", 2, time_command}};

}  // namespace

int main(int argc, char** argv) {
  const Words args(argv + std::min(argc, 2), argv + argc);
  for (const Operation& operation : kOperations) {
    if (argc < 2 || std::strcmp(argv[1], operation.name) != 0) continue;
    if (args.size() < operation.arguments) break;
    operation.run(args);
    return 0;
  }
  std::fprintf(stderr, "usage: bench_ops OPERATION LABEL ARGUMENT…, see ops.cc\n");
  return 2;
}
