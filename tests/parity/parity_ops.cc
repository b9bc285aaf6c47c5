// parity_ops: tries one fixed list of operations on one fixed tree and prints what came of each.
//
//   parity_ops make DIR LEVEL      makes the tree; LEVEL: nothing, modes, acls or owners (tree.h)
//   parity_ops run DIR LEVEL       one line an operation: "OPERATION KIND | result"
//   sh -c 'COMMAND; COMMAND'       the same: this program is the /bin/sh of the test's image
//
// Every operation has a fresh victim in a directory of its own, so that what it meets is always
// what the tree came from. Nothing is printed that may differ between two runs on one filesystem.
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <sstream>

#include "operations.h"
#include "tree.h"

namespace parity {
namespace {

// --- pairs: from each kind to each ------------------------------------------------------------

struct PairOp {
  const char* name;
  long (*run)(Name from, Name to);
};
constexpr PairOp kPairs[] = {
    {"rename", [](Name a, Name b) -> long { return ::rename(a, b); }},
    {"noreplace",
     [](Name a, Name b) -> long {
       return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_NOREPLACE);
     }},
    {"exchange",
     [](Name a, Name b) -> long { return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE); }},
    {"link", [](Name a, Name b) -> long { return ::link(a, b); }}};

void each_pair(Needs most,
               const std::function<void(const PairOp&, const Kind&, const Kind&)>& what) {
  for (const PairOp& op : kPairs) {
    for (const Kind& from : pair_kinds()) {
      for (const Kind& to : pair_kinds()) {
        if (is_there(from.needs, most) && is_there(to.needs, most)) what(op, from, to);
      }
    }
  }
}

std::string pair_directory(const PairOp& op, const Kind& from, const Kind& to) {
  return std::string("pair-") + op.name + "-" + from.name + "-" + to.name;
}

// --- users ------------------------------------------------------------------------------------

struct User {
  const char* name;
  unsigned uid, gid;
  std::vector<gid_t> groups;
};
const std::vector<User> kUsers = {
    {"owner", 1000, 1000, {}}, {"in-group", 1001, 1001, {1000}}, {"stranger", 65534, 65534, {}}};

std::string user_directory(const User& user, const Op& op) {
  std::string out = std::string("user-") + user.name + "-" + op.name;
  for (char& c : out) c = c == '/' ? '_' : c;
  return out;
}

// --- main -------------------------------------------------------------------------------------

std::string directory_of(const Op& op) {
  std::string out = "op-" + op.name;
  for (char& c : out) c = c == '/' ? '_' : c;
  return out;
}

void print(const std::string& op, const std::string& kind, const std::string& result) {
  std::printf("%s %s | %s\n", op.c_str(), kind.c_str(), result.c_str());
}

// What one kind left must not be in the way of the next.
void tidy(const char* kind) {
  (void)::rename("fresh", (std::string("fresh-of-") + kind).c_str());
  if (::access("target", F_OK) != 0) make_file("target", "the target\n", 0644);
}

void run_kinds(const Op& op, const std::string& label, const std::string& dir,
               const std::vector<Kind>& which, Needs most) {
  enter(dir, false);
  for (const Kind& kind : which) {
    if (!is_there(kind.needs, most)) continue;
    print(label, kind.name, op.run(kind.name));
    tidy(kind.name);
  }
  enter("..", false);
}

void run_as(const User& user, Needs most) {
  (void)in_child([&] {
    if (::setgroups(user.groups.size(), user.groups.data()) != 0 ||
        ::setresgid(user.gid, user.gid, user.gid) != 0 ||
        ::setresuid(user.uid, user.uid, user.uid) != 0) {
      print("user", user.name, error_name(errno));
      return 1;
    }
    for (const Op& op : guarded_operations()) {
      run_kinds(op, std::string("as-") + user.name + "-" + op.name, user_directory(user, op),
                guarded_kinds(), most);
    }
    std::fflush(stdout);
    return 0;
  });
}

void make(const std::string& dir, Needs most) {
  enter(dir, true);
  for (const Op& op : operations()) make_directory(directory_of(op), kinds(), most);
  each_pair(most, [&](const PairOp& op, const Kind& from, const Kind& to) {
    const std::string pair = pair_directory(op, from, to);
    enter(pair, true);
    make_directory("from", {from}, most);
    make_directory("to", {to}, most);
    enter("..", false);
  });
  if (most >= Needs::kOwners) {
    for (const User& user : kUsers) {
      for (const Op& op : guarded_operations()) {
        const std::string where = user_directory(user, op);
        make_directory(where, guarded_kinds(), most);
        (void)::chmod(where.c_str(), 0777);
      }
    }
  }
  enter("/", false);
  settle_times(dir);
}

void run(const std::string& dir, Needs most) {
  enter(dir, false);
  for (const Op& op : operations()) run_kinds(op, op.name, directory_of(op), kinds(), most);
  each_pair(most, [&](const PairOp& op, const Kind& from, const Kind& to) {
    enter(pair_directory(op, from, to), false);
    const std::string a = std::string("from/") + from.name;
    const std::string b = std::string("to/") + to.name;
    const std::string rc = outcome(op.run(a.c_str(), b.c_str()));
    print(op.name, std::string(from.name) + " " + to.name,
          rc + " " + state(a.c_str()) + " " + state(b.c_str()));
    enter("..", false);
  });
  if (most < Needs::kOwners) return;
  for (const User& user : kUsers) run_as(user, most);
}

bool execute(const std::vector<std::string>& words) {
  static const std::pair<const char*, Needs> kLevels[] = {{"nothing", Needs::kNothing},
                                                          {"modes", Needs::kModes},
                                                          {"acls", Needs::kAcls},
                                                          {"owners", Needs::kOwners}};
  if (words.size() != 3) return false;
  for (const auto& [name, needs] : kLevels) {
    if (words[2] != name) continue;
    if (words[0] == "make") make(words[1], needs);
    if (words[0] == "run") run(words[1], needs);
    return words[0] == "make" || words[0] == "run";
  }
  return false;
}

// COMMAND; COMMAND
bool execute_all(const std::string& text) {
  std::istringstream commands(text);
  for (std::string command; std::getline(commands, command, ';');) {
    std::istringstream in(command);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    if (!execute(words)) return false;
  }
  return true;
}

}  // namespace
}  // namespace parity

int main(int argc, char** argv) {
  ::umask(022);
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 1) return 7;  // as the interpreter of a script
  const bool done = words.size() == 2 && words[0] == "-c" ? parity::execute_all(words[1])
                                                          : parity::execute(words);
  if (!done) std::fprintf(stderr, "usage: parity_ops make|run DIR LEVEL\n");
  return done ? 0 : 2;
}
