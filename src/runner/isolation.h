// Isolation: puts this process into namespaces of its own before anything else happens.
//
// Every mount that hm makes lives in a private mount namespace, so the kernel takes them along when
// hm dies. Without privileges that needs a user namespace, in which this process appears as root
// with a single id. Must be called while the process has one thread.
#pragma once

#include <string>

#include "store/util/fd.h"

namespace hm::runner {

// Part of every static key: results are shared within one mode only.
enum class IdMode {
  kFull,    // owners are real: root
  kSingle,  // one id, shown as root; chown to another cannot work
  kGuest,   // of a virtual machine, which has all ids: as kFull of the machine's own root
};
const char* to_string(IdMode mode);

// kRefused with what is missing and what to do.
Result<IdMode> enter_private_namespaces();

// The file `path` through a mount that cannot change it, and that has no place in the file tree.
Result<Fd> read_only_clone(const std::string& path);

}  // namespace hm::runner
