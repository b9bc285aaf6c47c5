// The served filesystem: mounts it and copies FUSE messages between the kernel and the port, on two
// threads of the init, for as long as the machine lives.
#pragma once

#include <string>

#include "runner/vm/guest/port.h"

namespace hm::guest {

// Mounted at `target` when it returns. `port` must outlive the machine.
void serve_root(Port& port, const std::string& target);

}  // namespace hm::guest
