// fetch_kernel: a kernel for guests out of Debian's package, without installing it on this machine.
//
// Downloaded by apt-get and unpacked by dpkg-deb into the store's home, where find_kernel looks
// last; nothing of the system changes. One process at a time should do it.
#pragma once

#include <string>

#include "runner/vm/kernel.h"

namespace hm::runner::vm {

// kRefused with what is missing, or with what apt-get said.
Result<Kernel> fetch_kernel(const std::string& store_home);

}  // namespace hm::runner::vm
