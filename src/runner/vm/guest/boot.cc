#include "runner/vm/guest/boot.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

constexpr const char* kModules = "/modules";
constexpr const char* kBase = "/base";
constexpr const char* kErrorsOnly = "4";  // of what the kernel has to say, on the console

std::vector<std::string> sorted_names(const char* path) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(path);
  if (dir == nullptr) return names;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

// In the order of their names; hm has put those that others need first. The files are not needed
// again, and what they take would be a part of every saved guest.
void load_modules() {
  for (const std::string& name : sorted_names(kModules)) {
    const std::string path = std::string(kModules) + "/" + name;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(path);
    if (::syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) fail("module " + name);
    ::close(fd);
    ::unlink(path.c_str());
  }
}

void mount_kernel_filesystems() {
  mount_or_fail("devtmpfs", "/dev", "devtmpfs", MS_NOSUID);
  mount_or_fail("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_or_fail("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC);
}

void move_to_own_root() {
  const std::string base = kBase;
  make_directory(base, 0755);
  mount_or_fail("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  for (const char* path : {"/dev", "/proc", "/sys"}) {
    make_directory(base + path, 0755);
    if (::mount(path, (base + path).c_str(), nullptr, MS_MOVE, nullptr) != 0) fail(path);
  }
  ::unlink("/init");
  if (::chdir(kBase) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 ||
      ::chroot(".") != 0 || ::chdir("/") != 0) {
    fail("cannot enter a root of its own");
  }
}

}  // namespace

void boot() {
  ::umask(0);
  ::signal(SIGPIPE, SIG_IGN);
  mount_kernel_filesystems();
  write_file("/proc/sys/kernel/printk", kErrorsOnly, 0644);
  load_modules();
  move_to_own_root();
}

}  // namespace hm::guest
