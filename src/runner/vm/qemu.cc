#include "runner/vm/qemu.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <span>

#include "runner/vm/protocol.h"
#include "store/util/child.h"

namespace hm::runner::vm {

namespace {

constexpr off_t kMostWords = off_t{64} << 10;  // of QEMU's own; a guest can make it complain

// panic=-1 with -no-reboot ends QEMU when the guest's kernel fails. The rest saves time at boot;
// norandmaps at every exec, since emulated code is translated again wherever it lies. The kernel
// takes timers for broken that tick too late, which on a busy host the emulated ones do. What
// protects it from its own processes by means of the processor's speculation, or by clearing memory
// twice, costs emulated code much and hides nothing: a guest is one step's.
constexpr const char* kKernelArguments =
    "console=ttyS0 quiet panic=-1 cryptomgr.notests apparmor=0 audit=0 selinux=0 8250.nr_uarts=1";
constexpr const char* kEmulatedArguments =
    " norandmaps no_timer_check mitigations=off init_on_alloc=0";

// With fast strings the kernel copies by single bytes, which emulated is several times slower than
// by words.
constexpr const char* kEmulatedProcessor = "max,-erms,-fsrm";

std::string number(std::uint64_t value) { return std::to_string(value); }

void add_port(std::vector<std::string>& args, int fd, const char* name, const std::string& id,
              unsigned place) {
  args.insert(
      args.end(),
      {"-chardev", "socket,id=" + id + ",fd=" + number(static_cast<unsigned>(fd)), "-device",
       "virtserialport,chardev=" + id + ",name=" + name + ",nr=" + number(place)});
}

// See QemuUse.
void add_memory(std::vector<std::string>& args, const MachineShape& shape, QemuUse use) {
  const std::string size = number(shape.memory_mib) + "M";
  std::string machine = "q35";
  if (use != QemuUse::kBoot) {
    args.insert(args.end(), {"-object", "memory-backend-file,id=memory,size=" + size +
                                            ",mem-path=/proc/self/fd/" + number(kStateFd) +
                                            ",share=" + (use == QemuUse::kSave ? "on" : "off")});
    machine += ",memory-backend=memory";
  }
  args.insert(args.end(), {"-M", machine, "-m", size});
}

struct Launch {
  int parent = -1;  // a pidfd
  const char* program = nullptr;
  char* const* argv = nullptr;
  char* const* env = nullptr;
  std::span<const std::pair<int, int>> fds;  // all sources above all targets
  int error = 0;
};

int launch_in_child(void* argument) {
  auto* launch = static_cast<Launch*>(argument);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd parent{launch->parent, POLLIN, 0};
  if (::poll(&parent, 1, 0) > 0) return 127;  // it was killed before that: no signal will come
  ::setsid();                                 // the terminal's signals are hm's business
  for (const auto& [fd, as] : launch->fds) ::dup2(fd, as);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(launch->program, launch->argv, launch->env);
  launch->error = errno;
  return 127;
}

Result<Fd> file_for_words() {
  Fd said(::memfd_create("hm-qemu", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!said || ::ftruncate(said.get(), kMostWords) != 0 ||
      ::fcntl(said.get(), F_ADD_SEALS, F_SEAL_GROW) != 0) {
    return fail_errno("memfd_create");
  }
  return said;
}

}  // namespace

std::vector<std::string> qemu_arguments(const MachineShape& shape, QemuUse use) {
  std::vector<std::string> args;
  const auto add = [&args](std::initializer_list<std::string> more) {
    args.insert(args.end(), more.begin(), more.end());
  };
  add({"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox",
       "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
  add_memory(args, shape, use);
  add({"-smp", number(shape.cpus)});
  if (shape.kvm) {
    add({"-accel", "kvm", "-cpu", "host"});
  } else {
    add({"-accel", "tcg,thread=multi", "-cpu", kEmulatedProcessor});
  }
  std::string append = kKernelArguments;
  if (!shape.kvm) append += kEmulatedArguments;
  add({"-kernel", shape.kernel, "-initrd", "/proc/self/fd/" + number(kInitramfsFd), "-append",
       append});
  add({"-chardev", "socket,id=console,fd=" + number(kConsoleFd), "-serial", "chardev:console"});
  add({"-device", "virtio-serial-pci,max_ports=4"});
  add_port(args, kControlFd, kControlPort, "control", 1);
  add_port(args, kRelayFd, kRelayPort, "fuse", 2);
  add_port(args, kChangesFd, kChangesPort, "changes", 3);
  add({"-add-fd", "fd=" + number(kScratchFd) + ",set=1", "-blockdev",
       "driver=file,node-name=scratch,filename=/dev/fdset/1,locking=off,cache.no-flush=on",
       "-device", "virtio-blk-pci,drive=scratch,werror=report,rerror=report"});
  if (shape.network) {
    add({"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="});
  }
  if (use != QemuUse::kBoot) {
    add({"-chardev", "socket,id=monitor,fd=" + number(kMonitorFd), "-mon",
         "chardev=monitor,mode=control"});
  }
  if (use == QemuUse::kRestore) add({"-incoming", "defer"});
  return args;
}

std::string monitor_command(const std::string& name, const std::string& arguments) {
  return R"({"execute":")" + name + R"(","arguments":)" + arguments + "}\n";
}

std::string leave_out_shared_memory() {
  return monitor_command("migrate-set-capabilities",
                         R"({"capabilities":[{"capability":"x-ignore-shared","state":true}]})");
}

std::string restore_commands() {
  return monitor_command("qmp_capabilities") + leave_out_shared_memory() +
         monitor_command("migrate-incoming", R"({"uri":"fd:)" + number(kStateFd) + R"("})");
}

Result<QemuProcess> QemuProcess::start(const std::string& program,
                                       const std::vector<std::string>& arguments,
                                       const std::vector<std::pair<int, int>>& given) {
  HM_ASSIGN(Fd said, file_for_words());
  HM_ASSIGN(const Fd null, open_file("/dev/null", O_RDONLY));
  // What is handed over must not sit on a number that is handed out: everything moves up first.
  std::vector<std::pair<int, int>> fds = given;
  fds.insert(fds.end(), {{null.get(), 0}, {said.get(), 1}, {said.get(), 2}});
  std::vector<Fd> high;
  for (auto& [fd, as] : fds) {
    high.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 100));
    if (!high.back()) return fail_errno("dup");
    fd = high.back().get();
  }
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self) return fail_errno("pidfd_open");
  Launch launch{self.get(), program.c_str(), argv.data(), environ, fds};
  HM_ASSIGN(const pid_t pid, run_child(launch_in_child, &launch, 0));
  QemuProcess process(pid, std::move(said));
  if (launch.error != 0) return fail(system_error(program, launch.error));
  return process;
}

void QemuProcess::end() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  (void)wait_for_child(std::exchange(pid_, -1));
}

std::string QemuProcess::last_words() const {
  std::string text(static_cast<std::size_t>(kMostWords), '\0');
  const ssize_t n = ::pread(said_.get(), text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  text.resize(std::min(text.find('\0'), text.size()));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

}  // namespace hm::runner::vm
