#include "fs/known_values.h"

#include <algorithm>
#include <mutex>

namespace hm::fs {

std::optional<KnownValues::Value> KnownValues::find(std::string_view path,
                                                    ObservationKind kind) const {
  const Stripe& stripe = stripes_[stripe_of(path)];
  const std::lock_guard lock(stripe.mutex);
  const auto& values = stripe.values[static_cast<std::size_t>(kind)];
  const auto found = values.find(path);
  return found == values.end() ? std::nullopt : std::optional(found->second);
}

void KnownValues::add(std::string_view path, ObservationKind kind, const Value& value) {
  Stripe& stripe = stripes_[stripe_of(path)];
  const std::lock_guard lock(stripe.mutex);
  auto& values = stripe.values[static_cast<std::size_t>(kind)];
  if (stripe.count >= kMostOfAStripe || values.contains(path)) return;
  stripe.count += 1;
  auto* const own =
      static_cast<char*>(stripe.memory.allocate(path.size() + value.text.size(), alignof(char)));
  std::copy(path.begin(), path.end(), own);
  std::copy(value.text.begin(), value.text.end(), own + path.size());
  values.emplace(std::string_view(own, path.size()),
                 Value{{own + path.size(), value.text.size()}, value.moment_ns});
}

namespace {

template <class T>
std::shared_ptr<const T> find_shared(
    const std::unordered_map<Digest, std::shared_ptr<const T>>& known, const Digest& name) {
  const auto found = known.find(name);
  return found == known.end() ? nullptr : found->second;
}

}  // namespace

KnownValues::SharedPaths KnownValues::path_set(const Digest& name) const {
  const std::lock_guard lock(sets_mutex_);
  return find_shared(path_sets_, name);
}

KnownValues::SharedFields KnownValues::fields(const Digest& name) const {
  const std::lock_guard lock(sets_mutex_);
  return find_shared(fields_, name);
}

void KnownValues::add_path_set(const Digest& name, SharedPaths paths) {
  const std::lock_guard lock(sets_mutex_);
  path_sets_.try_emplace(name, std::move(paths));
}

void KnownValues::add_fields(const Digest& name, SharedFields fields) {
  const std::size_t size = fields->size();
  const std::lock_guard lock(sets_mutex_);
  if (bytes_of_fields_ + size > kMostBytesOfFields) return;
  if (fields_.try_emplace(name, std::move(fields)).second) bytes_of_fields_ += size;
}

}  // namespace hm::fs
