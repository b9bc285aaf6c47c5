#include "fs/request_wait.h"

#include <sched.h>

#include <algorithm>

namespace hm::fs {

namespace {

using namespace std::chrono_literals;

constexpr auto kSoon = 100us;
constexpr auto kOthersRan = 10us;  // longer than a sched_yield that finds nobody
constexpr int kBurst = 64;         // requests, more of them close than not
constexpr int kMostCloseness = 2 * kBurst;
constexpr int kPatienceMs = 2;

}  // namespace

void RequestWait::begin() {
  began_ = Clock::now();
  gave_up_ = false;
}

bool RequestWait::watch() {
  if (!close_ || gave_up_) return false;
  const auto before = Clock::now();
  gave_up_ = before - began_ > kSoon;
  if (gave_up_) return false;
  ::sched_yield();
  gave_up_ = Clock::now() - before > kOthersRan;
  return true;  // whoever ran may have asked something
}

int RequestWait::patience_ms() const { return awake_.held() ? kPatienceMs : -1; }

void RequestWait::tired() {
  closeness_ = 0;
  awake_.release();
}

void RequestWait::end() {
  close_ = Clock::now() - began_ < kSoon;
  closeness_ = std::clamp(closeness_ + (close_ ? 1 : -1), 0, kMostCloseness);
  if (closeness_ >= kBurst) awake_.hold();
  if (closeness_ == 0) awake_.release();
}

}  // namespace hm::fs
