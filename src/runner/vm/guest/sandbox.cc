#include "runner/vm/guest/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runner/become/take_ids.h"
#include "runner/vm/guest/network.h"

namespace hm::guest {

namespace {

using runner::vm::StepEnd;
using runner::vm::StepOrder;

constexpr unsigned long kPlain = MS_NOSUID | MS_NODEV;

// What is writable in /proc for root and reaches the whole machine; covered like bubblewrap does.
constexpr std::array<const char*, 4> kCoveredInProc = {"sys", "sysrq-trigger", "irq", "bus"};
constexpr std::array<const char*, 6> kDevices = {"null",   "zero",    "full",
                                                 "random", "urandom", "tty"};
struct Link {
  const char* target;
  const char* name;
};
constexpr std::array<Link, 6> kDeviceLinks = {{{"/proc/self/fd", "fd"},
                                               {"/proc/self/fd/0", "stdin"},
                                               {"/proc/self/fd/1", "stdout"},
                                               {"/proc/self/fd/2", "stderr"},
                                               {"/proc/kcore", "core"},
                                               {"pts/ptmx", "ptmx"}}};

class Setup {
 public:
  Setup(const StepOrder& order, const std::string& root, const SandboxPipes& pipes)
      : order_(order), root_(root), pipes_(pipes) {}

  [[noreturn]] void run() {
    keep_only_pipes();
    check(::unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) == 0, "unshare");
    check(::sethostname(order_.hostname.data(), order_.hostname.size()) == 0, "hostname");
    ::setsid();
    ::umask(0);
    mount_everything();
    ::umask(022);
    restrict_process();
    const pid_t command = ::fork();
    check(command >= 0, "fork");
    if (command == 0) execute();
    report_end(command);
  }

 private:
  // --- reporting ---

  void send_report() const { (void)!::write(pipes_.report, &report_, sizeof report_); }

  void check(bool good, const std::string& task) {
    if (good) return;
    report_.error = errno;
    std::strncpy(report_.task, task.c_str(), sizeof report_.task - 1);
    send_report();
    ::_exit(1);
  }

  [[noreturn]] void report_end(pid_t command) {
    ::close(pipes_.output);
    ::close(pipes_.error);
    int status = 0;
    for (pid_t ended = 0; ended != command;) ended = ::wait(&status);  // orphans end here, too
    if (WIFSIGNALED(status)) {
      report_.end.kind = StepEnd::Kind::kSignalled;
      report_.end.number = static_cast<std::uint32_t>(WTERMSIG(status));
    } else {
      report_.end.number = static_cast<std::uint32_t>(WEXITSTATUS(status));
    }
    send_report();
    ::_exit(0);
  }

  // --- in the init of the namespace ---

  // The ports of this machine are nobody's business from here on.
  void keep_only_pipes() {
    std::array<int, 4> kept = {pipes_.input, pipes_.output, pipes_.error, pipes_.report};
    std::sort(kept.begin(), kept.end());
    unsigned from = 0;
    for (const int fd : kept) {
      const auto number = static_cast<unsigned>(fd);
      if (from < number) ::syscall(SYS_close_range, from, number - 1, 0U);
      from = number + 1;
    }
    ::syscall(SYS_close_range, from, ~0U, 0U);
    ::prctl(PR_SET_DUMPABLE, 0);  // no process of the command looks into this one
  }

  std::string in_root(const std::string& path) const { return root_ + path; }

  void mount_at(const char* source, const std::string& target, const char* type,
                unsigned long flags, const char* options = "") {
    check(::mount(source, target.c_str(), type, flags, options) == 0, "mount " + target);
  }

  void bind(const std::string& source, const std::string& target, unsigned long flags) {
    mount_at(source.c_str(), target, nullptr, MS_BIND | MS_REC);
    mount_at(nullptr, target, nullptr, MS_BIND | MS_REMOUNT | MS_NOSUID | flags);
  }

  void mount_everything() {
    mount_at(nullptr, "/", nullptr, MS_REC | MS_PRIVATE);
    bind(root_, root_, MS_NODEV);
    mount_proc();
    mount_devices();
    bind("/sys", in_root("/sys"), MS_RDONLY | MS_NODEV);
    mount_at("tmpfs", in_root("/run"), "tmpfs", kPlain, "mode=0755");
    mount_at(nullptr, in_root("/proc"), nullptr,
             MS_BIND | MS_REMOUNT | MS_RDONLY | kPlain | MS_NOEXEC);
    for (std::size_t i = 0; i < order_.files.size(); ++i) bind_file(i);
    check(::chdir(root_.c_str()) == 0, "chdir");
    check(::syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
    check(::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0, "leave the guest's root");
  }

  void mount_proc() {
    mount_at("proc", in_root("/proc"), "proc", kPlain | MS_NOEXEC);
    for (const char* name : kCoveredInProc) {
      const std::string path = in_root("/proc/") + name;
      if (::access(path.c_str(), F_OK) == 0) {
        bind(path, path, MS_RDONLY | MS_NODEV | MS_NOEXEC);
      }
    }
  }

  void mount_devices() {
    const std::string dev = in_root("/dev");
    mount_at("tmpfs", dev, "tmpfs", kPlain, "mode=0755");
    for (const char* name : kDevices) {
      const std::string path = dev + "/" + name;
      const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
      check(fd >= 0, path);
      ::close(fd);
      bind(std::string("/dev/") + name, path, MS_RDONLY);  // it can be written all the same
    }
    for (const Link& link : kDeviceLinks) {
      check(::symlink(link.target, (dev + "/" + link.name).c_str()) == 0, link.name);
    }
    check(::mkdir((dev + "/shm").c_str(), 0755) == 0, "/dev/shm");
    check(::mkdir((dev + "/pts").c_str(), 0755) == 0, "/dev/pts");
    mount_at("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC,
             "newinstance,ptmxmode=0666,mode=620");
  }

  // Masks of files that this kernel does not have are left out, as on the host.
  void bind_file(std::size_t number) {
    const std::string target = in_root(order_.files[number].path);
    if (::access(target.c_str(), F_OK) != 0 && target.starts_with(in_root("/proc/"))) return;
    bind("/files/" + std::to_string(number), target, MS_RDONLY | MS_NODEV);
  }

  void restrict_process() {
    for (const runner::vm::GuestLimit& limit : order_.limits) {
      const rlimit value{limit.soft, limit.hard};
      check(::setrlimit(static_cast<__rlimit_resource>(limit.resource), &value) == 0, "setrlimit");
    }
    std::array<__user_cap_data_struct, 2> data{};
    for (const std::uint32_t capability : order_.capabilities) {
      __user_cap_data_struct& word = data.at(capability / 32 % 2);
      word.effective |= 1U << capability % 32;
    }
    for (__user_cap_data_struct& word : data) word.permitted = word.inheritable = word.effective;
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    check(::syscall(SYS_capset, &header, data.data()) == 0, "capset");
    for (const std::uint32_t capability : order_.capabilities) {
      check(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0, "capabilities");
    }
  }

  // --- the command ---

  [[noreturn]] void execute() {
    for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::dup2(pipes_.input, 0);
    ::dup2(pipes_.output, 1);
    ::dup2(pipes_.error, 2);
    ::fcntl(pipes_.report, F_SETFD, FD_CLOEXEC);
    ::prctl(PR_SET_DUMPABLE, 1);
    if (::chdir(order_.cwd.c_str()) != 0) refuse(StepEnd::Kind::kNoDirectory);
    ::clearenv();
    for (const std::string& item : order_.env) ::putenv(const_cast<char*>(item.c_str()));
    std::vector<char*> argv;
    for (const std::string& word : order_.argv) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    if (order_.uid != 0 || order_.gid != 0) {
      check(runner::take_ids(order_.uid, order_.gid, order_.groups), "become the image's user");
    }
    install_filter();
    ::execvp(argv[0], argv.data());
    refuse(errno == ENOENT ? StepEnd::Kind::kNoProgram : StepEnd::Kind::kNotExecutable);
  }

  void install_filter() {
    if (order_.filter.empty()) return;
    std::vector<sock_filter> rules(order_.filter.size() / sizeof(sock_filter));
    std::memcpy(rules.data(), order_.filter.data(), rules.size() * sizeof(sock_filter));
    const sock_fprog program{static_cast<unsigned short>(rules.size()), rules.data()};
    check(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "filter of system calls");
  }

  // The init of the namespace is to say no more: it finds this process ended, and its own report
  // comes behind this one.
  [[noreturn]] void refuse(StepEnd::Kind kind) {
    report_.end.kind = kind;
    send_report();
    ::_exit(126);
  }

  const StepOrder& order_;
  const std::string& root_;
  const SandboxPipes& pipes_;
  SandboxReport report_;
};

}  // namespace

void enter_sandbox(const StepOrder& order, const std::string& root, const SandboxPipes& pipes) {
  Setup(order, root, pipes).run();
}

}  // namespace hm::guest
