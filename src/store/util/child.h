// run_child: a child process that runs one function of ours, and then ends or becomes a program.
//
// For what must not happen in this process: a system call that may wait for a thread of ours (when
// we are killed, such a thread would wait for ever for the dead one, with every lock still held),
// and the first steps in fresh namespaces. The caller sleeps until the function has returned or
// called execve, as with vfork: the child shares our memory until then, so `function` may only make
// system calls, on data that was prepared before. What it leaves in `argument` can be read after.
// All signals are blocked in it. Descriptors are copies: it may close what it likes. Thread-safe.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "store/util/result.h"

namespace hm {

using ChildFunction = int (*)(void* argument);  // returns the exit code

// `namespaces`: CLONE_NEW… flags, or 0. The caller has to wait for the child.
Result<pid_t> run_child(ChildFunction function, void* argument, int namespaces);

// waitpid without EINTR: the status word.
int wait_for_child(pid_t pid);

// The absolute path of a program in PATH.
std::optional<std::string> find_program(const std::string& name);

}  // namespace hm
