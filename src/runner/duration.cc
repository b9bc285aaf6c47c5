#include "runner/duration.h"

#include <cstddef>
#include <string>

#include "runner/graph.h"

namespace hm::runner {
namespace {

struct Unit {
  char name;
  std::int64_t seconds;
};
constexpr Unit kUnits[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};

tl::unexpected<Error> refuse(std::string_view text, std::string_view why) {
  return fail(ErrorCode::kInvalid, in_quotes(text) + " " + std::string(why));
}

tl::unexpected<Error> not_a_duration(std::string_view text) {
  return refuse(text,
                "is not a duration; write whole numbers with d, h, m or s, the largest first, "
                "such as \"30s\", \"5m\", \"1h30m\" or \"1d\"");
}

// The number at text[at], capped just above the limit so that it cannot overflow.
std::int64_t take_number(std::string_view text, std::size_t& at) {
  std::int64_t number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > kMaxDuration.count()) number = kMaxDuration.count() + 1;
  }
  return number;
}

}  // namespace

Result<std::chrono::seconds> parse_duration(std::string_view text) {
  std::int64_t total = 0;
  std::size_t at = 0;
  const Unit* unit = std::begin(kUnits);
  while (at < text.size()) {
    const std::size_t start = at;
    const std::int64_t number = take_number(text, at);
    if (at == start || at == text.size()) return not_a_duration(text);
    while (unit != std::end(kUnits) && unit->name != text[at]) ++unit;
    if (unit == std::end(kUnits)) return not_a_duration(text);
    total += number * unit->seconds;
    ++unit;
    ++at;
  }
  if (text.empty()) return not_a_duration(text);
  if (total == 0) return refuse(text, "is no time at all; a duration is at least \"1s\"");
  if (total > kMaxDuration.count()) {
    return refuse(text, "is too long; the longest duration is 4294967295 seconds");
  }
  return std::chrono::seconds(total);
}

}  // namespace hm::runner
