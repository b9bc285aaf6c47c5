// The step's root in the guest: overlayfs over the served view, its upper on the scratch disk.
//
// The upper is a filesystem of the scratch disk from the first byte, not of memory: overlayfs wants
// user attributes on it, which the kernel's tmpfs has from Linux 6.6 on, and what a step writes
// stays in memory as page cache as long as there is room.
#pragma once

#include <string>

#include "runner/vm/protocol.h"

namespace hm::guest {

inline constexpr const char* kServed = "/served";
inline constexpr const char* kScratch = "/scratch";

// The scratch disk, at `kScratch`.
void mount_scratch();
// The overlay's root directory, mounted. `kServed` and `kScratch` must be.
std::string make_root(const runner::vm::StepOrder& order);
// Its upper directory.
std::string upper_directory();

}  // namespace hm::guest
