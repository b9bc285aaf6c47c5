#include "runner/step_log.h"

#include <gtest/gtest.h>

#include "test_support.h"

namespace hm::runner {
namespace {

using namespace test;  // NOLINT: a test file
using Frames = std::vector<std::pair<Stream, std::string>>;

class StepLogTest : public ::testing::Test {
 protected:
  Result<Frames> replay(const Digest& log) {
    Frames out;
    const auto status = replay_log(blobs_, log, [&](Stream stream, std::string_view bytes) {
      out.emplace_back(stream, std::string(bytes));
    });
    if (!status) return fail(status.error());
    return out;
  }
  TempDir temp_;
  store::Scratch scratch_{must(store::Scratch::open(temp_.path()))};
  store::BlobStore blobs_{must(store::BlobStore::open(temp_.path(), scratch_))};
};

TEST_F(StepLogTest, ReplayIsByteExactAndInOrder) {
  const Frames frames = {{Stream::kStdout, "out\n"},
                         {Stream::kStderr, std::string("\0\xff\n\n", 4)},
                         {Stream::kStdout, ""},
                         {Stream::kStdout, std::string(70'000, 'x')},
                         {Stream::kStderr, "no newline"}};
  StepLog log = must(StepLog::create(scratch_));
  for (const auto& [stream, bytes] : frames) must(log.append(stream, bytes));
  EXPECT_EQ(must(replay(must(log.finish(blobs_)))), frames);
}

TEST_F(StepLogTest, EmptyLog) {
  StepLog log = must(StepLog::create(scratch_));
  EXPECT_EQ(must(replay(must(log.finish(blobs_)))), Frames{});
}

TEST_F(StepLogTest, FormatIsFixed) {
  StepLog log = must(StepLog::create(scratch_));
  must(log.append(Stream::kStderr, "hi"));
  EXPECT_EQ(must(blobs_.read(must(log.finish(blobs_)))), std::string("hmlog001\2\2\0\0\0hi", 15));
}

TEST_F(StepLogTest, RefusesWhatIsNoLog) {
  const std::string good("hmlog001\1\2\0\0\0hi\2\1\0\0\0x", 21);
  ASSERT_TRUE(replay(must(blobs_.put(good))));
  const std::string bad[] = {"",
                             "hmlog00",
                             "hmlog002" + good.substr(8),
                             std::string("hmlog001\3\2\0\0\0hi", 15),
                             std::string("hmlog001\0\2\0\0\0hi", 15),
                             std::string("hmlog001\1\3\0\0\0hi", 15),
                             std::string("hmlog001\1\xff\xff\xff\xff", 13)};
  for (const std::string& text : bad) {
    const auto frames = replay(must(blobs_.put(text)));
    ASSERT_FALSE(frames) << text;
    EXPECT_EQ(frames.error().code, ErrorCode::kCorrupt);
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    const auto frames = replay(must(blobs_.put(good.substr(0, size))));
    EXPECT_EQ(frames.has_value(), size == 8 || size == 15)
        << size << ": cut between frames, or not";
  }
  EXPECT_EQ(replay(digest_of("missing")).error().code, ErrorCode::kNotFound);
}

TEST_F(StepLogTest, LongFrameComesInPieces) {
  const std::size_t size = (std::size_t{3} << 20) + 7;
  std::string text("hmlog001\1", 9);
  for (int shift = 0; shift < 32; shift += 8) text.push_back(static_cast<char>(size >> shift));
  text.append(size, 'x');
  text.append("\2\1\0\0\0y", 6);
  const Frames frames = must(replay(must(blobs_.put(text))));
  ASSERT_EQ(frames.size(), 5U);
  std::size_t total = 0;
  for (const auto& [stream, bytes] : frames) total += bytes.size();
  EXPECT_EQ(total, size + 1);
  EXPECT_EQ(frames.back(), (Frames::value_type{Stream::kStderr, "y"}));
}

TEST_F(StepLogTest, GivesNothingOutOfADamagedLog) {
  StepLog log = must(StepLog::create(scratch_));
  must(log.append(Stream::kStdout, "text"));
  const Digest digest = must(log.finish(blobs_));
  const std::string path = temp_ / ("blobs/" + digest.hex().substr(0, 2) + "/" + digest.hex());
  std::filesystem::remove(path);
  write_file(path, std::string("hmlog001\1\4\0\0\0tex!", 17));
  EXPECT_EQ(replay(digest).error().code, ErrorCode::kCorrupt);
}

// --- lines

Frames split(const Frames& frames, bool finish = true) {
  Frames out;
  LineSplitter splitter(
      [&](Stream stream, std::string_view line) { out.emplace_back(stream, std::string(line)); });
  for (const auto& [stream, bytes] : frames) splitter.add(stream, bytes);
  if (finish) splitter.finish();
  return out;
}
constexpr Stream kOut = Stream::kStdout;
constexpr Stream kErr = Stream::kStderr;

TEST(LineSplitter, CutsAtNewlines) {
  EXPECT_EQ(split({{kOut, "a\nb\n"}}, false), (Frames{{kOut, "a"}, {kOut, "b"}}));
  EXPECT_EQ(split({{kOut, "\n\na\r\n"}}), (Frames{{kOut, ""}, {kOut, ""}, {kOut, "a\r"}}));
  EXPECT_EQ(split({}), Frames{});
  EXPECT_EQ(split({{kOut, ""}}), Frames{});
}

TEST(LineSplitter, JoinsPartialLines) {
  EXPECT_EQ(split({{kOut, "a"}, {kOut, "b"}, {kOut, "\nc"}, {kOut, "\n"}}, false),
            (Frames{{kOut, "ab"}, {kOut, "c"}}));
}

TEST(LineSplitter, NewlineRightAfterACutIsNoLineOfItsOwn) {
  std::vector<std::size_t> sizes;
  LineSplitter splitter([&](Stream, std::string_view line) { sizes.push_back(line.size()); });
  const std::string longest((std::size_t{1} << 20) + 1, 'x');
  splitter.add(Stream::kStdout, longest);
  splitter.add(Stream::kStdout, "\n\nnext\n");
  splitter.finish();
  EXPECT_EQ(sizes, (std::vector<std::size_t>{longest.size(), 0, 4}));
}

TEST(LineSplitter, KeepsTheStreamsApart) {
  EXPECT_EQ(split({{kOut, "o1"}, {kErr, "e1"}, {kOut, "o2\n"}, {kErr, "e2\n"}}, false),
            (Frames{{kOut, "o1o2"}, {kErr, "e1e2"}}));
}

TEST(LineSplitter, LastLineNeedsNoNewline) {
  EXPECT_EQ(split({{kOut, "a\nb"}}, false), (Frames{{kOut, "a"}}));
  EXPECT_EQ(split({{kErr, "e"}, {kOut, "a\nb"}}), (Frames{{kOut, "a"}, {kOut, "b"}, {kErr, "e"}}));
}

TEST(LineSplitter, LineWithoutAnEndIsCut) {
  const std::string chunk(64 * 1024, 'x');
  Frames in;
  for (int i = 0; i < 64; ++i) in.emplace_back(kOut, chunk);
  const Frames lines = split(in);
  EXPECT_GT(lines.size(), 1U) << "4 MiB must not pile up";
  std::size_t total = 0;
  for (const auto& [stream, line] : lines) {
    total += line.size();
    EXPECT_LE(line.size(), (std::size_t{1} << 20) + chunk.size());
  }
  EXPECT_EQ(total, 64 * chunk.size()) << "nothing is lost";
}

TEST(LineSplitter, AnyCutsGiveTheSameLines) {
  Random random(2);
  const std::string text = "one\ntwo\n\nthree \xff\nlast";
  const Frames whole = split({{kOut, text}});
  for (int i = 0; i < 100; ++i) {
    Frames pieces;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + random.below(6);
      pieces.emplace_back(kOut, text.substr(at, size));
      at += size;
    }
    ASSERT_EQ(split(pieces), whole);
  }
}

}  // namespace
}  // namespace hm::runner
