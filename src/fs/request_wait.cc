#include "fs/request_wait.h"

#include <sched.h>

namespace hm::fs {

namespace {

using namespace std::chrono_literals;

constexpr auto kSoon = 100us;
constexpr auto kOthersRan = 10us;  // longer than a sched_yield that finds nobody

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

void RequestWait::end() { close_ = Clock::now() - began_ < kSoon; }

}  // namespace hm::fs
