#include "store/util/child.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>
#include <vector>

namespace hm {

namespace {

constexpr std::size_t kStackBytes = std::size_t{64} * 1024;

}  // namespace

Result<pid_t> run_child(ChildFunction function, void* argument, int namespaces) {
  struct alignas(16) StackUnit {
    char bytes[16];
  };
  std::vector<StackUnit> stack(kStackBytes / sizeof(StackUnit));
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);  // no handler of ours may run in the child
  const pid_t pid = ::clone(function, stack.data() + stack.size(),
                            CLONE_VM | CLONE_VFORK | SIGCHLD | namespaces, argument);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return fail(system_error("clone", error));
  return pid;
}

int wait_for_child(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::optional<std::string> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    std::string candidate = std::string(rest.substr(0, colon)) + "/" + name;
    if (candidate[0] == '/' && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return std::nullopt;
}

}  // namespace hm
