// The init of the guest that hm's guests are measured against: its root comes from virtiofsd.
//
// Everything else is as in a guest of hm: the kernel, its modules, the scratch disk, the overlay.
// The command is a file of the initramfs; what it prints goes to the control port, without frames,
// and behind it "status N". A byte from there turns the machine off.
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "runner/vm/guest/boot.h"
#include "runner/vm/guest/port.h"
#include "runner/vm/guest/root.h"
#include "runner/vm/guest/system.h"

namespace {

using namespace hm::guest;

void serve_root() {
  make_directory(kServed, 0700);
  mount_or_fail("bench", kServed, "virtiofs", MS_RDONLY | MS_NOSUID | MS_NODEV);
}

std::string make_step_root() {
  hm::runner::vm::StepOrder order;
  order.directories = {{"", 0755, 0, 0, false, {}}};
  mount_scratch();
  std::string root = make_root(order);
  for (const char* name : {"/proc", "/dev", "/sys", "/run"}) make_directory(root + name, 0755);
  mount_or_fail("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_or_fail("/dev", root + "/dev", "", MS_BIND);
  mount_or_fail("/sys", root + "/sys", "", MS_BIND);
  mount_or_fail("tmpfs", root + "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  return root;
}

[[noreturn]] void execute(const std::string& root, const std::string& command, int output) {
  ::dup2(output, 1);
  ::dup2(output, 2);
  if (::chroot(root.c_str()) != 0 || ::chdir("/workspace") != 0) ::_exit(126);
  ::setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  ::setenv("HOME", "/root", 1);
  ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
  ::_exit(127);
}

// The status of the command, as wait(2) has it.
int run(const std::string& root, const std::string& command, Port& control) {
  int pipe[2];
  if (::pipe(pipe) != 0) fail("pipe");
  const pid_t pid = ::fork();
  if (pid < 0) fail("fork");
  if (pid == 0) execute(root, command, pipe[1]);
  ::close(pipe[1]);
  std::array<char, 4096> buffer;
  for (ssize_t n = 0; (n = ::read(pipe[0], buffer.data(), buffer.size())) > 0;) {
    (void)control.write({buffer.data(), static_cast<std::size_t>(n)});
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return status;
}

}  // namespace

int main() {
  const std::string command = read_file("/command");
  boot();
  Port control(hm::runner::vm::kControlPort);
  serve_root();
  const int status = run(make_step_root(), command, control);
  (void)control.write("status " + std::to_string(status) + "\n");
  char byte = 0;
  (void)control.read(&byte, 1);
  ::reboot(RB_AUTOBOOT);
  ::_exit(0);
}
