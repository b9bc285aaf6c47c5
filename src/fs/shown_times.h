// ShownTimes: when the files that one execution wrote are shown to have been written.
//
// A cached layer may be older than a layer under it that was captured again. From scratch it would
// have been written later, and make(1) asks just that: so its times move behind those of the layer
// below, by one constant where that does not reach past now, else pressed together. Either way what
// was older stays older, within a layer and between layers. Nanoseconds on CLOCK_REALTIME. A value.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fs/layer.h"

namespace hm::fs {

class ShownTimes {
 public:
  // `after_ns`: the layer below ends there (INT64_MIN when there is none).
  static ShownTimes place(const Layer& layer, std::int64_t started_ns, std::int64_t captured_ns,
                          std::int64_t after_ns, std::int64_t now_ns);

  // Of a file that was written while the step ran.
  std::int64_t shown(std::int64_t mtime_ns) const;
  // Everything is shown later than `after_ns`, not before begin and not after end.
  std::int64_t begin_ns() const { return begin_ns_; }
  std::int64_t end_ns() const { return end_ns_; }

 private:
  std::int64_t begin_ns_ = 0;
  std::int64_t end_ns_ = 0;
  std::int64_t shift_ns_ = 0;
  std::int64_t spacing_ns_ = 0;                             // when pressed
  std::shared_ptr<const std::vector<std::int64_t>> ranks_;  // sorted mtimes, when pressed
};

}  // namespace hm::fs
