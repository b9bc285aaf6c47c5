// KnownValues: what observations on one view have been found to be.
//
// Steps that start from the same parent mostly look at the same files, and in one run each path has
// one value on their view, since all of it is pinned. So the lookup of one of them takes from here
// what that of another has composed. Only for views of one run whose sources, layers and times are
// the same; of a path that was not observed, or not in this way, nothing is known.
//
// Thread-safe. What it returns lives as long as it does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "fs/trace.h"
#include "store/util/brief_mutex.h"

namespace hm::fs {

class KnownValues {
 public:
  struct Value {
    std::string_view text;
    std::optional<std::int64_t> moment_ns;  // of what has one in the order of a trace
  };

  std::optional<Value> find(std::string_view path, ObservationKind kind) const;
  // The first one stays. Beyond a number of them nothing is kept.
  void add(std::string_view path, ObservationKind kind, const Value& value);

 private:
  static constexpr std::size_t kStripes = 16;
  static constexpr std::size_t kMostOfAStripe = (std::size_t{1} << 20) / kStripes;
  static constexpr std::size_t kKinds = 3;

  struct Stripe {
    mutable BriefMutex mutex;
    std::deque<std::string> texts;  // what the views below point to
    std::array<std::unordered_map<std::string_view, Value>, kKinds> values;  // by kind
  };
  static std::size_t stripe_of(std::string_view path) {
    return (std::hash<std::string_view>{}(path) >> 32) % kStripes;
  }

  std::array<Stripe, kStripes> stripes_;
};

}  // namespace hm::fs
