// Whether a file has rested long enough for its identity to say something about its bytes.
//
// Two mmap stores into one dirty page leave size, mtime and ctime equal until write-back (30 s by
// default): a younger file's stamp proves nothing. No state.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstdint>

#include "store/store.h"
#include "store/util/fd.h"

namespace hm::fs {

inline constexpr std::int64_t kTrustedAgeNs = 60'000'000'000;

inline bool has_rested(const store::FileStamp& stamp) {
  return now_ns() - std::max(stamp.mtime_ns, stamp.ctime_ns) > kTrustedAgeNs;
}

// What stands for a device in a stamp that the store keeps: the id of the filesystem that `fd` is
// on besides the number, which the next image on a loop device has too. 0: stamps mean nothing
// there.
std::uint64_t stamp_device(int fd, dev_t device);

}  // namespace hm::fs
