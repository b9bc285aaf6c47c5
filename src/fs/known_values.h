// KnownValues: what observations on one view have been found to be.
//
// Steps that start from the same parent mostly look at the same files, and in one run each path has
// one value on their view, since all of it is pinned. So the lookup of one of them takes from here
// what that of another has composed; where both have the same path set, all of it. Only for views
// of one run whose sources, layers and times are the same; of a path that was not observed, or not
// in this way, nothing is known.
//
// Thread-safe. What it returns lives as long as it does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
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

  // Of the path set of that name: itself, and what a strong key is made of besides it
  // (strong_key_on). Null if not known.
  using SharedPaths = std::shared_ptr<const PathSet>;
  using SharedFields = std::shared_ptr<const std::string>;
  SharedPaths path_set(const Digest& name) const;
  SharedFields fields(const Digest& name) const;
  void add_path_set(const Digest& name, SharedPaths paths);
  void add_fields(const Digest& name, SharedFields fields);

 private:
  static constexpr std::size_t kStripes = 16;
  static constexpr std::size_t kMostOfAStripe = (std::size_t{1} << 20) / kStripes;
  static constexpr std::size_t kKinds = 3;

  struct Stripe {
    mutable BriefMutex mutex;
    using Values = std::pmr::unordered_map<std::string_view, Value>;
    std::pmr::monotonic_buffer_resource memory;  // of the tables, and what their views point to
    std::array<Values, kKinds> values{Values(&memory), Values(&memory),
                                      Values(&memory)};  // by kind
    std::size_t count = 0;
  };
  static std::size_t stripe_of(std::string_view path) {
    return (std::hash<std::string_view>{}(path) >> 32) % kStripes;
  }

  std::array<Stripe, kStripes> stripes_;

  static constexpr std::size_t kMostBytesOfFields = std::size_t{64} << 20;
  mutable BriefMutex sets_mutex_;  // guards what follows
  std::unordered_map<Digest, SharedPaths> path_sets_;
  std::unordered_map<Digest, SharedFields> fields_;
  std::size_t bytes_of_fields_ = 0;
};

}  // namespace hm::fs
