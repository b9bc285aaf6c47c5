// Whether a file has rested long enough for its identity to say something about its bytes.
//
// Two mmap stores into one dirty page leave size, mtime and ctime equal until write-back (30 s by
// default): a younger file's stamp proves nothing. Pure function.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store/store.h"
#include "store/util/fd.h"

namespace hm::fs {

inline constexpr std::int64_t kTrustedAgeNs = 60'000'000'000;

inline bool has_rested(const store::FileStamp& stamp) {
  return now_ns() - std::max(stamp.mtime_ns, stamp.ctime_ns) > kTrustedAgeNs;
}

}  // namespace hm::fs
