// Turns among threads: one reads at a time, and a turn that was passed on is taken.
#include "fs/turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

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
        turns.begin_answer();
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

// While answers are slow, another thread reads during each.
TEST(Turns, AreNotKeptDuringAnswersAfterASlowOne) {
  Turns turns;
  turns.take();
  turns.begin_answer();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  turns.end_answer();
  turns.take();
  turns.begin_answer();
  std::thread other([&] {
    turns.take();
    turns.pass();
  });
  other.join();
  turns.end_answer();
  turns.take();
}

}  // namespace
}  // namespace hm::fs
