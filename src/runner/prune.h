// `hm cache prune`: makes the store fit a size, and removes what nothing names.
//
// Records and reports of runs are kept from the most recently used one on, until what they name
// together would exceed the size; what is older is forgotten. Then every blob that is neither named
// nor claimed by a process goes. Right beside running processes: store/claims.h says why.
#pragma once

#include <cstdint>
#include <optional>

#include "store/store.h"

namespace hm::runner {

struct Pruned {
  std::size_t records = 0, runs = 0, layers = 0;
  store::Swept blobs;
  std::uint64_t kept_bytes = 0;  // of blobs that are named or claimed
};

// `max_bytes` counts blobs; without it no record is forgotten. What a process claims stays, even
// if that alone is more.
Result<Pruned> prune(store::Store& store, std::optional<std::uint64_t> max_bytes);

}  // namespace hm::runner
