#include "fs/processors_awake.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace hm::fs {

namespace {

constexpr std::int32_t kAnyLatency = 2'000'000'000;  // PM_QOS_CPU_LATENCY_DEFAULT_VALUE
constexpr long kMostProcessors = 8;                  // that poll for the sake of one client

bool waking_is_slow() {
  const auto driver = read_file("/sys/devices/system/cpu/cpuidle/current_driver");
  return driver && driver->starts_with("haltpoll") &&
         ::sysconf(_SC_NPROCESSORS_ONLN) <= kMostProcessors;
}

}  // namespace

ProcessorsAwake ProcessorsAwake::where_waking_is_slow() {
  if (!waking_is_slow()) return ProcessorsAwake(Fd());
  return ProcessorsAwake(open_file("/dev/cpu_dma_latency", O_WRONLY).value_or(Fd()));
}

void ProcessorsAwake::hold() {
  if (held_ || !device_) return;
  set(0);
  held_ = true;
}

void ProcessorsAwake::release() {
  if (!held_) return;
  set(kAnyLatency);
  held_ = false;
}

// What could not be set costs time, nothing else.
void ProcessorsAwake::set(std::int32_t microseconds) {
  (void)!::write(device_.get(), &microseconds, sizeof microseconds);
}

}  // namespace hm::fs
