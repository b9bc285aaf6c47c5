// Events as they reach their reader.
#include "runner/events.h"

#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "test_support.h"

namespace hm::runner {
namespace {

using namespace test;  // NOLINT: a test file
using nlohmann::json;

StepInfo step(const std::string& key = "build") {
  StepInfo out;
  out.id = "11111111-2222-4333-8444-555555555555";
  out.key = key;
  out.label = "Build it";
  out.image = "host";
  out.chain = 2;
  return out;
}

class EventsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::signal(SIGPIPE, SIG_IGN);  // as hm does
    out_ = must(open_file(temp_ / "out", O_WRONLY | O_CREAT | O_APPEND, 0600));
  }
  std::string text() { return slurp(temp_ / "out"); }
  std::vector<json> objects() {
    std::vector<json> out;
    const std::string all = text();
    for (std::size_t at = 0; at < all.size();) {
      const std::size_t end = all.find('\n', at);
      EXPECT_NE(end, std::string::npos) << "the last line ends, too";
      if (end == std::string::npos) break;
      out.push_back(json::parse(all.substr(at, end - at)));  // throws on an invalid line
      at = end + 1;
    }
    return out;
  }
  TempDir temp_;
  Fd out_;
};

TEST_F(EventsTest, JsonKindsAndFields) {
  {
    const auto events = make_json_events(out_.get());
    StepInfo child = step("child");
    child.parent_key = "build";
    events->build_start({"run", 3, 2, "namespace"});
    events->step_queued(step());
    events->step_queued(child);
    events->step_cache_miss(step(), "/workspace/a content changed", "/workspace/a",
                            "content changed");
    events->step_cache_miss(step(), "first run", {}, {});
    events->step_start(step());
    events->step_log(step(), Stream::kStderr, "a \"line\"");
    events->step_cache_hit(child, "tag", 7);
    events->step_skipped(child, "why", "build");
    events->step_end(step(), 3, 1234, "snap");
    events->step_end(step(), 0, 1, "");
    events->chain_failed(step(), 3, "failed");
    events->build_end(1, 99);
  }
  const auto all = objects();
  std::vector<std::string> kinds;
  for (const json& event : all) kinds.push_back(event.at("kind"));
  EXPECT_EQ(kinds, (std::vector<std::string>{"build_start", "step_queued", "step_queued",
                                             "step_cache_miss", "step_cache_miss", "step_start",
                                             "step_log", "step_cache_hit", "step_skipped",
                                             "step_end", "step_end", "chain_failed", "build_end"}))
      << "all of them, in order";
  EXPECT_EQ(all[0].at("plan").at("step_count"), 3);
  EXPECT_EQ(all[0].at("plan").at("chain_count"), 2);
  EXPECT_TRUE(all[1].at("parent_key").is_null());
  EXPECT_EQ(all[1].at("chain_idx"), 2);
  EXPECT_EQ(all[1].at("display_name"), "Build it");
  EXPECT_EQ(all[2].at("parent_key"), "build");
  EXPECT_EQ(all[3].at("path"), "/workspace/a");
  EXPECT_EQ(all[3].at("change"), "content changed");
  EXPECT_TRUE(all[4].at("path").is_null());
  EXPECT_EQ(all[6].at("stream"), "stderr");
  EXPECT_EQ(all[6].at("line"), "a \"line\"");
  EXPECT_EQ(all[9].at("exit_code"), 3);
  EXPECT_EQ(all[9].at("snapshot"), "snap");
  EXPECT_TRUE(all[10].at("snapshot").is_null());
  EXPECT_EQ(all[12].at("exit_code"), 1);
}

TEST_F(EventsTest, BytesThatAreNotUtf8StillMakeValidLines) {
  {
    const auto events = make_json_events(out_.get());
    events->step_log(step(), Stream::kStdout, "ok \xff\xfe end");
    events->step_log(step(), Stream::kStdout, "\xc3");
    events->step_log(step(), Stream::kStdout, std::string_view("nul \0 \x1b[0m\n", 11));
    events->step_cache_miss(step(), "r", "/a\xff", "c\n");
  }
  const auto all = objects();
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[0].at("line"), "ok \xef\xbf\xbd\xef\xbf\xbd end");
  EXPECT_EQ(all[1].at("line"), "\xef\xbf\xbd");
  EXPECT_EQ(all[2].at("line"), std::string("nul \0 \x1b[0m\n", 11));
  EXPECT_EQ(all[3].at("path"), "/a\\xff") << "a path stays distinguishable";
}

TEST_F(EventsTest, NoEventIsLostFromManyThreads) {
  {
    const auto events = make_json_events(out_.get());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i)
          events->step_log(step(std::to_string(t)), Stream::kStdout,
                           std::to_string(t) + "." + std::to_string(i));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::set<std::string> lines;
  for (const json& event : objects()) lines.insert(event.at("line").get<std::string>());
  EXPECT_EQ(lines.size(), 2000U);
}

TEST_F(EventsTest, ReaderThatLeavesEndsOnlyTheWriting) {
  int ends[2];
  must_be_zero(::pipe(ends), "pipe");
  Fd write_end(ends[1]);
  ::close(ends[0]);
  const auto events = make_json_events(write_end.get());
  for (int i = 0; i < 1000; ++i) events->step_log(step(), Stream::kStdout, std::string(1000, 'x'));
  events->build_end(0, 1);
}

TEST_F(EventsTest, SlowReaderDoesNotHoldUpTheRun) {
  int ends[2];
  must_be_zero(::pipe(ends), "pipe");
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  auto events = make_json_events(write_end.get());
  // Far more than a pipe holds, with nobody reading: returns all the same.
  for (int i = 0; i < 300; ++i) events->step_log(step(), Stream::kStdout, std::string(1000, 'x'));
  std::string all;
  std::thread reader([&] { all = must(read_all(read_end.get())); });
  events.reset();
  write_end.reset();
  reader.join();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 300);
}

TEST_F(EventsTest, HumanShowsTheLogOfFailedStepsOnly) {
  const auto events = make_human_events(out_.get(), LogLines::kFailedOnly);
  StepInfo good = step("good");
  StepInfo bad = step("bad");
  bad.id = "another";
  events->step_log(good, Stream::kStdout, "fine output");
  events->step_log(bad, Stream::kStderr, "the reason");
  events->step_end(good, 0, 1500, "");
  events->step_end(bad, 2, 20, "");
  events->build_end(1, 2000);
  const std::string out = text();
  EXPECT_EQ(out.find("fine output"), std::string::npos) << out;
  EXPECT_NE(out.find("[bad] the reason"), std::string::npos) << out;
  EXPECT_NE(out.find("ok in 1.5s"), std::string::npos) << out;
  EXPECT_NE(out.find("exit 2 after"), std::string::npos) << out;
  EXPECT_NE(out.find("1 ran"), std::string::npos) << out;
  EXPECT_NE(out.find("1 failed"), std::string::npos) << out;
}

TEST_F(EventsTest, HumanSaysWhyEachStepRanAndWhatWasCached) {
  const auto events = make_human_events(out_.get(), LogLines::kAll);
  StepInfo cached = step("cached");
  cached.id = "another";
  events->step_cache_miss(step("ran"), "first run", {}, {});
  events->step_log(step("ran"), Stream::kStdout, "output");
  events->step_end(step("ran"), 0, 10, "");
  events->step_cache_hit(cached, "tag", 42);
  events->step_end(cached, 0, 0, "");
  events->build_end(0, 10);
  const std::string out = text();
  EXPECT_NE(out.find("runs: first run"), std::string::npos) << out;
  EXPECT_NE(out.find("[ran] output"), std::string::npos) << out;
  EXPECT_NE(out.find("cached (42 inputs unchanged)"), std::string::npos) << out;
  EXPECT_NE(out.find("passed in 0.0s: 1 ran, 1 cached"), std::string::npos) << out;
}

TEST_F(EventsTest, QuietSaysNotesOnly) {
  const auto events = make_quiet_events(out_.get());
  events->build_start({"run", 1, 1, "namespace"});
  events->step_log(step(), Stream::kStdout, "line");
  events->step_end(step(), 1, 1, "");
  events->build_end(1, 1);
  EXPECT_EQ(text(), "");
  events->note("a warning");
  EXPECT_EQ(text(), "hm: a warning\n");
}

TEST(Uuid, IsOfVersionFourAndNew) {
  const std::regex form("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string id = new_uuid();
    EXPECT_TRUE(std::regex_match(id, form)) << id;
    EXPECT_TRUE(seen.insert(id).second);
  }
}

TEST(Timestamp, IsRfc3339) {
  EXPECT_TRUE(
      std::regex_match(timestamp_now(), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")));
}

}  // namespace
}  // namespace hm::runner
