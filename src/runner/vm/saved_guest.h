// SavedGuest: a guest that has booted and waits for its step, as a file to start others from.
//
// Taken before any root is mounted and before anything of a step is known, so it holds nothing of
// anybody. Kept in the store's home under the digest of all it depends on: QEMU's program, its
// arguments, the kernel, the initramfs, the processor where it shows. One is made at a time;
// what cannot be restored is made again. Functions on files; safe from any thread and process.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "runner/vm/machine.h"
#include "store/util/digest.h"
#include "store/util/fd.h"

namespace hm::runner::vm {

// The file's name for guests of this shape.
Result<std::string> saved_guest_name(const MachineShape& shape, const Digest& initramfs);

// A descriptor of it, at its start; nothing when there is none.
std::optional<Fd> open_saved_guest(const std::string& directory, const std::string& name);
void drop_saved_guest(const std::string& directory, const std::string& name);

// Boots a guest of these parts (but for `state` and `monitor`) and saves it, unless somebody else
// has done so meanwhile; removes those of other shapes that nobody used for long.
Status save_guest(const std::string& directory, const std::string& name, MachineParts parts,
                  std::chrono::milliseconds patience, int wake);

}  // namespace hm::runner::vm
