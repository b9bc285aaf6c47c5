#include "fs/overlay.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>

#include "fs/overlay_xattr.h"
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

}  // namespace

Status Overlay::add_opaque_directory(const View& view, const std::string& dir,
                                     const std::string& path) {
  HM_TRY(make_directories(dir + "/upper", 0700));
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
  if (::mount("overlay", (dir + "/root").c_str(), "overlay", MS_NODEV, options.c_str()) != 0) {
    return fail(ErrorCode::kRefused,
                std::string("cannot mount overlayfs (") + std::strerror(errno) +
                    "): it needs Linux 5.11 or newer, and HM_HOME on a filesystem that can hold an "
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
