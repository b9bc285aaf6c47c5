// Turns among threads: one reads at a time, and a turn that was passed on is taken; and how long it
// watches for a request.
#include "fs/turns.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fs/request_wait.h"

namespace hm::fs {
namespace {

TEST(Turns, OneReadsAtATime) {
  Turns turns;
  std::atomic<int> reading{0};
  std::atomic<bool> overlapped{false};
  int unguarded = 0;  // only ever touched by whose turn it is
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 2000; ++n) {
        turns.take();
        if (++reading != 1) overlapped = true;
        unguarded += 1;
        --reading;
        turns.begin_answer(1, false);
        if (n % 3 == 0) turns.pass();
        turns.end_answer();
      }
      turns.pass();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(unguarded, 4 * 2000);
}

TEST(Turns, PassingAnotherThreadsTurnDoesNothing) {
  Turns turns;
  turns.take();
  std::atomic<bool> taken{false};
  std::thread other([&] {
    turns.pass();
    turns.take();
    taken = true;
    turns.pass();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(taken);
  turns.pass();
  other.join();
  EXPECT_TRUE(taken);
}

TEST(Turns, TellWhenNobodyWaitsForATurnThatIsPassedOn) {
  std::atomic<int> told{0};
  std::atomic<bool> started{false}, checked{false};
  Turns turns([&] { ++told; });
  turns.take();
  std::thread other([&] {
    started = true;
    turns.take();
    while (!checked) std::this_thread::yield();
    turns.pass();
  });
  while (!started) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // it waits by now
  turns.pass();
  EXPECT_EQ(told, 0);
  checked = true;
  other.join();
  EXPECT_EQ(told, 1);  // the other's
  turns.pass();        // not its turn
  EXPECT_EQ(told, 1);
}

constexpr std::uint32_t kTask = 7, kOther = 8;

void answer_slowly(Turns& turns) {
  turns.take();
  turns.begin_answer(kTask, false);
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  turns.end_answer();
}

// Returns when another thread had the turn.
void wait_for_turn_of_another(Turns& turns) {
  std::thread other([&] {
    turns.take();
    turns.pass();
  });
  other.join();
}

// While answers are slow and somebody waits for them, another thread reads during each.
TEST(Turns, AreNotKeptDuringAnswersAfterASlowOneThatOthersWaitedFor) {
  Turns turns;
  answer_slowly(turns);
  EXPECT_TRUE(turns.take());
  turns.begin_answer(kOther, true);
  wait_for_turn_of_another(turns);
  turns.end_answer();
  EXPECT_FALSE(turns.take());
}

TEST(Turns, AreKeptDuringSlowAnswersToOneClient) {
  Turns turns;
  answer_slowly(turns);
  EXPECT_TRUE(turns.take());
  turns.begin_answer(kTask, true);  // it asked again before this thread was back
  turns.end_answer();
  EXPECT_TRUE(turns.take());
}

TEST(RequestWait, WatchesOnlyWhereRequestsComeCloseUponEachOther) {
  RequestWait wait;
  wait.begin();
  EXPECT_FALSE(wait.watch()) << "nothing came yet";
  bool watched = false;
  for (int i = 0; i < 1000 && !watched; ++i) {  // a busy machine may take the processor away
    wait.begin();
    wait.end();
    wait.begin();
    watched = wait.watch();
  }
  EXPECT_TRUE(watched);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_FALSE(wait.watch()) << "not for ever";
  wait.end();
  wait.begin();
  EXPECT_FALSE(wait.watch()) << "the last one took long to come";
}

// A pipe stands in for the device: what is written to it is what the kernel would be told.
std::string told(const Fd& pipe) {
  std::string bytes(64, '\0');
  const ssize_t got = ::read(pipe.get(), bytes.data(), bytes.size());
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

constexpr std::string_view kNoLatency("\0\0\0\0", 4);

class Awake : public ::testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    device_ = Fd(ends[0]);
    wait_.emplace(ProcessorsAwake(Fd(ends[1])));
  }
  void ask(int times, std::chrono::microseconds apart) {
    for (int i = 0; i < times; ++i) {
      wait_->begin();
      if (apart.count() > 0) std::this_thread::sleep_for(apart);
      wait_->end();
    }
  }

  Fd device_;  // what it was told
  std::optional<RequestWait> wait_;
};

TEST_F(Awake, OnlyInABurstOfRequests) {
  ask(20, {});
  EXPECT_EQ(told(device_), "");
  EXPECT_EQ(wait_->patience_ms(), -1);
  ask(1000, {});
  EXPECT_EQ(told(device_), kNoLatency);
  EXPECT_GT(wait_->patience_ms(), 0);
}

TEST_F(Awake, NoLongerWhenNoRequestComes) {
  ask(1000, {});
  told(device_);
  wait_->tired();
  EXPECT_EQ(told(device_).size(), 4);
  EXPECT_EQ(wait_->patience_ms(), -1);
  ask(20, {});
  EXPECT_EQ(told(device_), "") << "not at once again";
}

TEST_F(Awake, NoLongerWhenRequestsComeApart) {
  ask(1000, {});
  told(device_);
  ask(300, std::chrono::microseconds(200));
  EXPECT_EQ(told(device_).size(), 4);
  EXPECT_EQ(wait_->patience_ms(), -1);
}

TEST(ProcessorsAwake, IsNothingWithoutADevice) {
  ProcessorsAwake awake{Fd()};
  awake.hold();
  EXPECT_FALSE(awake.held());
}

}  // namespace
}  // namespace hm::fs
