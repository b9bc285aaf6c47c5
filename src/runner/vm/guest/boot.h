// boot: what the init does before anything else.
//
// The kernel's own filesystems; the modules of the initramfs; a root of its own, so that the memory
// of the initramfs goes back to the kernel and pivot_root works.
#pragma once

namespace hm::guest {

void boot();

}  // namespace hm::guest
