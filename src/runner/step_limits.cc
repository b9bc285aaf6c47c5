#include "runner/step_limits.h"

#include <cstddef>

#include "runner/graph.h"

namespace hm::runner {

namespace {
constexpr std::string_view kUnits = "KMGT";  // 1024 to the power of the place + 1
}

Result<std::uint64_t> parse_memory(std::string_view text) {
  std::uint64_t number = 0;
  std::size_t at = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    if (number <= kMostMemory) number = number * 10 + static_cast<std::uint64_t>(text[at] - '0');
  }
  const char last = text.empty() ? '\0' : text.back();
  const char upper = last >= 'a' && last <= 'z' ? static_cast<char>(last - 'a' + 'A') : last;
  const std::size_t unit = kUnits.find(upper);
  if (at == 0 || at + 1 != text.size() || unit == std::string_view::npos) {
    return fail(ErrorCode::kInvalid,
                in_quotes(text) +
                    " is not a size; write a whole number with K, M, G or T, such as \"512M\"");
  }
  for (std::size_t i = 0; i <= unit && number <= kMostMemory; ++i) number *= 1024;
  if (number < kLeastMemory || number > kMostMemory) {
    return fail(ErrorCode::kInvalid,
                in_quotes(text) + " is no limit a step can run in; write from \"4M\" to \"1024T\"");
  }
  return number;
}

std::string memory_text(std::uint64_t bytes) {
  std::size_t unit = 0;
  while (unit < kUnits.size() && bytes >= 1024 && bytes % 1024 == 0) {
    bytes /= 1024;
    unit += 1;
  }
  return std::to_string(bytes) + (unit == 0 ? "" : std::string(1, kUnits[unit - 1]));
}

std::string limits_text(const Limits& limits) {
  std::string out;
  if (limits.memory) out += "memory=" + std::to_string(*limits.memory) + ";";
  if (limits.pids) out += "pids=" + std::to_string(*limits.pids) + ";";
  return out;
}

}  // namespace hm::runner
