#include "runner/vm/guest/root.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

constexpr const char* kDisk = "/dev/vda";

void make_upper_directory(const runner::vm::GuestDirectory& directory) {
  std::string path = upper_directory();
  if (!directory.path.empty()) path += "/" + directory.path;
  make_directory(path, 0700);
  if (::chown(path.c_str(), directory.uid, directory.gid) != 0 ||
      ::chmod(path.c_str(), directory.mode) != 0) {
    fail(path);
  }
  for (const auto& [name, value] : directory.xattrs) {
    if (::setxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0) != 0) fail(path);
  }
  if (directory.opaque && ::setxattr(path.c_str(), "user.overlay.opaque", "y", 1, 0) != 0) {
    fail(path);
  }
}

}  // namespace

std::string upper_directory() { return std::string(kScratch) + "/upper"; }

void mount_scratch() {
  const std::string scratch = kScratch;
  make_directory(scratch, 0700);
  mount_or_fail(kDisk, scratch, "ext4", MS_NOATIME, "noinit_itable,nobarrier");
  for (const char* name : {"/work", "/root"}) make_directory(scratch + name, 0700);
}

std::string make_root(const runner::vm::StepOrder& order) {
  for (const runner::vm::GuestDirectory& directory : order.directories) {
    make_upper_directory(directory);
  }
  const std::string scratch = kScratch;
  const std::string root = scratch + "/root";
  // As on the host, see fs/overlay.cc.
  mount_or_fail("overlay", root, "overlay", MS_NODEV,
                "lowerdir=" + std::string(kServed) + ",upperdir=" + upper_directory() +
                    ",workdir=" + scratch +
                    "/work,userxattr,metacopy=off,index=off,xino=off,volatile");
  return root;
}

}  // namespace hm::guest
