#include "runner/isolation.h"

#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "store/util/child.h"

namespace hm::runner {

namespace {

// Devices that bwrap takes from the host for a step, which as root could change their modes.
constexpr std::array<const char*, 6> kDevices = {"/dev/null",   "/dev/zero",    "/dev/full",
                                                 "/dev/random", "/dev/urandom", "/dev/tty"};

Status write_proc(const char* path, const std::string& text) {
  HM_ASSIGN(const Fd fd, open_file(path, O_WRONLY));
  return write_all(fd.get(), text);
}

// Puts a read-only mount over the device: it can still be read and written.
Status protect_device(const char* path) {
  const auto clone = read_only_clone(path);
  if (!clone && clone.error().errno_value == ENOENT) return {};
  if (!clone) return fail(clone.error());
  if (::move_mount(clone->get(), "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return fail_errno(path);
  }
  return {};
}

// What user_namespaces(7) asks for to map one id: setgroups must be denied first.
Status map_single_id(uid_t uid, gid_t gid) {
  HM_TRY(write_proc("/proc/self/setgroups", "deny"));
  HM_TRY(write_proc("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1"));
  return write_proc("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1");
}

// Ids 1 and up of a user namespace, and what they are outside.
struct IdRange {
  std::uint64_t start = 0, count = 0;
};
constexpr std::uint64_t kMostIds = 65535;
// With fewer nobody and the system users of an image have no id.
constexpr std::uint64_t kFewestIds = 65000;

std::string user_name(uid_t uid) {
  const passwd* user = ::getpwuid(uid);
  return user != nullptr ? user->pw_name : std::to_string(uid);
}

// The user's first large enough range in a file as of subuid(5).
std::optional<IdRange> subordinate_ids(const char* file, uid_t uid) {
  std::istringstream lines(read_file(file).value_or(""));
  const std::string name = user_name(uid);
  for (std::string line; std::getline(lines, line);) {
    std::replace(line.begin(), line.end(), ':', ' ');
    std::istringstream fields(line);
    std::string owner;
    IdRange range;
    if (!(fields >> owner >> range.start >> range.count)) continue;
    if (owner != name && owner != std::to_string(uid)) continue;
    if (range.count < kFewestIds) continue;
    range.count = std::min(range.count, kMostIds);
    return range;
  }
  return std::nullopt;
}

// The programs that may write such a map for us, and the maps that they are to write.
struct MapCommand {
  std::string program;
  std::vector<std::string> words;
};
using MapCommands = std::array<MapCommand, 2>;

std::optional<MapCommands> map_commands(uid_t uid, gid_t gid) {
  struct Kind {
    const char* program;
    const char* file;
    std::uint64_t own;
  };
  const std::array<Kind, 2> kinds = {
      {{"newuidmap", "/etc/subuid", uid}, {"newgidmap", "/etc/subgid", gid}}};
  MapCommands out;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const auto program = find_program(kinds[i].program);
    const auto range = subordinate_ids(kinds[i].file, uid);
    if (!program || !range) return std::nullopt;
    out[i] = {*program,
              {kinds[i].program, std::to_string(::getpid()), "0", std::to_string(kinds[i].own), "1",
               "1", std::to_string(range->start), std::to_string(range->count)}};
  }
  return out;
}

// In a process of its own, which is still in the old user namespace: the exit code of the first
// that fails, or 0.
int run_map_commands(MapCommands& commands) {
  for (MapCommand& command : commands) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      std::vector<char*> argv;
      for (std::string& word : command.words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(command.program.c_str(), argv.data());
      ::_exit(127);
    }
    const int status = pid > 0 ? wait_for_child(pid) : -1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return 1;
  }
  return 0;
}

// A process that writes the maps as soon as it is told that the namespace is there.
class Mapper {
 public:
  static Result<Mapper> start(MapCommands commands) {
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return fail_errno("pipe");
    Mapper mapper{Fd(pipe[1])};
    const Fd wait(pipe[0]);
    mapper.pid_ = ::fork();
    if (mapper.pid_ < 0) return fail_errno("fork");
    if (mapper.pid_ == 0) {
      mapper.go_.reset();
      char told = 0;
      const bool go = ::read(wait.get(), &told, 1) == 1;
      ::_exit(go ? run_map_commands(commands) : 1);
    }
    return mapper;
  }

  Mapper(Mapper&& other) noexcept
      : go_(std::move(other.go_)), pid_(std::exchange(other.pid_, -1)) {}
  Mapper& operator=(Mapper&&) = delete;
  Mapper(const Mapper&) = delete;
  Mapper& operator=(const Mapper&) = delete;
  ~Mapper() {
    go_.reset();
    if (pid_ > 0) wait_for_child(pid_);
  }

  Status finish() {
    HM_TRY(write_all(go_.get(), "x"));
    const int status = wait_for_child(std::exchange(pid_, -1));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return fail(ErrorCode::kRefused, "newuidmap or newgidmap refused the subordinate ids");
  }

 private:
  explicit Mapper(Fd go) : go_(std::move(go)) {}
  Fd go_;
  pid_t pid_ = -1;
};

Result<IdMode> enter_user_namespace(uid_t uid, gid_t gid) {
  std::optional<Mapper> mapper;
  if (auto commands = map_commands(uid, gid)) {
    HM_ASSIGN(Mapper started, Mapper::start(std::move(*commands)));
    mapper.emplace(std::move(started));
  }
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return fail(ErrorCode::kRefused,
                std::string("cannot create a user namespace (") + std::strerror(errno) +
                    "): run as root, or allow them (sysctl kernel.unprivileged_userns_clone=1, "
                    "user.max_user_namespaces)");
  }
  const Status status = mapper ? mapper->finish() : map_single_id(uid, gid);
  if (!status) {
    return fail(ErrorCode::kRefused, "cannot set up the user namespace: " + status.error().message);
  }
  return mapper ? IdMode::kMapped : IdMode::kSingle;
}

}  // namespace

const char* to_string(IdMode mode) { return mode == IdMode::kSingle ? "single" : "full"; }

std::string single_id_reason() {
  std::uint64_t inside = 0, outside = 0;
  std::istringstream map(read_file("/proc/self/uid_map").value_or(""));
  map >> inside >> outside;
  const auto uid = static_cast<uid_t>(outside);
  if (!find_program("newuidmap") || !find_program("newgidmap")) {
    return "newuidmap is not there (apt-get install uidmap)";
  }
  const std::string name = user_name(uid);
  return "/etc/subuid and /etc/subgid have no 65535 ids for " + name +
         " (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name + ")";
}

Result<IdMode> enter_private_namespaces() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  IdMode mode = IdMode::kFull;
  if (uid != 0 || ::unshare(CLONE_NEWNS) != 0) {
    HM_ASSIGN(mode, enter_user_namespace(uid, gid));
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return fail(ErrorCode::kRefused,
                std::string("cannot make mounts private: ") + std::strerror(errno));
  }
  for (const char* path : kDevices) {
    if (auto status = protect_device(path); !status) {
      return fail(ErrorCode::kRefused, "cannot make a device read-only: " + status.error().message);
    }
  }
  return mode;
}

Result<Fd> read_only_clone(const std::string& path) {
  Fd clone(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!clone) return fail_errno(path);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(clone.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
    return fail_errno(path);
  }
  return clone;
}

}  // namespace hm::runner
