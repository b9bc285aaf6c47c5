#include "fs/known_values.h"

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
  if (stripe.texts.size() >= kMostOfAStripe || values.contains(path)) return;
  const std::string_view own =
      stripe.texts.emplace_back(std::string(path) + std::string(value.text));
  values.emplace(own.substr(0, path.size()), Value{own.substr(path.size()), value.moment_ns});
}

}  // namespace hm::fs
