#include "fs/seen_times.h"

#include <algorithm>
#include <tuple>

namespace hm::fs {

SeenTimes::SeenTimes(std::vector<SeenTime> items) : items_(std::move(items)) {
  std::sort(items_.begin(), items_.end(), [](const SeenTime& a, const SeenTime& b) {
    return std::tie(a.mtime_ns, a.path) < std::tie(b.mtime_ns, b.path);
  });
}

const std::string* SeenTimes::source(std::int64_t mtime_ns, const std::string& identity) const {
  auto it = std::lower_bound(
      items_.begin(), items_.end(), mtime_ns,
      [](const SeenTime& item, std::int64_t time) { return item.mtime_ns < time; });
  const std::string* by_time = nullptr;
  for (; it != items_.end() && it->mtime_ns == mtime_ns; ++it) {
    if (it->identity == identity) return &it->path;
    // The times of an image are often round numbers that touch -d can hit by itself.
    if (by_time == nullptr && it->of_run) by_time = &it->path;
  }
  return by_time;
}

}  // namespace hm::fs
