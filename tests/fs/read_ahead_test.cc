// ReadAhead on a real directory: which files the kernel holds afterwards.
#include "fs/read_ahead.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

constexpr std::size_t kFiles = 100;

std::string name_of(std::size_t number) { return "f" + std::to_string(number); }

bool is_held(const std::string& path) {
  const Fd fd = must(open_file(path, O_RDONLY));
  void* bytes = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 0);
  EXPECT_NE(bytes, MAP_FAILED);
  unsigned char held = 0;
  EXPECT_EQ(::mincore(bytes, 4096, &held), 0);
  ::munmap(bytes, 4096);
  return (held & 1) != 0;
}

void forget(const std::string& path) {
  const Fd fd = must(open_file(path, O_RDWR));
  ASSERT_EQ(::fsync(fd.get()), 0);
  ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
}

class ReadAheadTest : public ::testing::Test {
 protected:
  // Files that the kernel does not hold. Inode numbers need not grow from one to the next.
  void SetUp() override {
    std::vector<std::pair<ino_t, std::string>> made;
    for (std::size_t i = 0; i < kFiles; ++i) {
      const std::string path = trees_.workspace("d/" + name_of(i));
      write_file(path, "content " + std::to_string(i));
      forget(path);
      struct stat st {};
      ASSERT_EQ(::stat(path.c_str(), &st), 0);
      made.emplace_back(st.st_ino, name_of(i));
    }
    std::sort(made.begin(), made.end());
    for (const auto& [inode, name] : made) names_.push_back(name);
    if (is_held(file(0))) GTEST_SKIP() << "the filesystem of temporary files is in memory";
    view_.emplace(trees_.view());
    dir_ = must(view_->resolve("workspace/d"));
    ASSERT_TRUE(dir_);
  }
  ReadAhead::Entries files() {
    return
        [this](const View::Node& dir) { return view_->files_on_disk(dir, trees_.store().blobs()); };
  }
  std::string file(std::size_t number) const { return trees_.workspace("d/" + names_[number]); }

  std::size_t held() const {
    std::size_t count = 0;
    for (std::size_t i = 0; i < kFiles; ++i) count += is_held(file(i)) ? 1 : 0;
    return count;
  }
  // Until so many are held, or for a while.
  std::size_t held_at_last(std::size_t wanted) const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (held() < wanted && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return held();
  }

  Trees trees_;
  std::vector<std::string> names_;  // in the order of inodes
  std::optional<View> view_;
  std::optional<View::Node> dir_;
};

TEST_F(ReadAheadTest, AsksForAsManyAgainAsWereLookedUp) {
  ReadAhead ahead(files(), 64);
  for (std::size_t i = 0; i < 10; ++i) ahead.looked_at(*dir_, names_[i]);
  EXPECT_GE(held_at_last(10), 10U);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(held(), 20U);
}

TEST_F(ReadAheadTest, GetsAheadOfWhoReadsADirectory) {
  ReadAhead ahead(files(), 64);
  for (std::size_t i = 0; i < 20; ++i) ahead.looked_at(*dir_, names_[i]);
  // Those before the directory was listed are the reader's own.
  EXPECT_GE(held_at_last(20), 20U);
  EXPECT_TRUE(ahead.looked_at(*dir_, names_[25]));
  EXPECT_FALSE(ahead.looked_at(*dir_, names_[90]));
}

TEST_F(ReadAheadTest, FewLookupsSayNothing) {
  {
    ReadAhead ahead(files(), 64);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_FALSE(ahead.looked_at(*dir_, names_[i]));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(held(), 0U);
}

TEST_F(ReadAheadTest, PinsNothing) {
  {
    ReadAhead ahead(files(), 64);
    for (std::size_t i = 0; i < 40; ++i) ahead.looked_at(*dir_, names_[i]);
    EXPECT_GE(held_at_last(30), 30U);
  }
  write_file(file(60), "another content");
  std::filesystem::remove(file(61));
  write_file(trees_.workspace("d/new"), "new");
  const auto names = must(view_->list(*dir_));
  EXPECT_EQ(names.size(), kFiles);  // one less, one more: as it is now
  const auto changed = must(view_->child(*dir_, names_[60]));
  ASSERT_TRUE(changed);
  EXPECT_EQ(must(view_->digest(*changed)), Digest::of("another content"));
  EXPECT_FALSE(must(view_->child(*dir_, names_[61])));
}

// What the kernel holds of inodes cannot be asked, so a source stands in that tells what it is
// asked for.
TEST(ReadAheadOrder, BeginsBehindTheFirstAndIsNeverFarAhead) {
  std::mutex mutex;
  std::vector<std::size_t> fetched;
  const auto so_far = [&] {
    const std::lock_guard lock(mutex);
    return fetched;
  };
  {
    const auto entries = [&](const View::Node&) {
      OnDisk out;
      for (std::size_t i = 0; i < kFiles; ++i) out.names.push_back(name_of(i));
      out.fetch = [&](std::size_t place) {
        const std::lock_guard lock(mutex);
        fetched.push_back(place);
      };
      return out;
    };
    ReadAhead ahead(entries, 8);
    for (std::size_t i = 50; i < 70; ++i) ahead.looked_at(View::Node{}, name_of(i));
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (const auto places = so_far(); !places.empty() && places.back() >= 77) break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_FALSE(fetched.empty());
  EXPECT_EQ(fetched.back(), 77U);  // 50 + 20 that were looked at + 8 - 1
  for (std::size_t i = 1; i < fetched.size(); ++i) EXPECT_EQ(fetched[i], fetched[i - 1] + 1);
}

TEST_F(ReadAheadTest, FetchesDirectories) {
  for (const char* name : {"a", "b", "c"}) write_file(trees_.workspace("d/sub/") + name + "/f", "");
  const auto sub = must(view_->resolve("workspace/d/sub"));
  ASSERT_TRUE(sub);
  OnDisk found = view_->directories_on_disk(*sub);
  std::sort(found.names.begin(), found.names.end());
  EXPECT_EQ(found.names, (std::vector<std::string>{"a", "b", "c"}));
  std::filesystem::remove_all(trees_.workspace("d/sub/b"));
  for (std::size_t i = 0; i < 3; ++i) found.fetch(i);  // and nothing happens
  EXPECT_FALSE(must(view_->child(*sub, "b"))) << "it was pinned";
  EXPECT_TRUE(view_->directories_on_disk(*must(view_->resolve("workspace/d/sub/a"))).names.empty());
}

TEST_F(ReadAheadTest, SurvivesADirectoryThatIsGone) {
  std::filesystem::remove_all(trees_.workspace("d"));
  ReadAhead ahead(files(), 64);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_FALSE(ahead.looked_at(*dir_, names_[i]));
}

}  // namespace
}  // namespace hm::fs
