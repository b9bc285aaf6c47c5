// SavedGuest: a guest that has booted and waits for its step, as a file to start others from.
//
// Taken before any root is mounted and before anything of a step is known, so it holds nothing of
// anybody. Kept in the store's home under the digest of all it depends on: QEMU's program, its
// arguments, the kernel, the initramfs, the processor where it shows. One is made at a time;
// what cannot be restored is made again. Functions on files; safe from any thread and process.
//
// The file begins with the guest's memory, with holes; behind it is QEMU's migration stream without
// that, what was on the scratch disk, and the size of this. So what is read to start from it is
// hardly more than what the guest touches.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "runner/vm/machine.h"
#include "store/util/digest.h"
#include "store/util/fd.h"

namespace hm::runner::vm {

// The file's name for guests of this shape. `initramfs`: Initramfs::identity().
Result<std::string> saved_guest_name(const MachineShape& shape, const Digest& initramfs);

struct SavedGuest {
  Fd state;          // at the end of its memory
  std::string disk;  // as content_of() gave it
};
// Nothing when there is none.
std::optional<SavedGuest> open_saved_guest(const std::string& directory, const std::string& name,
                                           const MachineShape& shape);
void drop_saved_guest(const std::string& directory, const std::string& name);

// Boots a guest of these parts (but for `state`) and saves it, unless somebody else has done so
// meanwhile; removes those of other shapes that nobody used for long.
Status save_guest(const std::string& directory, const std::string& name, MachineParts parts,
                  std::chrono::milliseconds patience, int wake);

}  // namespace hm::runner::vm
