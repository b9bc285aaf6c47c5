#include "runner/vm/guest/command.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "runner/vm/guest/sandbox.h"
#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

using runner::vm::FrameType;
using runner::vm::StepEnd;
using runner::vm::StepOrder;

constexpr const char* kCgroups = "/sys/fs/cgroup";
constexpr const char* kCgroup = "/sys/fs/cgroup/step";
constexpr int kLookEveryMs = 200;

struct Pipe {
  int read = -1;
  int write = -1;
  Pipe() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) fail("pipe");
    read = fds[0];
    write = fds[1];
  }
};

// How often the kernel has killed a process for want of memory, in a cgroup or in all.
long count_of_kills() {
  const std::string counters = read_file("/proc/vmstat");
  const std::size_t at = counters.find("\noom_kill ");
  return at == std::string::npos ? 0 : std::strtol(counters.c_str() + at + 10, nullptr, 10);
}

// The cgroup of a step with limits; without any nothing is mounted.
class StepCgroup {
 public:
  explicit StepCgroup(const StepOrder& order) : used_(order.memory != 0 || order.pids != 0) {
    if (!used_) return;
    mount_or_fail("cgroup2", kCgroups, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    write_file(std::string(kCgroups) + "/cgroup.subtree_control", "+memory +pids", 0644);
    make_directory(kCgroup, 0755);
    if (order.memory != 0) set("memory.max", order.memory);
    if (order.pids != 0) set("pids.max", order.pids);
  }

  void enter(pid_t pid) const {
    if (used_) write_file(std::string(kCgroup) + "/cgroup.procs", std::to_string(pid), 0644);
  }

  bool over_pids() const {
    return used_ && read_file(std::string(kCgroup) + "/pids.events").find("max 0") != 0;
  }

 private:
  static void set(const char* name, std::uint64_t value) {
    write_file(std::string(kCgroup) + "/" + name, std::to_string(value), 0644);
  }
  const bool used_;
};

// Passes on what the command prints until it has ended and its pipes are empty.
class Supervisor {
 public:
  Supervisor(pid_t sandbox, Port& control) : sandbox_(sandbox), control_(control) {}

  void watch(const Pipe& out, const Pipe& err, const Pipe& report) {
    std::array<pollfd, 4> fds = {{{out.read, POLLIN, 0},
                                  {err.read, POLLIN, 0},
                                  {report.read, POLLIN, 0},
                                  {control_.fd(), POLLIN, 0}}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0 || fds[2].fd >= 0) {
      ::poll(fds.data(), fds.size(), kLookEveryMs);
      forward(fds[0], FrameType::kStdout);
      forward(fds[1], FrameType::kStderr);
      take_report(fds[2]);
      if ((fds[3].revents & POLLIN) != 0) obey();
      if (!over_memory_ && count_of_kills() != kills_before_) {
        over_memory_ = true;  // what is left must not make a result without that one
        ::kill(sandbox_, SIGKILL);
      }
    }
  }

  StepEnd finish() {
    ::waitpid(sandbox_, nullptr, 0);  // and with it the whole namespace
    if (count_of_kills() != kills_before_) over_memory_ = true;
    if (!report_ && !over_memory_) fail_plain("something killed the sandbox");
    if (report_ && report_->error != 0) {
      errno = report_->error;
      fail(std::string("the sandbox did not start: ") + report_->task);
    }
    StepEnd end = report_ ? report_->end : StepEnd{};
    end.over_memory = over_memory_;
    return end;
  }

 private:
  void forward(pollfd& item, FrameType type) {
    if (item.fd < 0 || item.revents == 0) return;
    const ssize_t n = ::read(item.fd, buffer_.data(), buffer_.size());
    if (n > 0) control_.send(type, {buffer_.data(), static_cast<std::size_t>(n)});
    if (n == 0) item.fd = -1;
  }

  // The first one says what happened; see refuse() in sandbox.cc.
  void take_report(pollfd& item) {
    if (item.fd < 0 || item.revents == 0) return;
    SandboxReport report;
    const ssize_t n = ::read(item.fd, &report, sizeof report);
    if (n == sizeof report && !report_) report_ = report;
    if (n == 0) item.fd = -1;
  }

  void obey() {
    FrameType type{};
    std::string payload;
    if (!control_.receive(type, payload)) fail_plain("hm is gone");
    if (type == FrameType::kStop) ::kill(-1, SIGTERM);  // all but us; a namespace's init ignores it
  }

  const pid_t sandbox_;
  Port& control_;
  const long kills_before_ = count_of_kills();
  bool over_memory_ = false;
  std::optional<SandboxReport> report_;
  std::array<char, runner::vm::kLongestFromGuest> buffer_{};
};

}  // namespace

StepEnd run_command(const StepOrder& order, const std::string& root, Port& control) {
  const StepCgroup cgroup(order);
  const Pipe out, err, report, go;
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0) fail("/dev/null");
  // The next process forked is the init of the namespace. No thread can be made from here on.
  if (::unshare(CLONE_NEWPID) != 0) fail("unshare");
  const pid_t sandbox = ::fork();
  if (sandbox < 0) fail("fork");
  if (sandbox == 0) {
    char word = 0;
    if (::read(go.read, &word, 1) != 1) ::_exit(1);
    enter_sandbox(order, root, {null, out.write, err.write, report.write});
  }
  cgroup.enter(sandbox);
  Supervisor supervisor(sandbox, control);
  control.send(FrameType::kStarted, "");
  (void)!::write(go.write, "g", 1);
  for (const int fd : {out.write, err.write, report.write, go.read, null}) ::close(fd);
  supervisor.watch(out, err, report);
  StepEnd end = supervisor.finish();
  end.over_pids = cgroup.over_pids();
  return end;
}

}  // namespace hm::guest
