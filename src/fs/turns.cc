#include "fs/turns.h"

#include <sys/resource.h>

#include <chrono>

namespace hm::fs {

namespace {

constexpr std::int64_t kQuickNs = 60'000;       // no disk was waited for
constexpr std::int64_t kLongNs = 5'000'000;     // longer than most preemptions
constexpr std::int64_t kPhaseNs = 100'000'000;  // after each slow answer, and each queue

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// What the calling thread has had to wait for a disk.
long disk_reads() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_inblock + usage.ru_majflt;
}

// The calling thread's answer at hand, and its disk reads when it was last asked about them.
thread_local std::int64_t answer_began_ns = 0;
thread_local long known_disk_reads = 0;

}  // namespace

bool Turns::take() {
  if (holder_ == std::this_thread::get_id()) return true;
  std::unique_lock lock(mutex_);
  waiting_ += 1;
  passed_.wait(lock, [this] { return !taken_; });
  waiting_ -= 1;
  taken_ = true;
  holder_ = std::this_thread::get_id();
  return false;
}

void Turns::pass() {
  if (holder_ != std::this_thread::get_id()) return;
  bool awaited = false;
  {
    const std::lock_guard lock(mutex_);
    holder_ = std::thread::id();
    taken_ = false;
    awaited = waiting_ > 0;
  }
  if (awaited) {
    passed_.notify_one();
  } else {
    nobody_waits_();
  }
}

void Turns::begin_answer(std::uint32_t asker, bool was_waiting) {
  answer_began_ns = monotonic_ns();
  if (last_asker_.exchange(asker) != asker && was_waiting) {
    crowded_until_ns_ = answer_began_ns + kPhaseNs;
  }
  if (answer_began_ns < slow_until_ns_ && answer_began_ns < crowded_until_ns_) pass();
}

bool Turns::waits_for_disk() const { return monotonic_ns() < slow_until_ns_; }

void Turns::end_answer() {
  const std::int64_t now = monotonic_ns();
  const std::int64_t took = now - answer_began_ns;
  if (took < kQuickNs) return;
  const long reads = disk_reads();
  // A thread that lost its processor for a while is as slow, but another would not be faster.
  if (reads > known_disk_reads || took > kLongNs) slow_until_ns_ = now + kPhaseNs;
  known_disk_reads = reads;
}

}  // namespace hm::fs
