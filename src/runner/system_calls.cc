#include "runner/system_calls.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

namespace hm::runner {

namespace {

struct Refusal {
  const char* name;
  int error;                // what the step sees
  int flags_argument = -1;  // when not negative: refused only with CLONE_NEWUSER in this argument
};

constexpr std::array<Refusal, 14> kRefusals = {{
    // Keys belong to the user, not to a namespace.
    {"add_key", EPERM},
    {"keyctl", EPERM},
    {"request_key", EPERM},
    // A user namespace gives back what was dropped, within it: mounts, cgroups, the packet filter.
    {"unshare", EPERM, 0},
    {"clone", EPERM, 0},
    {"clone3", ENOSYS},  // its flags cannot be looked at; C libraries then use clone
    // Much kernel code for few users, and no program that cannot do without.
    {"bpf", EPERM},
    {"perf_event_open", EPERM},
    {"userfaultfd", EPERM},
    {"io_uring_setup", ENOSYS},
    {"io_uring_enter", ENOSYS},
    {"io_uring_register", ENOSYS},
    {"open_by_handle_at", EPERM},  // reaches files of a filesystem by number, past every path
    {"syslog", EPERM},             // the host's kernel log
}};

// The other ways in which this processor's kernel can be called.
#if defined(__x86_64__)
constexpr std::array<std::uint32_t, 2> kForeign = {SCMP_ARCH_X86, SCMP_ARCH_X32};
#elif defined(__aarch64__)
constexpr std::array<std::uint32_t, 1> kForeign = {SCMP_ARCH_ARM};
#else
constexpr std::array<std::uint32_t, 0> kForeign = {};
#endif

struct Release {
  void operator()(void* filter) const { ::seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, Release>;

int add_refusal(const Filter& filter, const Refusal& row) {
  const int number = ::seccomp_syscall_resolve_name(row.name);
  if (number == __NR_SCMP_ERROR) return 0;  // newer than the library: it cannot be named
  const auto action = SCMP_ACT_ERRNO(static_cast<std::uint32_t>(row.error));
  if (row.flags_argument < 0) return ::seccomp_rule_add(filter.get(), action, number, 0);
  return ::seccomp_rule_add(filter.get(), action, number, 1,
                            SCMP_CMP(static_cast<unsigned>(row.flags_argument), SCMP_CMP_MASKED_EQ,
                                     CLONE_NEWUSER, CLONE_NEWUSER));
}

}  // namespace

namespace {

Result<Fd> compile() {
  const Filter filter(::seccomp_init(SCMP_ACT_ALLOW));
  if (!filter) return fail(ErrorCode::kRefused, "cannot make a filter of system calls");
  int error = 0;
  for (const std::uint32_t arch : kForeign) {
    if (error == 0) error = ::seccomp_arch_add(filter.get(), arch);
  }
  for (const Refusal& row : kRefusals) {
    if (error == 0) error = add_refusal(filter, row);
  }
  Fd fd(::memfd_create("hm-seccomp", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  if (error == 0) error = ::seccomp_export_bpf(filter.get(), fd.get());
  if (error != 0) return fail(system_error("filter of system calls", -error));
  return fd;
}

}  // namespace

// Compiling takes longer than many a step: done once. The bytes are in a descriptor of each step's
// own, since the descriptor's offset is what is read from.
Result<Fd> system_call_filter() {
  static const Result<std::string> program = []() -> Result<std::string> {
    HM_ASSIGN(const Fd compiled, compile());
    return read_file("/proc/self/fd/" + std::to_string(compiled.get()));
  }();
  if (!program) return fail(program.error());
  Fd fd(::memfd_create("hm-seccomp", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  HM_TRY(write_all(fd.get(), *program));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return fail_errno("lseek");
  return fd;
}

std::string system_calls_description() {
  std::string out;
  for (const Refusal& row : kRefusals) {
    out += std::string(out.empty() ? "" : " ") + row.name + ":" + std::to_string(row.error) + ":" +
           std::to_string(row.flags_argument);
  }
  return out;
}

}  // namespace hm::runner
