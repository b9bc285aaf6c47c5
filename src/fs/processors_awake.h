// ProcessorsAwake: has idle processors poll instead of sleep, for as long as it is held.
//
// In a guest of KVM an idle processor halts, and to wake it leads through the hypervisor: on nested
// virtualization a third of a round trip. Who has /dev/cpu_dma_latency open with 0 in it makes all
// of them poll (Documentation/power/pm_qos_interface.rst of the kernel). That costs their power,
// and the host's other guests their time, so it is held for bursts only (RequestWait), and only
// where it pays: where the kernel has a guest's idle driver (cpuidle-haltpoll), and few processors.
//
// Needs root; without it nothing is held. Not thread-safe. The end of the process ends it.
#pragma once

#include <cstdint>

#include "store/util/fd.h"

namespace hm::fs {

class ProcessorsAwake {
 public:
  // On a machine of another kind, one that holds nothing.
  static ProcessorsAwake where_waking_is_slow();
  // Holds through `device`; with an invalid one never.
  explicit ProcessorsAwake(Fd device) : device_(std::move(device)) {}

  void hold();
  void release();
  bool held() const { return held_; }

 private:
  void set(std::int32_t microseconds);

  Fd device_;
  bool held_ = false;
};

}  // namespace hm::fs
