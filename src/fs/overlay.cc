#include "fs/overlay.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "fs/overlay_xattr.h"
#include "store/util/child.h"
#include "store/util/fd.h"

namespace hm::fs {

namespace {

Status make_like(const std::string& path, const Entry& entry) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(path);
  if (::chown(path.c_str(), entry.uid, entry.gid) != 0) return fail_errno(path);
  if (::chmod(path.c_str(), entry.mode) != 0) return fail_errno(path);
  for (const auto& [name, value] : entry.xattrs) {
    const std::string on_disk = escape_overlay_xattr(name);
    if (::setxattr(path.c_str(), on_disk.c_str(), value.data(), value.size(), 0) != 0) {
      return fail_errno(path + ": " + name);
    }
  }
  return {};
}

// The mount walks into the view that this very process serves. Should the process be killed
// meanwhile, the caller would wait for a reply that no thread is left to give, and by waiting keep
// /dev/fuse open, which is what the kernel would have to see closed to end the wait. So a child
// mounts that has no descriptor but the three directories.
struct MountCall {
  std::array<int, 3> directories;  // ascending
  const char* target;
  const char* options;
};

void close_all_but(const std::array<int, 3>& ascending) {
  unsigned from = 0;
  for (const int fd : ascending) {
    const auto kept = static_cast<unsigned>(fd);
    if (from < kept) ::close_range(from, kept - 1, 0);
    from = kept + 1;
  }
  ::close_range(from, ~0U, 0);
}

int mount_in_child(void* argument) {
  const auto* call = static_cast<const MountCall*>(argument);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  close_all_but(call->directories);
  return ::mount("overlay", call->target, "overlay", MS_NODEV, call->options) == 0 ? 0 : errno;
}

// 0 or an errno.
Result<int> mount_by_child(std::array<int, 3> directories, const std::string& target,
                           const std::string& options) {
  std::sort(directories.begin(), directories.end());
  MountCall call{directories, target.c_str(), options.c_str()};
  HM_ASSIGN(const pid_t pid, run_child(mount_in_child, &call, 0));
  const int status = wait_for_child(pid);
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  ::umount2(target.c_str(), MNT_DETACH);  // it may have been killed behind the mount
  return EINTR;
}

}  // namespace

Status Overlay::add_opaque_directory(const View& view, const std::string& dir,
                                     const std::string& path) {
  const std::string upper = dir + "/upper";
  if (::mkdir(upper.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(upper);
  for (std::size_t at = path.find('/'); true; at = path.find('/', at + 1)) {
    const std::string prefix = path.substr(0, at);
    HM_ASSIGN(const auto node, view.resolve(prefix));
    if (!node) return fail(ErrorCode::kNotFound, prefix);
    HM_TRY(make_like(dir + "/upper/" + prefix, node->entry));
    if (at == std::string::npos) break;
  }
  const std::string target = dir + "/upper/" + path;
  if (::setxattr(target.c_str(), "user.overlay.opaque", "y", 1, 0) != 0) return fail_errno(target);
  return {};
}

Result<Overlay> Overlay::mount(const std::string& lower, const std::string& dir,
                               const Entry& root) {
  HM_TRY(make_like(dir + "/upper", root));
  for (const char* name : {"/work", "/root"}) {
    const std::string path = dir + name;
    if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
  }
  // By descriptor: a path may hold ':', ',' and '\\', which the option string gives a meaning.
  HM_ASSIGN(const Fd lower_fd, open_file(lower, O_PATH | O_DIRECTORY));
  HM_ASSIGN(const Fd upper_fd, open_file(dir + "/upper", O_PATH | O_DIRECTORY));
  HM_ASSIGN(const Fd work_fd, open_file(dir + "/work", O_PATH | O_DIRECTORY));
  const auto by_fd = [](const Fd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); };
  // userxattr implies redirect_dir=nofollow, and the kernel refuses to be told redirect_dir=off
  // too.
  const std::string options = "lowerdir=" + by_fd(lower_fd) + ",upperdir=" + by_fd(upper_fd) +
                              ",workdir=" + by_fd(work_fd) +
                              ",userxattr,metacopy=off,index=off,xino=off,volatile";
  HM_ASSIGN(const int error, mount_by_child({lower_fd.get(), upper_fd.get(), work_fd.get()},
                                            dir + "/root", options));
  if (error != 0) {
    return fail(ErrorCode::kRefused,
                std::string("cannot mount overlayfs (") + std::strerror(error) +
                    "): it needs Linux 5.12 or newer, and HM_HOME on a filesystem that can hold an "
                    "upper directory (not another overlay)");
  }
  return Overlay(dir);
}

void Overlay::unmount() {
  if (dir_.empty() || !std::exchange(mounted_, false)) return;
  const std::string path = root();
  if (::umount2(path.c_str(), 0) != 0) ::umount2(path.c_str(), MNT_DETACH);
}

}  // namespace hm::fs
