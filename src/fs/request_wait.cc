#include "fs/request_wait.h"

#include <sched.h>

#include <chrono>

namespace hm::fs {

namespace {

constexpr std::int64_t kSoonNs = 100'000;
constexpr std::int64_t kOthersRanNs = 10'000;  // longer than a sched_yield that finds nobody

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void RequestWait::begin() {
  began_ns_ = monotonic_ns();
  gave_up_ = false;
}

bool RequestWait::watch() {
  if (!close_ || gave_up_) return false;
  const std::int64_t before = monotonic_ns();
  gave_up_ = before - began_ns_ > kSoonNs;
  if (gave_up_) return false;
  ::sched_yield();
  gave_up_ = monotonic_ns() - before > kOthersRanNs;
  return true;  // whoever ran may have asked something
}

void RequestWait::end() { close_ = monotonic_ns() - began_ns_ < kSoonNs; }

}  // namespace hm::fs
