// SystemCalls: the filter of system calls that every step runs under.
//
// Everything else that confines a step is namespaces, capabilities and read-only mounts. The filter
// closes what those leave open, as Docker's does: the caller's keyrings, user namespaces (in which
// a step would be privileged again), and kernel interfaces that no build needs.
#pragma once

#include <string>

#include "store/util/fd.h"

namespace hm::runner {

// The compiled filter in a descriptor, from its start, as `bwrap --seccomp` reads it.
Result<Fd> system_call_filter();

// What is refused, for the static key.
std::string system_calls_description();

}  // namespace hm::runner
