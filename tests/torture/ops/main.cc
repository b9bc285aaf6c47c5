// torture_ops: executes a small operation language; the only program of a torture case's image.
//
//   sh -c 'TEXT'      executes the operations of TEXT (so the program can be an image's /bin/sh)
//   sh FILE           executes those of FILE (so a script with `#!/bin/sh` is one, too)
//
// One operation a line: its name and its words, separated by blanks; %XX in a word is a byte, and
// `%` alone the empty word. Each line adds one line to the results: what the step learned, never
// an inode number or an absolute time. Operations never abort; errors are results. The results go
// to stdout, and with `results FILE` to that file at the end. `final PATH` prints a dump of PATH
// after everything else, which is no result.
#include <sys/xattr.h>

#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <string>

#include "change.h"
#include "look.h"
#include "text.h"

namespace {

using namespace torture;  // NOLINT: this program is that namespace's only user

// What the program does when all operations are done.
struct Ending {
  std::string results_file;  // "" for none
  std::string dump_of;       // "" for nothing
};

long number(const std::string& text) { return std::strtol(text.c_str(), nullptr, 0); }
std::size_t size_of(const std::string& text) { return static_cast<std::size_t>(number(text)); }
unsigned small(const std::string& text) { return static_cast<unsigned>(number(text)); }
mode_t octal(const std::string& text) {
  return static_cast<mode_t>(std::strtoul(text.c_str(), nullptr, 8));
}

Words split(const std::string& text) {
  Words words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = text.find_first_not_of(" \t", at);
    if (begin == std::string::npos) break;
    at = std::min(text.find_first_of(" \t", begin), text.size());
    words.push_back(text.substr(begin, at - begin));
  }
  return words;
}

std::string first_word(const std::string& text) {
  const Words words = split(text.substr(0, std::min<std::size_t>(4000, text.find('\n'))));
  return words.empty() ? "" : words[0];
}

bool print(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(1, text.data() + at, text.size() - at);
    if (n <= 0) return false;
    at += static_cast<std::size_t>(n);
  }
  return true;
}

struct Operation {
  std::size_t words;  // at least so many after the name
  std::function<std::string(const Words&)> run;
};
using Table = std::map<std::string, Operation>;

const Table& looks() {
  using W = const Words&;
  static const Table table = {
      {"stat", {1, [](W w) { return stat_of(w[1]); }}},
      {"lstat", {1, [](W w) { return lstat_of(w[1]); }}},
      {"statx", {2, [](W w) { return statx_of(w[1], w[2]); }}},
      {"open", {2, [](W w) { return open_and_stat(w[1], w[2]); }}},
      {"read", {2, [](W w) { return read_whole(w[1], w[2]); }}},
      {"pread", {3, [](W w) { return read_part(w[1], number(w[2]), size_of(w[3])); }}},
      {"mmap", {4, [](W w) { return map_read(w[1], w[2] == "s", number(w[3]), size_of(w[4])); }}},
      {"seek", {3, [](W w) { return seek_in(w[1], w[2] == "hole", number(w[3])); }}},
      {"opath", {2, [](W w) { return path_descriptor(w[1], w[2]); }}},
      {"access",
       {2, [](W w) { return access_to(w[1], static_cast<int>(number(w[2])), w.size() < 4); }}},
      {"readlink", {1, [](W w) { return read_link(w[1]); }}},
      {"list", {1, [](W w) { return list(w[1]); }}},
      {"listsome", {2, [](W w) { return list(w[1], size_of(w[2])); }}},
      {"listagain", {2, [](W w) { return list(w[1], size_of(w[2]), true); }}},
      {"statall", {1, [](W w) { return each_file(w[1], lstat_of); }}},
      {"catall",
       {1,
        [](W w) {
          return each_file(w[1], [](const std::string& path) { return bytes_digest(slurp(path)); });
        }}},
      {"lookdeep", {2, [](W w) { return look_deep(w[1], static_cast<int>(number(w[2]))); }}},
      {"getxattr", {2, [](W w) { return get_xattr(w[1], w[2]); }}},
      {"listxattr", {1, [](W w) { return xattr_text(w[1]); }}},
      {"openat2", {2, [](W w) { return open_beneath(w[1], w[2]); }}},
      {"newer", {2, [](W w) { return older_or_newer(w[1], w[2]); }}},
      {"exec", {1, [](W w) { return execute(w[1]); }}},
      {"follow",  // the file names a file
       {1, [](W w) { return read_whole("/workspace/" + first_word(slurp(w[1])), "r"); }}},
      {"dump", {1, [](W w) { return dump(w[1]); }}},
  };
  return table;
}

const Table& changes() {
  using W = const Words&;
  static const Table table = {
      {"write", {2, [](W w) { return write_text(w[1], open_flags("wct"), w[2]); }}},
      {"create", {2, [](W w) { return write_text(w[1], open_flags("wcx"), w[2]); }}},
      {"append", {2, [](W w) { return write_text(w[1], open_flags("wca"), w[2]); }}},
      {"pwrite", {3, [](W w) { return write_at(w[1], number(w[2]), w[3]); }}},
      {"fill",
       {3,
        [](W w) {
          return write_text(w[1], open_flags("wct"), pattern(size_of(w[2]), small(w[3])));
        }}},
      {"mapwrite", {4, [](W w) { return map_write(w[1], w[2] == "s", size_of(w[3]), w[4]); }}},
      {"truncate", {2, [](W w) { return outcome(::truncate(w[1].c_str(), number(w[2]))); }}},
      {"copy", {2, [](W w) { return write_text(w[2], open_flags("wct"), slurp(w[1])); }}},
      {"listto", {2, [](W w) { return write_text(w[2], open_flags("wct"), list(w[1])); }}},
      {"statto", {2, [](W w) { return write_text(w[2], open_flags("wct"), lstat_of(w[1])); }}},
      {"copyrange", {2, [](W w) { return copy_range(w[1], w[2]); }}},
      {"sendfile", {2, [](W w) { return send_file(w[1], w[2]); }}},
      {"fallocate", {4, [](W w) { return allocate(w[1], w[2], number(w[3]), number(w[4])); }}},
      {"tmpfile", {3, [](W w) { return temporary_file(w[1], w[2], w[3]); }}},
      {"unlinked", {2, [](W w) { return write_unlinked(w[1], w[2]); }}},
      {"renamed", {3, [](W w) { return write_renamed(w[1], w[2], w[3]); }}},
      {"fsync", {1, [](W w) { return sync_file(w[1]); }}},
      {"rename", {3, [](W w) { return rename_to(w[1], w[2], w[3]); }}},
      {"link", {2, [](W w) { return link_to(w[1], w[2], false); }}},
      {"linkfollow", {2, [](W w) { return link_to(w[1], w[2], true); }}},
      {"symlink", {2, [](W w) { return outcome(::symlink(w[1].c_str(), w[2].c_str())); }}},
      {"unlink", {1, [](W w) { return outcome(::unlink(w[1].c_str())); }}},
      {"rmdir", {1, [](W w) { return outcome(::rmdir(w[1].c_str())); }}},
      {"clear",  // rm -f DIR/*
       {1,
        [](W w) {
          return each_file(w[1],
                           [](const std::string& path) { return outcome(::unlink(path.c_str())); });
        }}},
      {"rmtree", {1, [](W w) { return std::to_string(remove_tree(w[1])); }}},
      {"copytree", {3, [](W w) { return std::to_string(copy_tree(w[1], w[2], w[3] == "t")); }}},
      {"makedeep", {3, [](W w) { return make_deep(w[1], static_cast<int>(number(w[2])), w[3]); }}},
      {"mkdir", {2, [](W w) { return outcome(::mkdir(w[1].c_str(), octal(w[2]))); }}},
      {"mknod", {2, [](W w) { return make_node(w[1], w[2]); }}},
      {"socket", {1, [](W w) { return make_socket(w[1]); }}},
      {"chmod", {2, [](W w) { return outcome(::chmod(w[1].c_str(), octal(w[2]))); }}},
      {"chown", {3, [](W w) { return outcome(::lchown(w[1].c_str(), small(w[2]), small(w[3]))); }}},
      {"utimens", {2, [](W w) { return set_time(w[1], w[2]); }}},
      {"setxattr", {4, [](W w) { return set_xattr(w[1], w[2], w[3], w[4]); }}},
      {"setacl", {1, [](W w) { return set_acl(w[1]); }}},
      {"removexattr", {2, [](W w) { return outcome(::lremovexattr(w[1].c_str(), w[2].c_str())); }}},
  };
  return table;
}

class Program {
 public:
  std::string run(const std::string& text) {
    std::string out;
    int number = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      const std::string line = text.substr(at, end - at);
      at = end + 1;
      ++number;
      if (line.empty() || line[0] == '#') continue;
      Words words = split(line);
      for (std::string& word : words) word = unescape(word);
      if (words.size() == 2 && words[0] == "final") {
        ending_.dump_of = words[1];
        continue;
      }
      out += std::to_string(number) + " " + run_words(words) + "\n";
    }
    return out;
  }
  const Ending& ending() const { return ending_; }

 private:
  std::string run_words(const Words& words) {
    for (const Table* table : {&looks(), &changes(), &own_}) {
      const auto found = words.empty() ? table->end() : table->find(words[0]);
      if (found == table->end()) continue;
      if (words.size() <= found->second.words) return words[0] + ": too few words";
      return words[0] + ": " + found->second.run(words);
    }
    return "no such operation";
  }

  std::string rest_if(bool holds, const Words& words, long from) {
    return holds ? "then " + run_words(Words(words.begin() + from, words.end())) : "no";
  }

  // As the conditions of a shell: what is asked next depends on what was seen.
  using W = const Words&;
  const Table own_ = {
      {"ifexists", {2, [this](W w) { return rest_if(::access(w[1].c_str(), F_OK) == 0, w, 2); }}},
      {"ifmissing", {2, [this](W w) { return rest_if(::access(w[1].c_str(), F_OK) != 0, w, 2); }}},
      {"ifodd",
       {2,
        [this](W w) {
          const std::string bytes = slurp(w[1]);
          return rest_if(!bytes.empty() && bytes[0] % 2 != 0, w, 2);
        }}},
      {"iflarge",
       {2,
        [this](W w) {
          struct stat st {};
          return rest_if(::stat(w[1].c_str(), &st) == 0 && st.st_size > 6, w, 2);
        }}},
      {"ifnewer",
       {3, [this](W w) { return rest_if(older_or_newer(w[1], w[2]) == "newer", w, 3); }}},
      {"in",  // in another directory
       {2,
        [this](W w) {
          if (::chdir(w[1].c_str()) != 0) return error();
          const std::string out = rest_if(true, w, 2);
          return ::chdir("/workspace") == 0 ? out : "lost";
        }}},
      {"tick", {0, [](W) { return next_tick(); }}},
      {"pause",  // milliseconds; said at once, so that an edit can be made meanwhile
       {1,
        [](W w) {
          print("pausing\n");
          const timespec pause{0, number(w[1]) * 1'000'000};
          return outcome(::nanosleep(&pause, nullptr));
        }}},
      {"results", {1, [this](W w) { return ending_.results_file = w[1], std::string("ok"); }}},
  };
  Ending ending_;
};

}  // namespace

int main(int argc, char** argv) {
  const bool is_command = argc == 3 && std::string(argv[1]) == "-c";
  if (!is_command && argc < 2) return 2;
  Program program;
  const std::string out = program.run(is_command ? argv[2] : slurp(argv[1]));
  const Ending& ending = program.ending();
  if (!ending.results_file.empty()) write_text(ending.results_file, open_flags("wct"), out);
  if (!print(out)) return 1;
  return ending.dump_of.empty() || print("final:" + dump(ending.dump_of)) ? 0 : 1;
}
