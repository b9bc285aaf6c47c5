#include "runner/isolation.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "store/util/fd.h"

namespace hm::runner {

namespace {

Status write_proc(const char* path, const std::string& text) {
  HM_ASSIGN(const Fd fd, open_file(path, O_WRONLY));
  return write_all(fd.get(), text);
}

// What user_namespaces(7) asks for to map one id: setgroups must be denied first.
Status map_single_id(uid_t uid, gid_t gid) {
  HM_TRY(write_proc("/proc/self/setgroups", "deny"));
  HM_TRY(write_proc("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1"));
  return write_proc("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1");
}

}  // namespace

const char* to_string(IdMode mode) { return mode == IdMode::kFull ? "full" : "single"; }

Result<IdMode> enter_private_namespaces() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  IdMode mode = IdMode::kFull;
  if (uid != 0 || ::unshare(CLONE_NEWNS) != 0) {
    mode = IdMode::kSingle;
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return fail(ErrorCode::kRefused,
                  std::string("cannot create a user namespace (") + std::strerror(errno) +
                      "): run as root, or allow them (sysctl kernel.unprivileged_userns_clone=1, "
                      "user.max_user_namespaces)");
    }
    if (auto status = map_single_id(uid, gid); !status) {
      return fail(ErrorCode::kRefused,
                  "cannot set up the user namespace: " + status.error().message);
    }
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return fail(ErrorCode::kRefused,
                std::string("cannot make mounts private: ") + std::strerror(errno));
  }
  return mode;
}

}  // namespace hm::runner
