// Isolation: puts this process into namespaces of its own before anything else happens.
//
// Every mount that hm makes lives in a private mount namespace, so the kernel takes them along when
// hm dies. Without privileges that needs a user namespace, in which this process appears as root:
// with the subordinate ids that the system gave its user (subuid(5)) behind it, else with a single
// id. Must be called while the process has one thread.
#pragma once

#include <string>

#include "store/util/fd.h"

namespace hm::runner {

// Part of every static key: results are shared within one mode only.
enum class IdMode {
  kFull,    // owners are real: root
  kMapped,  // as many ids as images have, in a user namespace; on the host they are others
  kSingle,  // one id, shown as root; chown to another cannot work
  kGuest,   // of a virtual machine, which has all ids: as kFull of the machine's own root
};
const char* to_string(IdMode mode);

// kRefused with what is missing and what to do.
Result<IdMode> enter_private_namespaces();

// Why there is a single id, and what to do about it: one line. After enter_private_namespaces.
std::string single_id_reason();

// The file `path` through a mount that cannot change it, and that has no place in the file tree.
Result<Fd> read_only_clone(const std::string& path);

}  // namespace hm::runner
