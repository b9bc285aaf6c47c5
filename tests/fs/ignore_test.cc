// The ignore rules: tables of the syntax, and git itself as the oracle for random trees.
#include "fs/ignore.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "fs/workspace_filter.h"

namespace hm::fs {
namespace {

namespace stdfs = std::filesystem;
using Paths = std::set<std::string>;

// --- Surroundings

// Sets variables for one test and puts the old values back.
class ScopedEnvironment {
 public:
  ~ScopedEnvironment() {
    for (const auto& [name, value] : saved_) {
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
    }
  }
  void set(const std::string& name, const std::optional<std::string>& value) {
    const char* old = std::getenv(name.c_str());
    saved_.emplace(name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
    value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::optional<std::string>> saved_;
};

bool have_git() { return std::system("git --version >/dev/null 2>&1") == 0; }

// A temporary home and a temporary tree; nothing of the user's configuration is seen.
class Git : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_git()) GTEST_SKIP() << "git is not installed";
    std::string name = (stdfs::temp_directory_path() / "hm-ignore-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    base_ = stdfs::canonical(name).string();
    tree_ = base_ + "/tree";
    stdfs::create_directories(base_ + "/home/.config/git");
    stdfs::create_directories(tree_);
    environment_.set("HOME", base_ + "/home");
    environment_.set("XDG_CONFIG_HOME", std::nullopt);
    environment_.set("GIT_CONFIG_NOSYSTEM", "1");
    environment_.set("GIT_CEILING_DIRECTORIES", std::nullopt);
    for (const char* name_of :
         {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL",
          "GIT_CONFIG_SYSTEM", "GIT_CONFIG_PARAMETERS", "GIT_DISCOVERY_ACROSS_FILESYSTEM"}) {
      environment_.set(name_of, std::nullopt);
    }
  }
  void TearDown() override {
    if (!base_.empty()) stdfs::remove_all(base_);
  }

  void write(const std::string& path, const std::string& text = "x") {
    const std::string full = path.starts_with('/') ? path : tree_ + "/" + path;
    stdfs::create_directories(stdfs::path(full).parent_path());
    std::ofstream(full, std::ios::binary) << text;
  }
  std::string run(const std::string& arguments, const std::string& where = "") {
    const std::string command = "cd '" + (where.empty() ? tree_ : where) + "' && git " + arguments +
                                " 2>>" + base_ + "/err";
    FILE* pipe = ::popen(command.c_str(), "r");
    std::string out;
    char buffer[65536];
    for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
      out.append(buffer, n);
    }
    EXPECT_EQ(::pclose(pipe), 0) << command;
    return out;
  }
  void track(const Paths& paths) {
    std::string list;
    for (const auto& path : paths) list += path + '\0';
    write(base_ + "/list", list);
    run("update-index --add -z --stdin <" + base_ + "/list");
  }
  Paths git_says(const std::string& root) {
    const std::string out = run("ls-files -z -co --exclude-standard", root);
    Paths paths;
    std::istringstream lines(out);
    for (std::string line; std::getline(lines, line, '\0');) paths.insert(line);
    return paths;
  }

  ScopedEnvironment environment_;
  std::string base_;
  std::string tree_;
};

std::optional<std::string> slurp(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// A filter over a real tree that counts what it was asked.
struct Subject {
  explicit Subject(const std::string& root, FilterOptions options = {})
      : layout(value(discover_git(root))),
        tracked(value(TrackedFiles::load(layout))),
        filter(
            layout,
            [this](const std::string& path) -> Result<std::optional<std::string>> {
              ++asked[path];
              return slurp(path.starts_with('/') ? path : layout.root + "/" + path);
            },
            [this](const std::string& path, IgnoreKind kind) -> Result<bool> {
              ++tracked_asked;
              return tracked.tracks(path, kind);
            },
            options) {}

  template <class T>
  static T value(Result<T> result) {
    if (!result) ADD_FAILURE() << result.error().message;
    return result ? std::move(*result) : T();
  }

  bool file(std::string_view path) { return value(filter.visible(path, IgnoreKind::kOther)); }
  bool directory(std::string_view path) {
    return value(filter.visible(path, IgnoreKind::kDirectory));
  }

  // Every visible file, asked about in a random order, parents not first.
  Paths visible_files(std::mt19937& random) {
    std::vector<std::string> all;
    for (auto it = stdfs::recursive_directory_iterator(layout.root);
         it != stdfs::recursive_directory_iterator(); ++it) {
      const std::string path = it->path().string().substr(layout.root.size() + 1);
      if (path == ".git") {
        it.disable_recursion_pending();
      } else if (it->is_symlink() || !it->is_directory()) {
        all.push_back(path);
      }
    }
    std::shuffle(all.begin(), all.end(), random);
    Paths out;
    for (const auto& path : all) {
      if (file(path)) out.insert(path);
    }
    hidden = static_cast<int>(all.size() - out.size());
    return out;
  }
  int most_asked() const {
    int most = 0;
    for (const auto& [path, times] : asked) most = std::max(most, times);
    return most;
  }

  GitLayout layout;
  TrackedFiles tracked;
  std::map<std::string, int> asked;
  std::atomic<int> tracked_asked{0};
  int hidden = 0;  // by the last visible_files
  WorkspaceFilter filter;
};

// --- The syntax

struct Case {
  const char* text;
  const char* path;
  IgnoreKind kind;
  Verdict verdict;
};

constexpr auto kDir = IgnoreKind::kDirectory;
constexpr auto kFile = IgnoreKind::kOther;
constexpr auto kNo = Verdict::kNone;
constexpr auto kYes = Verdict::kIgnored;
constexpr auto kBack = Verdict::kIncluded;

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    EXPECT_EQ(IgnoreFile::parse(c.text).verdict(c.path, c.kind), c.verdict)
        << "text [" << c.text << "] path [" << c.path << "]";
  }
}

TEST(IgnoreFile, Lines) {
  check({{"", "a", kFile, kNo},
         {"# a\n", "# a", kFile, kNo},
         {"\\#a\n", "#a", kFile, kYes},
         {"\\!a\n", "!a", kFile, kYes},
         {"a", "a", kFile, kYes},
         {"a\r\n", "a", kFile, kYes},
         {"a\r", "a", kFile, kYes},
         {"a\r\r\n", "a", kFile, kNo},
         {"a  \n", "a", kFile, kYes},
         {"a\\ \n", "a ", kFile, kYes},
         {"a\\  \n", "a ", kFile, kYes},
         {"a\\\\ \n", "a\\", kFile, kYes},
         {"a \\", "a ", kFile, kNo},
         {" a\n", " a", kFile, kYes},
         {"a\t\n", "a", kFile, kNo},
         {"\xef\xbb\xbf"
          "a\n",
          "a", kFile, kYes},
         {"\n\n  \n!\n/\n//\n", "a", kDir, kNo},
         {"a\n!a\n", "a", kFile, kBack},
         {"!a\na\n", "a", kFile, kYes},
         {"*\n!b\n", "a", kFile, kYes},
         {"A", "a", kFile, kNo}});
  EXPECT_EQ(IgnoreFile::parse(std::string_view("a\0b\nc", 5)).verdict("a", kFile), kYes);
  EXPECT_TRUE(IgnoreFile::parse("# only\n[a\n\\\n[[:no:]]\n").empty());
}

TEST(IgnoreFile, Anchors) {
  check({{"b", "a/b", kFile, kYes},
         {"/b", "a/b", kFile, kNo},
         {"/b", "b", kFile, kYes},
         {"a/b", "a/b", kFile, kYes},
         {"a/b", "x/a/b", kFile, kNo},
         {"b/", "b", kFile, kNo},
         {"b/", "a/b", kDir, kYes},
         {"a/b/", "a/b", kDir, kYes},
         {"a/b/", "x/a/b", kDir, kNo},
         {"a\\/", "a", kDir, kNo},
         {"a/*", "a/b", kFile, kYes},
         {"a/*", "a/b/c", kFile, kNo},
         {"a/*/c", "a/b/c", kDir, kYes},
         {"a/*/c", "a/b/b/c", kDir, kNo}});
}

TEST(IgnoreFile, Wildcards) {
  check({{"*.o", "d/a.o", kFile, kYes},
         {"*.o", "a.c", kFile, kNo},
         {"a*c", "abbc", kFile, kYes},
         {"a*b*c", "a1b2b3c", kFile, kYes},
         {"/a*b", "a/b", kFile, kNo},
         {"?", "a", kFile, kYes},
         {"a?b/c", "a/b/c", kFile, kNo},
         {"**/b", "b", kFile, kYes},
         {"**/b", "x/y/b", kFile, kYes},
         {"**/b/c", "x/b/c", kFile, kYes},
         {"a/**", "a/x/y", kFile, kYes},
         {"a/**", "a", kDir, kNo},
         {"a/**/b", "a/b", kFile, kYes},
         {"a/**/b", "a/x/y/b", kFile, kYes},
         {"a/**/b", "a/xb", kFile, kNo},
         {"a/**/*.c/**/d", "a/b.c/c.c/x/d", kFile, kYes},
         {"a/x**/b", "a/xy/z/b", kFile, kYes},  // git strips "a/x" first: the "**" then counts
         {"?/x**/b", "a/xy/z/b", kFile, kNo},
         {"**", "a/b", kFile, kYes},
         {"***/b", "x/y/b", kFile, kYes},
         {"\\*", "*", kFile, kYes},
         {"\\*", "a", kFile, kNo},
         {"*a*a*a*a*b", "aaaaaaaaaaaaaaaaa", kFile, kNo}});
}

TEST(IgnoreFile, Sets) {
  check({{"[abc]", "b", kFile, kYes},
         {"[a-c]", "d", kFile, kNo},
         {"[!a-c]", "d", kFile, kYes},
         {"[^a-c]", "a", kFile, kNo},
         {"[]a]", "]", kFile, kYes},
         {"[!]a]", "b", kFile, kYes},
         {"[a-]", "-", kFile, kYes},
         {"[--0]", "0", kFile, kYes},
         {"[\\]]", "]", kFile, kYes},
         {"[a\\-c]", "b", kFile, kNo},
         {"[[:digit:]x]", "7", kFile, kYes},
         {"[![:space:]]", "a", kFile, kYes},
         {"[[:space:]]", "\v", kFile, kNo},
         {"[[:]", "[", kFile, kYes},
         {"[[:]", ":", kFile, kYes},
         {"[[:nope:]]", "n", kFile, kNo},
         {"[a", "[a", kFile, kNo},
         {"x/[!b]c", "x//c", kFile, kNo},
         {"[\x80-\xff]", "\xe9", kFile, kYes},
         {"[[:alpha:]]", "\xe9", kFile, kNo},
         {"[z-a]", "m", kFile, kNo},
         {"[a-c-e]", "-", kFile, kYes}});
}

TEST(IgnoreFile, ManyStarsStayFast) {
  std::string stars;
  std::string directories;
  std::string path;
  for (int i = 0; i < 30; ++i) {
    stars += "*a?";
    directories += "**/*a/";
    path += "aaa/aa/baa/";
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(IgnoreFile::parse(stars + "b").verdict(std::string(3000, 'a'), kFile), kNo);
  EXPECT_EQ(IgnoreFile::parse(directories + "b").verdict(path, kFile), kNo);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

// --- Against git

// Names and patterns from a small alphabet, so that they meet often.
class Generator {
 public:
  explicit Generator(unsigned seed) : random_(seed) {}

  std::mt19937& random() { return random_; }
  bool chance(int percent) { return below(100) < percent; }
  int below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random_); }
  const std::string& pick(const std::vector<std::string>& from) {
    return from[static_cast<std::size_t>(below(static_cast<int>(from.size())))];
  }

  const std::string& name() {
    static const std::vector<std::string> kNames = {
        "a",  "b",  "ab", "abc", "foo",  "foo.o", "bar.o",     "x.log", "A",   "a b", "#h",
        "!n", "[z", "-",  "t ",  "b\\s", ".d",    "\xc3\xa9",  "\xff",  "a.b", "*",   "?q",
        "]",  "^",  "b",  "c",   "a",    "foo",   ".hidden.o", "ba",    "c\r", "\t"};
    return pick(kNames);
  }

  std::string pattern() {
    std::string out = chance(25) ? "!" : "";
    if (chance(20)) out += "/";
    const int parts = 1 + below(3);
    for (int i = 0; i < parts; ++i) out += (i > 0 ? "/" : "") + component();
    if (chance(25)) out += "/";
    if (chance(10)) out += " ";
    if (chance(3)) out += "\\ ";
    if (chance(3)) out += "\r";
    if (chance(1)) out += std::string("\0z", 2);
    return out;
  }

  std::string ignore_file() {
    std::string out = chance(5) ? "\xef\xbb\xbf" : "";
    for (int i = 1 + below(4); i > 0; --i) out += pattern() + (chance(95) ? "\n" : "\r\n");
    if (chance(20) && !out.empty()) out.pop_back();
    return out;
  }

 private:
  std::string component() {
    if (chance(20)) return "**";
    if (chance(40)) return escape(name());
    static const std::vector<std::string> kAtoms = {
        "*",           "*",     "?",           "[a-c]",     "[!a]",    "[^bf]",
        "[[:alpha:]]", "**",    "a",           "b",         "o",       ".",
        "foo",         "\\a",   "\\",          "[",         "[]a]",    "[a",
        "#",           "!",     "[[:punct:]]", "[[:bad:]]", "[\\a-c]", "[--z]",
        "-",           " ",     "]",           "[[:]",      "\xc3",    "[\x80-\xff]",
        "***",         "[a/b]", "[!.]",        "\\*",       "\\/",     "[[:upper:][:space:]]"};
    std::string out;
    for (int i = 1 + below(3); i > 0; --i) out += pick(kAtoms);
    return out;
  }
  std::string escape(const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (std::string_view("#!*?[\\").find(c) != std::string_view::npos && chance(70)) out += '\\';
      out += c;
    }
    return out;
  }

  std::mt19937 random_;
};

std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    char code[8];
    std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(c));
    out += (c >= ' ' && c <= '~') || c == '\n' ? std::string(1, c) : code;
  }
  return out;
}

class Differential : public Git {
 protected:
  struct Tree {
    std::vector<std::string> directories{""};  // each but the first ends in '/'
    Paths files;
    std::string ignores;  // for a failure's message
  };

  void clear() {
    for (const auto& entry : stdfs::directory_iterator(tree_)) {
      if (entry.path().filename() != ".git") stdfs::remove_all(entry.path());
    }
    stdfs::remove(tree_ + "/.git/index");
    stdfs::remove(tree_ + "/.git/info/exclude");
    stdfs::remove(base_ + "/home/.config/git/ignore");
  }
  void fill(Generator& gen, Tree& tree, int entries) {
    Paths taken;
    for (int i = 0; i < entries; ++i) {
      const std::string path = gen.pick(tree.directories) + gen.name();
      if (path.size() > 60 || !taken.insert(path).second) continue;
      if (gen.chance(45)) {
        stdfs::create_directories(tree_ + "/" + path);
        tree.directories.push_back(path + "/");
      } else {
        write(path);
        tree.files.insert(path);
      }
    }
  }
  void put_ignore(Tree& tree, const std::string& path, const std::string& text) {
    write(path, text);
    tree.ignores += "--- " + path + "\n" + text + "\n";
  }
  void compare(Generator& gen, const std::string& root, const Tree& tree) {
    Subject subject(root);
    const Paths ours = subject.visible_files(gen.random());
    const Paths theirs = git_says(root);
    EXPECT_LE(subject.most_asked(), 1);
    shown_ += static_cast<int>(theirs.size());
    hidden_ += subject.hidden;
    if (ours == theirs) return;
    std::string differences;
    for (const auto& path : ours) differences += theirs.contains(path) ? "" : " +[" + path + "]";
    for (const auto& path : theirs) differences += ours.contains(path) ? "" : " -[" + path + "]";
    ADD_FAILURE() << "root " << root << "\n" << printable(tree.ignores + differences);
  }

  void TearDown() override {
    std::printf("files git shows: %d, hides: %d\n", shown_, hidden_);
    Git::TearDown();
  }

  int shown_ = 0;
  int hidden_ = 0;
};

unsigned case_count(unsigned standard) {
  const char* wanted = std::getenv("HM_IGNORE_CASES");
  return wanted == nullptr ? standard : static_cast<unsigned>(std::atoi(wanted));
}

TEST_F(Differential, RandomTrees) {
  run("init -q");
  const unsigned count = case_count(300);
  for (unsigned seed = 1; seed <= count && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Generator gen(seed);
    clear();
    Tree tree;
    fill(gen, tree, 60);
    for (const auto& directory : tree.directories) {
      if (gen.chance(directory.empty() ? 80 : 35)) {
        put_ignore(tree, directory + ".gitignore", gen.ignore_file());
        tree.files.insert(directory + ".gitignore");
      }
    }
    if (gen.chance(30)) put_ignore(tree, ".git/info/exclude", gen.ignore_file());
    if (gen.chance(30)) {
      put_ignore(tree, base_ + "/home/.config/git/ignore", gen.ignore_file());
    }
    Paths tracked;
    for (const auto& path : tree.files) {
      if (gen.chance(12)) tracked.insert(path);
    }
    track(tracked);
    compare(gen, tree_, tree);
    compare(gen, tree_ + "/" + gen.pick(tree.directories), tree);
  }
}

// One ignore file over one big tree: the patterns themselves.
TEST_F(Differential, RandomPatterns) {
  run("init -q");
  Generator trees(7);
  Tree tree;
  fill(trees, tree, 700);
  const unsigned count = case_count(300);
  for (unsigned seed = 1; seed <= count && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Generator gen(seed + 1'000'000);
    tree.ignores.clear();
    put_ignore(tree, ".gitignore", gen.ignore_file());
    compare(gen, tree_, tree);
  }
}

// --- Places

TEST_F(Git, WithoutRepository) {
  write(".gitignore", "*.o\n");
  write("sub/.gitignore", "!keep.o\n/only\n");
  write(base_ + "/home/.config/git/ignore", "*.swp\n/top\n");
  write(base_ + "/.gitignore", "*\n");  // above: no repository, no say
  Subject subject(tree_);
  EXPECT_FALSE(subject.layout.in_repository());
  EXPECT_TRUE(subject.file("a.c"));
  EXPECT_FALSE(subject.file("a.o"));
  EXPECT_FALSE(subject.file("sub/a.o"));
  EXPECT_TRUE(subject.file("sub/keep.o"));
  EXPECT_FALSE(subject.file("sub/only"));
  EXPECT_TRUE(subject.file("sub/x/only"));
  EXPECT_FALSE(subject.file("sub/x.swp"));
  EXPECT_FALSE(subject.file("top"));
  EXPECT_TRUE(subject.file("sub/top"));
  EXPECT_TRUE(subject.directory(""));
  EXPECT_EQ(subject.asked.count(base_ + "/.gitignore"), 0U);
  EXPECT_EQ(subject.asked.count(base_ + "/home/.config/git/ignore"), 1U);
}

TEST_F(Git, ReservedNames) {
  run("init -q");
  write(".hmignore", "!.git\n!.hm\n");
  for (const bool show : {false, true}) {
    Subject subject(tree_, FilterOptions{.show_git = show});
    EXPECT_EQ(subject.directory(".git"), show);
    EXPECT_EQ(subject.file(".git/HEAD"), show);
    EXPECT_EQ(subject.directory("vendor/.git"), show);
    EXPECT_EQ(subject.file("vendor/.git"), show);
    EXPECT_FALSE(subject.directory(".hm"));
    EXPECT_FALSE(subject.file(".hm/x"));
    EXPECT_TRUE(subject.directory("sub/.hm"));
    EXPECT_TRUE(subject.file(".github"));
    EXPECT_EQ(subject.asked.count(".git/.gitignore") + subject.asked.count(".git/.hmignore"), 0U);
  }
}

TEST_F(Git, TrackedFilesStayVisible) {
  run("init -q");
  write(".gitignore", "build/\n*.o\n");
  write("build/kept/x");
  write("build/other");
  write("lib/a.o");
  track({"build/kept/x", "lib/a.o"});
  Subject subject(tree_);
  EXPECT_TRUE(subject.file("lib/fresh.c"));
  EXPECT_EQ(subject.tracked_asked, 0);
  EXPECT_TRUE(subject.file("lib/a.o"));
  EXPECT_FALSE(subject.file("lib/b.o"));
  EXPECT_TRUE(subject.directory("build"));
  EXPECT_TRUE(subject.directory("build/kept"));
  EXPECT_TRUE(subject.file("build/kept/x"));
  EXPECT_FALSE(subject.file("build/kept/y"));
  EXPECT_FALSE(subject.file("build/other"));
  EXPECT_FALSE(subject.directory("lib/build"));
}

TEST_F(Git, SubdirectoryOfRepository) {
  run("init -q");
  write(".gitignore", "/p/w/deny\n*.o\n");
  write("p/.gitignore", "!w/*.o\n/w/x\n");
  write(".git/info/exclude", "/p/w/excluded\n*.c\n");
  write("p/w/.gitignore", "!a.c\n");
  write("p/w/t.c");
  track({"p/w/t.c"});
  Subject subject(tree_ + "/p/w");
  EXPECT_EQ(subject.layout.prefix, "p/w");
  EXPECT_FALSE(subject.file("deny"));
  EXPECT_FALSE(subject.file("x"));
  EXPECT_FALSE(subject.file("excluded"));
  EXPECT_TRUE(subject.file("a.o"));
  EXPECT_FALSE(subject.file("d/a.o"));
  EXPECT_TRUE(subject.file("a.c"));
  EXPECT_FALSE(subject.file("b.c"));
  EXPECT_TRUE(subject.file("t.c"));
  EXPECT_FALSE(Subject::value(subject.filter.root_ignored()));
  const std::map<std::string, int> asked = {{tree_ + "/.gitignore", 1},
                                            {tree_ + "/p/.gitignore", 1},
                                            {tree_ + "/.git/info/exclude", 1},
                                            {base_ + "/home/.config/git/ignore", 1},
                                            {".gitignore", 1},
                                            {".hmignore", 1},
                                            {"d/.gitignore", 1},
                                            {"d/.hmignore", 1}};
  EXPECT_EQ(subject.asked, asked);
}

TEST_F(Git, IgnoredWorkspaceRoot) {
  run("init -q");
  write(".gitignore", "out/\n");
  write("out/w/t");
  write("out/w/.gitignore", "!*\n");
  track({"out/w/t"});
  Subject subject(tree_ + "/out/w");
  EXPECT_TRUE(Subject::value(subject.filter.root_ignored()));
  EXPECT_TRUE(subject.file("t"));
  EXPECT_FALSE(subject.file("u"));
  write("out/w/.hmignore", "!u\n");
  Subject again(tree_ + "/out/w");
  EXPECT_TRUE(again.file("u"));
}

TEST_F(Git, OneFileAtTwoLevels) {
  run("init -q");
  run("config core.excludesFile " + tree_ + "/.gitignore");
  write(".gitignore", "*.o\n");
  write(".git/info/exclude", "*.c\n");
  stdfs::create_directories(tree_ + "/w");
  Subject subject(tree_ + "/w");
  EXPECT_FALSE(subject.file("a.o"));
  EXPECT_FALSE(subject.file("a.c"));
  EXPECT_EQ(subject.most_asked(), 1);
}

TEST_F(Git, WhereGlobalExcludesAre) {
  const auto found = [&] { return Subject::value(discover_git(tree_)).global_excludes; };
  const std::string home = base_ + "/home";
  EXPECT_EQ(found(), home + "/.config/git/ignore");
  environment_.set("XDG_CONFIG_HOME", base_ + "/xdg");
  EXPECT_EQ(found(), base_ + "/xdg/git/ignore");
  write(home + "/.gitconfig", "[CORE]\n\texcludesFILE = ~/mine\n");
  EXPECT_EQ(found(), home + "/mine");
  write(home + "/.gitconfig", "[include]\n\tpath = more\n");
  EXPECT_EQ(found(), base_ + "/xdg/git/ignore");
  write(home + "/more", "[core]\n\texcludesfile = relative\n");
  EXPECT_EQ(found(), tree_ + "/relative");
  run("init -q");
  run("config core.excludesFile ''");
  EXPECT_EQ(found(), "");
  environment_.set("GIT_CONFIG_COUNT", "1");
  environment_.set("GIT_CONFIG_KEY_0", "core.excludesfile");
  environment_.set("GIT_CONFIG_VALUE_0", "/from/environment");
  EXPECT_EQ(found(), "/from/environment");
  write(home + "/.gitconfig", "[core\n");
  const auto broken = discover_git(tree_);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kRefused);
  EXPECT_EQ(broken.error().message.find('\n'), std::string::npos) << broken.error().message;
}

TEST_F(Git, TheEnvironmentNamesConfigurationFiles) {
  run("init -q");
  const auto found = [&] { return Subject::value(discover_git(tree_)).global_excludes; };
  const std::string usual = found();
  for (const char* variable : {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"}) {
    if (variable == std::string("GIT_CONFIG_SYSTEM")) {
      environment_.set("GIT_CONFIG_NOSYSTEM", std::nullopt);
    }
    environment_.set(variable, "/dev/null");
    EXPECT_EQ(found(), usual) << variable;
    write(base_ + "/own", "[core]\nexcludesFile = /from/own\n");
    environment_.set(variable, base_ + "/own");
    EXPECT_EQ(found(), "/from/own") << variable;
    environment_.set(variable, std::nullopt);
  }
}

TEST_F(Git, UnusualRepositories) {
  run("init -q");
  write("f");
  track({"f"});
  run("-c user.name=n -c user.email=e commit -q -m m");
  run("worktree add -q " + base_ + "/linked");
  const auto linked = Subject::value(discover_git(base_ + "/linked"));
  EXPECT_EQ(linked.top_level, base_ + "/linked");
  EXPECT_EQ(linked.info_exclude, tree_ + "/.git/info/exclude");
  EXPECT_EQ(linked.index, tree_ + "/.git/worktrees/linked/index");
  EXPECT_TRUE(Subject::value(TrackedFiles::load(linked)).contains("f"));

  write(base_ + "/lost/.git", "gitdir: /nowhere\n");
  const auto lost = discover_git(base_ + "/lost");
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().message, "git refuses " + base_ + "/lost: not a git repository: /nowhere");

  stdfs::create_directories(tree_ + "/sub/.git");  // no repository: git walks on
  environment_.set("GIT_DIR", "/nowhere");         // as in a hook
  const auto inner = Subject::value(discover_git(tree_ + "/sub"));
  EXPECT_EQ(inner.top_level, tree_);
  EXPECT_EQ(inner.prefix, "sub");
  EXPECT_TRUE(TrackedFiles::load(inner));
  EXPECT_FALSE(Subject::value(discover_git(tree_ + "/.git/refs")).in_repository());
  environment_.set("GIT_CEILING_DIRECTORIES", tree_);
  EXPECT_FALSE(Subject::value(discover_git(tree_ + "/sub")).in_repository());
  EXPECT_TRUE(Subject::value(discover_git(tree_)).in_repository());
}

TEST_F(Git, DubiousOwnership) {
  run("init -q");
  environment_.set("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
  GitLayout layout = Subject::value(discover_git(tree_));
  const auto refused = TrackedFiles::load(layout);
  ASSERT_FALSE(refused);
  EXPECT_EQ(
      refused.error().message,
      "git refuses " + tree_ + ": detected dubious ownership in repository at '" + tree_ + "'");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(tree_.c_str(), 12345, 12345), 0);
  EXPECT_FALSE(discover_git(tree_));
  environment_.set("GIT_TEST_ASSUME_DIFFERENT_OWNER", std::nullopt);
  EXPECT_FALSE(discover_git(tree_));
  run("config --global safe.directory " + tree_);
  EXPECT_TRUE(discover_git(tree_));
}

TEST_F(Git, SubmodulesListTheirOwn) {
  stdfs::create_directories(base_ + "/origin");
  run("init -q", base_ + "/origin");
  write(base_ + "/origin/lib/x.a");
  run("add -f . && git -c user.name=n -c user.email=e commit -q -m m", base_ + "/origin");
  run("init -q");
  write(".gitignore", "*.a\n");
  run("-c protocol.file.allow=always submodule --quiet add " + base_ + "/origin dep");
  write("dep-b");
  track({"dep-b"});
  Subject subject(tree_);
  EXPECT_TRUE(subject.layout.has_submodules);
  EXPECT_TRUE(subject.file("dep/lib/x.a"));
  EXPECT_FALSE(subject.file("dep/lib/y.a"));
  EXPECT_TRUE(subject.tracked.contains("dep-b"));
  Subject below(tree_ + "/dep");
  EXPECT_EQ(below.layout.top_level, tree_ + "/dep");  // the outer *.a has no say here
  EXPECT_TRUE(below.file("lib/y.a"));
}

TEST_F(Git, MissingGitIsOneLine) {
  run("init -q");
  write(base_ + "/home/.gitconfig", "[include]\n");
  const char* path = std::getenv("PATH");
  ScopedEnvironment environment;
  environment.set("PATH", "/nonexistent");
  const auto layout = discover_git(tree_);
  ASSERT_FALSE(layout) << path;
  EXPECT_EQ(layout.error().code, ErrorCode::kRefused);
}

// --- .hmignore

TEST_F(Git, HmignoreOnTop) {
  run("init -q");
  write(".gitignore", "node_modules/\ndist/\n*.log\n");
  write(".hmignore", "!node_modules/\nnode_modules/.cache/\nsecret*\n!wanted.log\n");
  write("node_modules/p/.gitignore", "lib\n");
  write("node_modules/q/.hmignore", "fat\n");
  write("deep/.hmignore", "!secret.ok\n*.tmp\n");
  write("secret.key");
  write("dist/.gitignore", "!*\n");
  write("dist/kept");
  track({"secret.key", "dist/kept"});
  Subject subject(tree_);
  EXPECT_TRUE(subject.directory("node_modules"));
  EXPECT_TRUE(subject.file("node_modules/p/lib"));  // git has no say in here
  EXPECT_TRUE(subject.file("node_modules/p/dist/x"));
  EXPECT_TRUE(subject.file("node_modules/p/x.log"));
  EXPECT_FALSE(subject.directory("node_modules/.cache"));
  EXPECT_FALSE(subject.file("node_modules/.cache/x"));
  EXPECT_FALSE(subject.file("node_modules/q/fat"));
  EXPECT_EQ(subject.asked.count("node_modules/p/.gitignore"), 0U);
  EXPECT_FALSE(subject.file("secret.key"));  // even if tracked
  EXPECT_FALSE(subject.file("secrets/x"));
  EXPECT_EQ(subject.asked.count("secrets/.hmignore"), 0U);
  EXPECT_TRUE(subject.file("deep/secret.ok"));
  EXPECT_FALSE(subject.file("secret.ok"));
  EXPECT_FALSE(subject.file("deep/er/x.tmp"));
  EXPECT_TRUE(subject.file("x.tmp"));
  EXPECT_TRUE(subject.file("wanted.log"));
  EXPECT_FALSE(subject.file("other.log"));
  EXPECT_TRUE(subject.file("dist/wanted.log"));  // dist is visible: it holds a tracked file
  EXPECT_TRUE(subject.file("dist/kept"));
  EXPECT_FALSE(subject.file("dist/new"));
}

TEST_F(Git, HmignoreCannotReachIntoHiddenDirectory) {
  write(".hmignore", "a/\n!a/x\n!b/x\n");
  write(".gitignore", "b/\n");
  Subject subject(tree_);
  EXPECT_FALSE(subject.file("a/x"));
  EXPECT_FALSE(subject.file("b/x"));
}

// --- Callbacks, threads

TEST(WorkspaceFilter, ErrorsAreNotRemembered) {
  GitLayout layout;
  layout.root = "/w";
  int calls = 0;
  WorkspaceFilter filter(
      layout,
      [&](const std::string& path) -> Result<std::optional<std::string>> {
        if (++calls == 1) return fail(ErrorCode::kChanged, path);
        return path == ".gitignore" ? std::optional<std::string>("*.o\n") : std::nullopt;
      },
      [](const std::string&, IgnoreKind) -> Result<bool> { return fail(ErrorCode::kIo, "index"); });
  EXPECT_EQ(filter.visible("a", kFile).error().code, ErrorCode::kChanged);
  EXPECT_TRUE(filter.visible("a", kFile).value());
  EXPECT_EQ(filter.visible("a.o", kFile).error().code, ErrorCode::kIo);
}

TEST(WorkspaceFilter, ManyThreads) {
  GitLayout layout;
  layout.root = "/w";
  std::map<std::string, int> asked;  // unguarded on purpose: one thread reads at a time
  WorkspaceFilter filter(
      layout,
      [&](const std::string& path) -> Result<std::optional<std::string>> {
        ++asked[path];
        return path.ends_with(".gitignore") ? std::optional<std::string>("*.o\n") : std::nullopt;
      },
      [](const std::string&, IgnoreKind) -> Result<bool> { return false; });
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const std::string directory = std::to_string(i % 50) + "/" + std::to_string(i % 7);
        if (!filter.visible(directory + "/a", kFile).value()) ++wrong;
        if (filter.visible(directory + "/a.o", kFile).value()) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  for (const auto& [path, times] : asked) EXPECT_EQ(times, 1) << path;
}

TEST(TrackedFiles, Lists) {
  const std::string encoded("a\0b-c\0b/x\0c/d/e\0", 16);
  const auto files = TrackedFiles::decode(encoded);
  ASSERT_TRUE(files);
  EXPECT_EQ(files->encode(), encoded);
  EXPECT_EQ(files->size(), 4U);
  EXPECT_TRUE(files->contains("a"));
  EXPECT_TRUE(files->contains("c/d/e"));
  EXPECT_FALSE(files->contains("b"));
  EXPECT_FALSE(files->contains("c/d/f"));
  EXPECT_TRUE(files->any_below("b"));
  EXPECT_TRUE(files->any_below("c/d"));
  EXPECT_TRUE(files->any_below(""));
  EXPECT_FALSE(files->any_below("a"));
  EXPECT_FALSE(files->any_below("c/d/e"));
  EXPECT_FALSE(TrackedFiles().any_below(""));
  EXPECT_TRUE(TrackedFiles::decode(""));
  EXPECT_EQ(TrackedFiles::decode("a").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(TrackedFiles::decode(std::string("b\0a\0", 4)).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(TrackedFiles::decode(std::string("\0", 1)).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace hm::fs
