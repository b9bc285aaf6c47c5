// Digests of files by their stamps: found, forgotten, and what bytes are refused.
#include "store/file_index.h"

#include <gtest/gtest.h>

#include "test_support.h"

namespace hm::store {
namespace {

using namespace test;  // NOLINT: a test file

FileDigest file(std::uint64_t number) {
  return {{1, number, number * 10, 5, 6}, Digest::of(std::to_string(number))};
}

TEST(FileIndex, FindsWhatWasAdded) {
  FileIndex index;
  EXPECT_FALSE(index.find(file(0).stamp));
  for (std::uint64_t i = 0; i < 1000; ++i) index.add(file(i));
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(index.find(file(i).stamp), file(i).digest);
  EXPECT_FALSE(index.find(file(1000).stamp));
}

TEST(FileIndex, EachPartOfAStampCounts) {
  FileIndex index;
  index.add(file(1));
  const auto changed = [](auto change) {
    FileStamp stamp = file(1).stamp;
    change(stamp);
    return stamp;
  };
  EXPECT_FALSE(index.find(changed([](FileStamp& stamp) { stamp.device += 1; })));
  EXPECT_FALSE(index.find(changed([](FileStamp& stamp) { stamp.inode += 1; })));
  EXPECT_FALSE(index.find(changed([](FileStamp& stamp) { stamp.size += 1; })));
  EXPECT_FALSE(index.find(changed([](FileStamp& stamp) { stamp.mtime_ns += 1; })));
  EXPECT_FALSE(index.find(changed([](FileStamp& stamp) { stamp.ctime_ns += 1; })));
}

TEST(FileIndex, TheLaterDigestCounts) {
  FileIndex index;
  index.add(file(1));
  index.add({file(1).stamp, Digest::of("other")});
  EXPECT_EQ(index.find(file(1).stamp), Digest::of("other"));
  index.clear();
  EXPECT_FALSE(index.find(file(1).stamp));
}

TEST(FileIndex, EncodedAndDecodedIsTheSame) {
  const FileDigest files[] = {file(1), file(2), file(3)};
  const std::string bytes = FileIndex::encode(files);
  const auto again = must(FileIndex::decode(bytes));
  EXPECT_EQ(FileIndex::encode(again), bytes);
  EXPECT_TRUE(must(FileIndex::decode(FileIndex::encode({}))).empty());
  for (const std::string& bad : {std::string(), bytes.substr(1), bytes + "x",
                                 bytes.substr(0, bytes.size() - 1), "x" + bytes.substr(1)}) {
    EXPECT_FALSE(FileIndex::decode(bad)) << bad.size();
  }
}

}  // namespace
}  // namespace hm::store
