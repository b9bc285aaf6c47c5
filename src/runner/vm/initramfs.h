// Initramfs: what a guest boots into: our init and the modules that it loads, nothing of anybody's
// files.
//
// The modules are found at once and read when one is made, which a guest that is started from a
// saved one does not need. Immutable; thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runner/vm/kernel.h"
#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::runner::vm {

// The program in src/runner/vm/guest, as it was built.
std::string_view guest_init();

class Initramfs {
 public:
  // `init`: guest_init(), or another one for a test; it outlives this.
  static Result<Initramfs> of(const Kernel& kernel, std::string_view init);

  // Another one whenever make() gives something else.
  Result<Digest> identity() const;
  Result<std::string> make() const;

 private:
  Initramfs(std::vector<Module> modules, std::string_view init)
      : modules_(std::move(modules)), init_(init) {}
  std::vector<Module> modules_;
  std::string_view init_;
};

}  // namespace hm::runner::vm
