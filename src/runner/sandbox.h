// Sandbox: one command under bubblewrap, from start to the last of its processes.
//
// Own pid, ipc, uts, mount (and, without network, net) namespaces; Docker's default capabilities
// without MKNOD; no_new_privs; stdin is /dev/null, output comes through two pipes. When the command
// ends, times out or is stopped, nothing of it survives: the kernel kills its pid namespace. The
// environment reaches bubblewrap through a descriptor, so no value of it shows in ps.
// One call runs on one thread, which must live until it returns (bubblewrap dies with it).
#pragma once

#include <linux/capability.h>
#include <sys/resource.h>

#include <array>
#include <stop_token>
#include <string>
#include <vector>

#include "runner/backend.h"
#include "runner/cgroup.h"

namespace hm::runner {

struct Capability {
  const char* name;
  int number;
};
// Docker's default set without MKNOD: device nodes are no business of a step.
inline constexpr std::array<Capability, 13> kCapabilities = {
    {{"CAP_CHOWN", CAP_CHOWN},
     {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
     {"CAP_FOWNER", CAP_FOWNER},
     {"CAP_FSETID", CAP_FSETID},
     {"CAP_KILL", CAP_KILL},
     {"CAP_SETGID", CAP_SETGID},
     {"CAP_SETUID", CAP_SETUID},
     {"CAP_SETPCAP", CAP_SETPCAP},
     {"CAP_SETFCAP", CAP_SETFCAP},
     {"CAP_NET_BIND_SERVICE", CAP_NET_BIND_SERVICE},
     {"CAP_NET_RAW", CAP_NET_RAW},
     {"CAP_SYS_CHROOT", CAP_SYS_CHROOT},
     {"CAP_AUDIT_WRITE", CAP_AUDIT_WRITE}}};

inline constexpr const char* kHostname = "hm";

// What /sys tells of the machine that is no business of a step: shown empty.
inline constexpr std::array<const char*, 4> kMaskedDirectories = {
    "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing"};

struct SandboxExit {
  int exit_code = 0;
  bool timed_out = false;
  bool cancelled = false;
  bool over_memory = false;
};

// The path of bubblewrap, from PATH. kRefused with what to install when there is none.
Result<std::string> find_bubblewrap();

// Whether bubblewrap can set up its namespaces here: runs `true` on the host's root, read-only.
Status check_bubblewrap(const std::string& bubblewrap);

// The unobserved files of the sandbox's own: where in a step's root, and which file of the host.
using HostFiles = std::vector<std::pair<std::string, std::string>>;
// resolv.conf and hosts are the host's (empty without one); the others are in `dir`, where
// make_host_files has made them.
HostFiles host_files(const std::string& dir);
Status make_host_files(const std::string& dir);

// What bubblewrap is told, but for the command itself; `root` as in run_sandboxed. It reads these
// arguments and the filter of system calls from descriptors, and writes its status to one.
inline constexpr int kArgsFd = 3;
inline constexpr int kStatusFd = 4;
inline constexpr int kFilterFd = 5;
std::vector<std::string> bubblewrap_arguments(const std::string& root, const HostFiles& files,
                                              const Command& command);
// A descriptor holding the arguments, NUL after each, as `bwrap --args` reads them.
Result<Fd> arguments_file(const std::vector<std::string>& args);

// Empties, in this process's own mount namespace and so for every sandbox that it starts, what /sys
// tells of the host: once, since bubblewrap takes a while for each mount of its own.
Status mask_host_directories();

// The resource limits of this process.
struct StepLimit {
  int resource;
  rlim_t soft;
  rlim_t hard;
};
std::vector<StepLimit> current_limits();
// Gives this process, and so every step, the same resource limits whatever its caller's are; what
// cannot be raised stays, and is part of every key (limits_description).
void apply_limits();
std::string limits_description();

// `root` is a mounted, writable root directory; "" probes the machine (check_bubblewrap). The
// command and all its processes run in `cgroup`, if there is one, from their start.
Result<SandboxExit> run_sandboxed(const std::string& bubblewrap, const std::string& root,
                                  const HostFiles& files, const Command& command,
                                  const Cgroup* cgroup, const Backend::Output& output,
                                  const std::stop_token& stop);

// Describes everything about the sandbox that a step can see and that is not in its view: part of
// the static key.
std::string sandbox_description();

}  // namespace hm::runner
