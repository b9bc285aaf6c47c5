// StepLimits: what a step may use at most, as people write it and as the kernel is told.
//
// Sizes are whole numbers with a unit of 1024: "512M", "2G"; K, M, G and T, in either case. Pure
// functions. Errors are kInvalid and say what to write instead.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "store/util/result.h"

namespace hm::runner {

struct Limits {
  std::optional<std::uint64_t> memory;  // bytes, page cache and files on tmpfs included
  std::optional<std::uint64_t> pids;    // processes and threads at one time

  bool any() const { return memory || pids; }
  bool operator==(const Limits&) const = default;
};

// The least that a shell can start in, and what still fits every reader.
inline constexpr std::uint64_t kLeastMemory = std::uint64_t{4} << 20;
inline constexpr std::uint64_t kMostMemory = std::uint64_t{1} << 50;
inline constexpr std::uint64_t kMostPids = 1U << 22;  // the kernel's own limit

Result<std::uint64_t> parse_memory(std::string_view text);
// The shortest text that parse_memory reads as this number; bytes where no unit fits.
std::string memory_text(std::uint64_t bytes);

// Part of the static key; "" without limits.
std::string limits_text(const Limits& limits);

}  // namespace hm::runner
