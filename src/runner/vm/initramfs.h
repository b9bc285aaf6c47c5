// The initramfs of a guest: our init and the modules that it loads, nothing of anybody's files.
//
// A pure function of the kernel's modules and the init, which is part of this program.
#pragma once

#include <string>
#include <string_view>

#include "runner/vm/kernel.h"
#include "store/util/result.h"

namespace hm::runner::vm {

// The program in src/runner/vm/guest, as it was built.
std::string_view guest_init();

// `init`: guest_init(), or another one for a test.
Result<std::string> make_initramfs(const Kernel& kernel, std::string_view init);

}  // namespace hm::runner::vm
