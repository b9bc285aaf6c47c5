// Runs the one command of this machine: in its sandbox and its cgroup, with its output going to hm.
#pragma once

#include <string>

#include "runner/vm/guest/port.h"
#include "runner/vm/protocol.h"

namespace hm::guest {

// From the start to the last of its processes. kStop frames are obeyed meanwhile.
runner::vm::StepEnd run_command(const runner::vm::StepOrder& order, const std::string& root,
                                Port& control);

}  // namespace hm::guest
