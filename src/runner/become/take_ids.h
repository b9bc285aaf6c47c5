// take_ids: from root to the user that a step runs as, for good; on the host and in a guest.
//
// Header only and without anything of the runner: both callers are static programs.
#pragma once

#include <grp.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <vector>

namespace hm::runner {

// Where the program that calls it on the host is, in the process that becomes it.
inline constexpr int kBecomeFd = 6;

// False with errno. The pipes on 1 and 2 become the user's, so that /dev/stdout can be opened.
inline bool take_ids(std::uint32_t uid, std::uint32_t gid,
                     const std::vector<std::uint32_t>& groups) {
  for (const int fd : {1, 2}) (void)!::fchown(fd, uid, gid);
  const std::vector<gid_t> own(groups.begin(), groups.end());
  if (::setgroups(own.size(), own.data()) != 0) return false;
  if (::setresgid(gid, gid, gid) != 0 || ::setresuid(uid, uid, uid) != 0) return false;
  if (uid == 0) return true;
  // What the kernel left: those that are handed on to programs that ask for them.
  std::array<__user_cap_data_struct, 2> none{};
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return ::syscall(SYS_capset, &header, none.data()) == 0;
}

}  // namespace hm::runner
