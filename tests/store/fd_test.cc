#include "store/util/fd.h"

#include <gtest/gtest.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "test_support.h"

namespace hm {
namespace {

using namespace test;  // NOLINT: a test file

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(Fd, ClosesOnceAndMoves) {
  TempDir temp;
  write_file(temp / "f", "x");
  Fd first = must(open_file(temp / "f", O_RDONLY));
  const int number = first.get();
  EXPECT_NE(::fcntl(number, F_GETFD) & FD_CLOEXEC, 0);
  Fd second(std::move(first));
  EXPECT_TRUE(is_open(number));
  EXPECT_FALSE(first);  // NOLINT: the moved-from state is the point
  second = must(open_file(temp / "f", O_RDONLY));
  EXPECT_FALSE(is_open(number)) << "assignment closes what was held";
  const int held = second.get();
  second.reset();
  EXPECT_FALSE(is_open(held));
  second.reset();
}

TEST(Fd, OpenSaysWhatIsMissing) {
  TempDir temp;
  const auto fd = open_file(temp / "none", O_RDONLY);
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().errno_value, ENOENT);
  EXPECT_EQ(fd.error().to_errno(), ENOENT);
  EXPECT_NE(fd.error().message.find(temp / "none"), std::string::npos);
}

TEST(OpenResolving, GoesNoFurtherThanItMay) {
  TempDir temp;
  write_file(temp / "in/f", "x");
  write_file(temp / "out", "y");
  must_be_zero(::symlink("f", (temp / "in/link").c_str()), "symlink");
  const Fd dir = must(open_file(temp / "in", O_PATH | O_DIRECTORY));
  const auto open = [&](const std::string& path, std::uint64_t resolve) {
    return open_resolving(dir.get(), path, O_RDONLY, resolve);
  };
  const Fd file = must(open("f", RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS));
  EXPECT_NE(::fcntl(file.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_TRUE(open("", RESOLVE_BENEATH)) << "the directory itself";
  EXPECT_TRUE(open("link", RESOLVE_BENEATH));
  EXPECT_EQ(open("link", RESOLVE_NO_SYMLINKS).error().errno_value, ELOOP);
  EXPECT_EQ(open("../out", RESOLVE_BENEATH).error().errno_value, EXDEV);
  EXPECT_EQ(open("none", 0).error().errno_value, ENOENT);
}

TEST(NamesAt, GivesAllNamesSortedWhateverTheOffset) {
  TempDir temp;
  for (const char* name : {"d/b", "d/a", "d/.hidden", "d/sub/x"}) write_file(temp / name, "");
  const std::vector<std::string> all = {".hidden", "a", "b", "sub"};
  const Fd dir = must(open_file(temp / "d", O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(must(names_at(dir.get())), all);
  EXPECT_EQ(must(names_at(dir.get())), all) << "again";
  const Fd file = must(open_file(temp / "d/a", O_RDONLY));
  EXPECT_EQ(names_at(file.get()).error().errno_value, ENOTDIR);
}

TEST(ReadFile, GivesEveryByte) {
  TempDir temp;
  std::string text(200'000, 'x');
  text[70'000] = '\0';
  write_file(temp / "f", text);
  EXPECT_EQ(slurp(temp / "f"), text);
  EXPECT_GT(must(read_file("/proc/self/status")).size(), 0U) << "a file whose st_size is 0";
  EXPECT_FALSE(read_file(temp.path()));
}

TEST(WriteFileAtomically, ReplacesWholeAndLeavesNothingElse) {
  TempDir temp;
  write_file(temp / "f", "the old text, which is longer");
  must(write_file_atomically(temp / "f", "new", 0600));
  EXPECT_EQ(slurp(temp / "f"), "new");
  std::size_t names = 0;
  for ([[maybe_unused]] const auto& item : std::filesystem::directory_iterator(temp.path()))
    ++names;
  EXPECT_EQ(names, 1U);
}

TEST(WriteFileAtomically, KeepsReadersOfTheOldFile) {
  TempDir temp;
  write_file(temp / "f", "old");
  const Fd reader = must(open_file(temp / "f", O_RDONLY));
  must(write_file_atomically(temp / "f", "new", 0600));
  EXPECT_EQ(must(read_all(reader.get())), "old");
}

TEST(WriteFileAtomically, FailsWithoutLeavingATemporaryFile) {
  TempDir temp;
  std::filesystem::create_directories(temp / "f/child");  // a rename onto it cannot work
  EXPECT_FALSE(write_file_atomically(temp / "f", "new", 0600));
  std::size_t names = 0;
  for ([[maybe_unused]] const auto& item : std::filesystem::directory_iterator(temp.path()))
    ++names;
  EXPECT_EQ(names, 1U);
  EXPECT_FALSE(write_file_atomically(temp / "none/f", "new", 0600));
}

TEST(MakeDirectories, IsIdempotentAndRefusesAFile) {
  TempDir temp;
  must(make_directories(temp / "a/b/c", 0700));
  must(make_directories(temp / "a/b/c", 0700));
  EXPECT_TRUE(S_ISDIR(lstat_of(temp / "a/b/c").st_mode));
  write_file(temp / "f", "");
  EXPECT_FALSE(make_directories(temp / "f", 0700));
  EXPECT_FALSE(make_directories(temp / "f/x", 0700));
}

TEST(CopyBytes, WorksFromOneFilesystemToAnother) {
  TempDir temp;
  const Fd proc = must(open_file("/proc/self/status", O_RDONLY));
  const Fd out = must(open_file(temp / "f", O_RDWR | O_CREAT, 0600));
  EXPECT_GT(must(copy_bytes(proc.get(), out.get())), 100U);
  EXPECT_TRUE(slurp(temp / "f").starts_with("Name:"));
  write_file(temp / "big", std::string(700'000, 'x') + "end");
  const Fd big = must(open_file(temp / "big", O_RDONLY));
  const Fd copy = must(open_file(temp / "copy", O_RDWR | O_CREAT, 0600));
  EXPECT_EQ(must(copy_bytes(big.get(), copy.get())), 700'003U);
  EXPECT_EQ(slurp(temp / "copy"), slurp(temp / "big"));
}

// Ten thousand levels, one branch of them read-only, with few descriptors.
TEST(RemoveTree, RemovesWhatIsTooDeepForDescriptorsAndStack) {
  TempDir temp;
  rlimit before{};
  must_be_zero(::getrlimit(RLIMIT_NOFILE, &before), "getrlimit");
  rlimit few = before;
  few.rlim_cur = 256;
  must_be_zero(::setrlimit(RLIMIT_NOFILE, &few), "setrlimit");
  write_file(temp / "t/.hm-deep-0/x", "taken");
  Fd at = must(open_file(temp / "t", O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < 10'000; ++i) {
    must_be_zero(::mkdirat(at.get(), "d", 0700), "mkdirat");
    must_be_zero(::mkdirat(at.get(), "sibling", 0500), "mkdirat");
    at = must(open_at(at.get(), "d", O_RDONLY | O_DIRECTORY));
  }
  must(remove_tree(AT_FDCWD, temp / "t"));
  EXPECT_FALSE(exists(temp / "t"));
  must_be_zero(::setrlimit(RLIMIT_NOFILE, &before), "setrlimit");
}

TEST(RemoveTree, RemovesEverythingAndAbsentIsSuccess) {
  TempDir temp;
  write_file(temp / "t/a/b/c", "x");
  write_file(temp / "t/d", "x", 0000);
  must_be_zero(::mkfifo((temp / "t/fifo").c_str(), 0600), "mkfifo");
  must(remove_tree(AT_FDCWD, temp / "t"));
  EXPECT_FALSE(exists(temp / "t"));
  must(remove_tree(AT_FDCWD, temp / "t"));
  write_file(temp / "file", "x");
  must(remove_tree(AT_FDCWD, temp / "file"));
  EXPECT_FALSE(exists(temp / "file"));
}

TEST(RemoveTree, NeverFollowsASymlinkOut) {
  TempDir temp;
  write_file(temp / "outside/precious", "x");
  std::filesystem::create_directories(temp / "t/sub");
  std::filesystem::create_symlink(temp / "outside", temp / "t/link");
  std::filesystem::create_symlink(temp / "outside", temp / "t/sub/link");
  std::filesystem::create_symlink("../outside", temp / "t/relative");
  must(remove_tree(AT_FDCWD, temp / "t"));
  EXPECT_FALSE(exists(temp / "t"));
  EXPECT_EQ(slurp(temp / "outside/precious"), "x");
  // The tree itself may be a symlink: it goes, its target stays.
  std::filesystem::create_symlink(temp / "outside", temp / "top");
  must(remove_tree(AT_FDCWD, temp / "top"));
  EXPECT_FALSE(exists(temp / "top"));
  EXPECT_EQ(slurp(temp / "outside/precious"), "x");
}

// Runs `body` as an ordinary user (if we are root) and gives its exit code.
template <class Body>
int as_ordinary_user(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(99);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

TEST(RemoveTree, OpensModeZeroDirectoriesOfItsOwner) {
  TempDir temp;
  must_be_zero(::chmod(temp.path().c_str(), 0777), "chmod");
  const std::string top = temp / "t";
  const int code = as_ordinary_user([&] {
    if (::mkdir(top.c_str(), 0700) != 0 || ::mkdir((top + "/closed").c_str(), 0700) != 0) return 1;
    const int fd = ::open((top + "/closed/file").c_str(), O_CREAT | O_WRONLY, 0600);
    if (fd < 0 || ::chmod((top + "/closed").c_str(), 0000) != 0) return 2;
    return remove_tree(AT_FDCWD, top) ? 0 : 3;
  });
  EXPECT_EQ(code, 0);
  EXPECT_FALSE(exists(top));
}

TEST(ReadLinkAt, GivesLinksOfAnyLength) {
  TempDir temp;
  const std::string target(2000, 't');
  must_be_zero(::symlink(target.c_str(), (temp / "l").c_str()), "symlink");
  EXPECT_EQ(must(read_link_at(AT_FDCWD, temp / "l")), target);
  const Fd link = must(open_file(temp / "l", O_PATH | O_NOFOLLOW));
  EXPECT_EQ(must(read_link_at(link.get(), "")), target);
  EXPECT_FALSE(read_link_at(AT_FDCWD, temp / "none"));
}

}  // namespace
}  // namespace hm
