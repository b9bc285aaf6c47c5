#include "runner/vm/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "runner/graph.h"
#include "store/util/child.h"
#include "store/util/fd.h"

namespace hm::runner::vm {

namespace {

constexpr const char* kForAdministrators = "/usr/local/sbin:/usr/sbin:/sbin";

// posix_spawn's two objects, freed in every case.
class SpawnSetup {
 public:
  SpawnSetup() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;
  ~SpawnSetup() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return printable(text.substr(text.rfind('\n') + 1));
}

}  // namespace

std::optional<std::string> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  const std::string all = std::string(path != nullptr ? path : "") + ":" + kForAdministrators;
  for (std::size_t at = 0; at <= all.size();) {
    const std::size_t end = std::min(all.find(':', at), all.size());
    const std::string candidate = all.substr(at, end - at) + "/" + name;
    if (end > at && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return std::nullopt;
}

Result<std::string> run_program(const std::vector<std::string>& argv, const std::string& directory,
                                int open_fd) {
  const Fd output(::memfd_create("hm-output", MFD_CLOEXEC));
  if (!output) return fail_errno("memfd_create");
  SpawnSetup setup;
  ::posix_spawn_file_actions_addopen(&setup.actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&setup.actions, output.get(), 1);
  ::posix_spawn_file_actions_adddup2(&setup.actions, output.get(), 2);
  ::posix_spawn_file_actions_addchdir_np(&setup.actions, directory.c_str());
  // A descriptor duplicated to itself loses its close-on-exec flag.
  if (open_fd >= 0) ::posix_spawn_file_actions_adddup2(&setup.actions, open_fd, open_fd);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&setup.attributes, &none);
  ::posix_spawnattr_setflags(&setup.attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> words = argv;
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, words.front().c_str(), &setup.actions, &setup.attributes,
                                  pointers.data(), environ);
  if (error != 0) return fail(system_error(words.front(), error));
  const int status = wait_for_child(pid);
  if (::lseek(output.get(), 0, SEEK_SET) != 0) return fail_errno("lseek");
  HM_ASSIGN(std::string text, read_all(output.get()));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  return fail(ErrorCode::kRefused, words.front() + " failed: " + last_line(std::move(text)));
}

}  // namespace hm::runner::vm
