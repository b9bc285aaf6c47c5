#include "fs/file_age.h"

#include <sys/vfs.h>

#include <array>

#include "store/util/digest.h"

namespace hm::fs {

namespace {

// The filesystems on which (device, inode, size, mtime, ctime) of a file that has rested identifies
// its bytes. Not tmpfs, where a store through a mapping changes no time, ever; not those made with
// clamped times. statfs(2) names the numbers.
constexpr std::array<std::int64_t, 4> kStampedFilesystems = {
    0xEF53 /* ext2-4 */, 0x58465342 /* xfs */, 0x9123683E /* btrfs */, 0xF2F52010 /* f2fs */};

}  // namespace

std::uint64_t stamp_device(int fd, dev_t device) {
  struct statfs st {};
  if (::fstatfs(fd, &st) != 0) return 0;
  const auto* known = std::find(kStampedFilesystems.begin(), kStampedFilesystems.end(),
                                static_cast<std::int64_t>(st.f_type));
  if (known == kStampedFilesystems.end()) return 0;
  Hasher hasher;
  hasher.field(device);
  hasher.update({reinterpret_cast<const char*>(&st.f_fsid), sizeof st.f_fsid});
  return std::hash<Digest>{}(hasher.finish()) | 1;
}

}  // namespace hm::fs
