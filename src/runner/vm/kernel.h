// Kernel: the Linux that guests boot, and which of its modules they need.
//
// Found where the configuration says, else among those installed on this machine, else where
// `hm vm setup` has put one. Only an image that its modules are there for counts. Functions without
// state that read files; safe from any thread. kRefused: one line that says what to do.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/util/result.h"

namespace hm::runner::vm {

struct Kernel {
  std::string image;    // a bzImage
  std::string release;  // as in uname -r
  std::string modules;  // .../lib/modules/RELEASE
};

// `configured`: an image, or nothing. `fetched`: a directory with boot/ and lib/modules/, or
// nothing there yet.
Result<Kernel> find_kernel(const std::optional<std::string>& configured,
                           const std::string& fetched);

// The release that a bzImage says it is; its header is described in the kernel's
// Documentation/x86/boot.rst.
Result<std::string> release_of(const std::string& image);

// The same as long as nobody replaces the file or writes to it.
Result<std::string> identity_of(const std::string& path);

struct Module {
  std::string name;
  std::string path;
};
// The modules named and all that they depend on, in an order in which they can be loaded; those
// that the kernel has built in are left out.
Result<std::vector<Module>> modules_for(const Kernel& kernel,
                                        std::span<const std::string_view> names);

// The comma-separated names behind `depends=` in a module's .modinfo section.
Result<std::vector<std::string>> depends_of(std::string_view module);

}  // namespace hm::runner::vm
