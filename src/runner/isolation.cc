#include "runner/isolation.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

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

}  // namespace

const char* to_string(IdMode mode) { return mode == IdMode::kSingle ? "single" : "full"; }

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
