#include "store/blob_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "test_support.h"

namespace hm::store {
namespace {

using namespace test;  // NOLINT: a test file

class BlobStoreTest : public ::testing::Test {
 protected:
  std::string blob_path(const Digest& digest) const {
    return temp_ / ("blobs/" + digest.hex().substr(0, 2) + "/" + digest.hex());
  }
  std::size_t scratch_files() const {
    std::size_t count = 0;
    for (const auto& item : std::filesystem::directory_iterator(scratch_.path())) {
      const auto name = item.path().filename();  // besides the scratch folder's own
      if (name != "lock" && name != "claims") ++count;
    }
    return count;
  }
  // Overwrites a blob behind the store's back.
  void damage(const Digest& digest, std::string_view bytes) const {
    must_be_zero(::chmod(blob_path(digest).c_str(), 0644), "chmod");
    write_file(blob_path(digest), bytes);
  }

  TempDir temp_;
  Scratch scratch_{must(Scratch::open(temp_.path()))};
  BlobStore blobs_{must(BlobStore::open(temp_.path(), scratch_))};
};

TEST_F(BlobStoreTest, PutNamesBytesByTheirDigest) {
  const Digest digest = must(blobs_.put("hello"));
  EXPECT_EQ(digest, Digest::of("hello"));
  EXPECT_EQ(slurp(blob_path(digest)), "hello");
  EXPECT_EQ(lstat_of(blob_path(digest)).st_mode & 07777U, 0444U);
  EXPECT_EQ(scratch_files(), 0U);
}

TEST_F(BlobStoreTest, PutOfSameBytesIsIdempotent) {
  const Digest digest = must(blobs_.put("hello"));
  const ino_t before = lstat_of(blob_path(digest)).st_ino;
  EXPECT_EQ(must(blobs_.put("hello")), digest);
  EXPECT_EQ(lstat_of(blob_path(digest)).st_ino, before);
  EXPECT_EQ(scratch_files(), 0U);
}

TEST_F(BlobStoreTest, PutCopyCopiesFromTheStartAndLeavesTheSource) {
  const std::string text(600'000, 'q');
  write_file(temp_ / "source", text);
  const Fd fd = must(open_file(temp_ / "source", O_RDONLY));
  ::lseek(fd.get(), 1000, SEEK_SET);
  const BlobInfo info = must(blobs_.put_copy(fd.get()));
  EXPECT_EQ(info.digest, Digest::of(text));
  EXPECT_EQ(info.size, text.size());
  EXPECT_EQ(slurp(temp_ / "source"), text);
  EXPECT_EQ(must(blobs_.put_copy(fd.get())).digest, info.digest) << "idempotent";
  EXPECT_EQ(scratch_files(), 0U);
}

TEST_F(BlobStoreTest, AdoptRenames) {
  write_file(temp_ / "written", "bytes", 04755);
  const ino_t inode = lstat_of(temp_ / "written").st_ino;
  const BlobInfo info = must(blobs_.adopt(temp_ / "written"));
  EXPECT_FALSE(exists(temp_ / "written")) << "no second copy";
  EXPECT_EQ(lstat_of(blob_path(info.digest)).st_ino, inode);
  EXPECT_EQ(lstat_of(blob_path(info.digest)).st_mode & 07777U, 0444U);
  EXPECT_EQ(info.size, 5U);
}

TEST_F(BlobStoreTest, AdoptOfKnownBytesRemovesTheFile) {
  const Digest digest = must(blobs_.put("bytes"));
  const ino_t inode = lstat_of(blob_path(digest)).st_ino;
  write_file(temp_ / "written", "bytes");
  EXPECT_EQ(must(blobs_.adopt(temp_ / "written")).digest, digest);
  EXPECT_FALSE(exists(temp_ / "written"));
  EXPECT_EQ(lstat_of(blob_path(digest)).st_ino, inode);
}

TEST_F(BlobStoreTest, AdoptDoesNotFollowASymlink) {
  write_file(temp_ / "target", "bytes");
  std::filesystem::create_symlink(temp_ / "target", temp_ / "link");
  EXPECT_FALSE(blobs_.adopt(temp_ / "link"));
  EXPECT_EQ(slurp(temp_ / "target"), "bytes");
}

TEST_F(BlobStoreTest, BlobOfTheWrongSizeIsReplaced) {
  const Digest digest = must(blobs_.put("hello"));
  damage(digest, "hel");
  EXPECT_FALSE(blobs_.has(digest, 5));
  must(blobs_.put("hello"));
  EXPECT_EQ(slurp(blob_path(digest)), "hello");
  EXPECT_EQ(must(blobs_.read(digest)), "hello");
}

TEST_F(BlobStoreTest, MissingIsNotFound) {
  const Digest digest = Digest::of("never put");
  const auto read = blobs_.read(digest);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kNotFound);
  const auto open = blobs_.open_blob(digest, 9);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(blobs_.has(digest, 9));
}

TEST_F(BlobStoreTest, ReadOfWrongBytesIsCorrupt) {
  const Digest digest = must(blobs_.put("hello"));
  damage(digest, "hellp");
  const auto read = blobs_.read(digest);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kCorrupt);
}

TEST_F(BlobStoreTest, ReadWholeGivesTheBytesOrSaysWhatIsWrong) {
  const Digest digest = must(blobs_.put("right bytes"));
  std::string bytes = "something longer from before";
  must(blobs_.read_whole(digest, 11, bytes));
  EXPECT_EQ(bytes, "right bytes");
  for (const std::uint64_t size : {10U, 12U}) {
    const auto other = blobs_.read_whole(digest, size, bytes);
    ASSERT_FALSE(other) << size;
    EXPECT_EQ(other.error().code, ErrorCode::kCorrupt);
  }
  EXPECT_TRUE(blobs_.size(digest)) << "its bytes are right";
  damage(digest, "wrong bytes");
  const auto wrong = blobs_.read_whole(digest, 11, bytes);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(blobs_.size(digest)) << "the next one to put it must write it";
  const auto gone = blobs_.read_whole(digest, 11, bytes);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
}

TEST_F(BlobStoreTest, OpenOfAnotherSizeIsCorrupt) {
  const Digest digest = must(blobs_.put("hello"));
  EXPECT_EQ(must(read_all(must(blobs_.open_blob(digest, 5)).get())), "hello");
  const auto open = blobs_.open_blob(digest, 6);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, ErrorCode::kCorrupt);
}

TEST_F(BlobStoreTest, OpenDescriptorOutlivesTheName) {
  const Digest digest = must(blobs_.put("hello"));
  const Fd fd = must(blobs_.open_blob(digest, 5));
  std::filesystem::remove(blob_path(digest));
  EXPECT_EQ(must(read_all(fd.get())), "hello");
}

TEST_F(BlobStoreTest, EmptyBlobIsABlob) {
  const Digest digest = must(blobs_.put(""));
  EXPECT_TRUE(blobs_.has(digest, 0));
  EXPECT_EQ(must(blobs_.read(digest)), "");
}

TEST_F(BlobStoreTest, ManyThreadsPutTheSameBytes) {
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        const std::string text = "blob " + std::to_string(i);
        const auto digest = blobs_.put(text);
        if (!digest || blobs_.read(*digest).value_or("") != text) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(scratch_files(), 0U);
}

TEST_F(BlobStoreTest, HashFdIgnoresTheOffset) {
  write_file(temp_ / "f", "hello");
  const Fd fd = must(open_file(temp_ / "f", O_RDONLY));
  ::lseek(fd.get(), 3, SEEK_SET);
  const BlobInfo info = must(hash_fd(fd.get()));
  EXPECT_EQ(info.digest, Digest::of("hello"));
  EXPECT_EQ(info.size, 5U);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_CUR), 3);
}

}  // namespace
}  // namespace hm::store
