// Durations as people write them in a pipeline: "30s", "5m", "1h30m", "1d".
//
// Whole numbers with the units d, h, m and s, each at most once and the largest first. Zero and
// anything above kMaxDuration are refused, so that every duration also fits Harmont's IR.
// Pure functions, safe from any thread. Errors are kInvalid and say what to write instead.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "store/util/result.h"

namespace hm::runner {

// The IR's limit: seconds in 32 bits.
inline constexpr std::chrono::seconds kMaxDuration{std::int64_t{0xffffffff}};

Result<std::chrono::seconds> parse_duration(std::string_view text);

}  // namespace hm::runner
