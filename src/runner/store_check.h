// The part of `hm cache verify` that needs to know what blobs mean: every record's path set, trace,
// layer and log are there, decode, and belong together; every layer's files are there.
//
// With Repair::kYes whatever lacks something is forgotten: its step runs again. Safe beside running
// processes: a record becomes visible only after all that it names.
#pragma once

#include "store/check.h"
#include "store/store.h"

namespace hm::runner {

struct StoreTotals {
  std::size_t records = 0, layers = 0;
};

// `sizes` are the blobs known to be right, of store::check_blobs.
Result<StoreTotals> check_meanings(store::Store& store, store::BlobSizes sizes,
                                   store::Repair repair, store::Findings& findings);

}  // namespace hm::runner
