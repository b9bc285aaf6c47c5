#include "store/scratch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "test_support.h"

namespace hm::store {
namespace {

using namespace test;  // NOLINT: a test file

TEST(Scratch, FreshNamesDiffer) {
  TempDir temp;
  Scratch scratch = must(Scratch::open(temp.path()));
  EXPECT_NE(scratch.fresh("a"), scratch.fresh("a"));
  EXPECT_TRUE(scratch.fresh("a").starts_with(scratch.path() + "/"));
  EXPECT_EQ(lstat_of(scratch.path()).st_mode & 07777U, 0700U);
}

TEST(Scratch, GoesWithTheObject) {
  TempDir temp;
  std::string path;
  {
    Scratch scratch = must(Scratch::open(temp.path()));
    path = scratch.path();
    write_file(scratch.fresh("x") + "/deep/file", "x", 0000);
    Scratch moved(std::move(scratch));
    EXPECT_EQ(moved.path(), path);
    EXPECT_TRUE(exists(path));
  }
  EXPECT_FALSE(exists(path));
}

// A child that opens a scratch folder, writes into it, and dies without destructors.
std::string folder_of_a_dead_process(const std::string& home) {
  int ends[2];
  must_be_zero(::pipe(ends), "pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    auto scratch = Scratch::open(home);
    if (!scratch) ::_exit(1);
    if (::mkdir(scratch->fresh("d").c_str(), 0700) != 0) ::_exit(1);
    (void)write_all(ends[1], scratch->path());
    ::_exit(0);
  }
  ::close(ends[1]);
  const std::string path = must(read_all(ends[0]));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return path;
}

TEST(Scratch, DiscardedTreesGoByThemselves) {
  TempDir home;
  Scratch scratch = must(Scratch::open(home.path()));
  for (int i = 0; i < 3; ++i) {
    const std::string tree = scratch.fresh("tree");
    std::filesystem::create_directories(tree + "/deep/er");
    scratch.discard(tree);
  }
  const auto has_trees = [&] {
    const auto names = std::filesystem::directory_iterator(scratch.path());
    return std::any_of(begin(names), end(names), [](const auto& item) {
      return item.path().filename().string().starts_with("tree");
    });
  };
  for (int tries = 0; has_trees() && tries < 1000; ++tries) ::usleep(10'000);
  EXPECT_FALSE(has_trees());
}

TEST(Scratch, SweepsWhatADeadProcessLeft) {
  TempDir temp;
  const std::string dead = folder_of_a_dead_process(temp.path());
  ASSERT_TRUE(exists(dead));
  const Scratch scratch = must(Scratch::open(temp.path()));
  EXPECT_FALSE(exists(dead));
}

TEST(Scratch, SweepsAFolderWithoutALock) {
  TempDir temp;
  write_file(temp / "scratch/123-456/file", "x");
  const Scratch scratch = must(Scratch::open(temp.path()));
  EXPECT_FALSE(exists(temp / "scratch/123-456"));
}

TEST(Scratch, LeavesALiveOneAlone) {
  TempDir temp;
  const Scratch alive = must(Scratch::open(temp.path()));
  write_file(alive.path() + "/file", "x");
  const Scratch second = must(Scratch::open(temp.path()));
  EXPECT_NE(second.path(), alive.path());
  EXPECT_EQ(slurp(alive.path() + "/file"), "x");
}

}  // namespace
}  // namespace hm::store
