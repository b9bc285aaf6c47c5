// The command's sandbox in the guest: what bubblewrap sets up on the host (runner/sandbox.cc), from
// the same tables, with the same mounts in the same order.
//
// All of it runs in processes forked for it, where nothing may be told to hm: the first is the init
// of the command's pid namespace, which sets everything up, forks the command and writes how it
// ended to a pipe. When that init ends the kernel kills what is left.
#pragma once

#include <string>

#include "runner/vm/protocol.h"

namespace hm::guest {

struct SandboxPipes {
  int input = -1;
  int output = -1;
  int error = -1;
  int report = -1;
};

// What comes out of `report`: the end of the command, or what could not be set up.
struct SandboxReport {
  runner::vm::StepEnd end;
  int error = 0;        // not 0: an errno, and
  char task[120] = {};  // what it belongs to; the command did not run then
};

// The body of the forked process: does not return.
[[noreturn]] void enter_sandbox(const runner::vm::StepOrder& order, const std::string& root,
                                const SandboxPipes& pipes);

}  // namespace hm::guest
