#include "fs/shown_times.h"

#include <algorithm>

namespace hm::fs {

namespace {

// The tick of the kernel's clock for file times (CONFIG_HZ=250): no need to spread them wider.
constexpr std::int64_t kTickNs = 4'000'000;

std::shared_ptr<const std::vector<std::int64_t>> distinct_times(const Layer& layer) {
  std::vector<std::int64_t> times;
  for (const LayerEntry& item : layer.entries()) {
    const bool timed = !item.whiteout && item.entry.kind != EntryKind::kDirectory;
    if (timed && item.time_of == TimeOf::kRun) times.push_back(item.mtime_ns);
  }
  std::sort(times.begin(), times.end());
  times.erase(std::unique(times.begin(), times.end()), times.end());
  return std::make_shared<const std::vector<std::int64_t>>(std::move(times));
}

}  // namespace

ShownTimes ShownTimes::place(const Layer& layer, std::int64_t started_ns, std::int64_t captured_ns,
                             std::int64_t after_ns, std::int64_t now_ns) {
  ShownTimes out;
  out.begin_ns_ = started_ns;
  out.end_ns_ = std::max(started_ns, captured_ns);
  if (started_ns > after_ns) return out;
  out.begin_ns_ = after_ns + 1;
  out.shift_ns_ = out.begin_ns_ - started_ns;
  out.end_ns_ += out.shift_ns_;
  if (out.end_ns_ <= now_ns) return out;
  // Half of what is left until now, so that the layers above find room too; never less than what
  // keeps two times apart.
  out.ranks_ = distinct_times(layer);
  const auto steps = static_cast<std::int64_t>(out.ranks_->size()) + 1;
  out.spacing_ns_ = std::clamp((now_ns - after_ns) / 2 / (steps + 1), std::int64_t{1}, kTickNs);
  out.end_ns_ = out.begin_ns_ + steps * out.spacing_ns_;
  return out;
}

std::int64_t ShownTimes::shown(std::int64_t mtime_ns) const {
  if (!ranks_) return mtime_ns + shift_ns_;
  const auto rank = std::lower_bound(ranks_->begin(), ranks_->end(), mtime_ns) - ranks_->begin();
  return begin_ns_ + (static_cast<std::int64_t>(rank) + 1) * spacing_ns_;
}

}  // namespace hm::fs
