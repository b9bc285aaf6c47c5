#include "runner/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>

#include "runner/become/take_ids.h"
#include "runner/isolation.h"
#include "runner/system_calls.h"
#include "store/util/child.h"

extern "C" {
// From embed.sh, which the build runs.
extern const char hm_become_begin[];
extern const char hm_become_end[];
}

namespace hm::runner {

namespace {

using Clock = std::chrono::steady_clock;

// Above all numbers that descriptors are given out under.
constexpr int kAboveGiven = 100;

// How long a stopped step may take to end by itself after TERM.
constexpr std::chrono::seconds kGrace{3};

// How often a cgroup is asked whether the kernel has ended a process in it.
constexpr int kLookEveryMs = 200;

// Files of the host that a step sees, and that nobody observes: name resolution only.
constexpr std::array<const char*, 2> kHostFiles = {"/etc/resolv.conf", "/etc/hosts"};
constexpr const char* kHostnameFile = "/etc/hostname";

// What /proc tells of the host that is no business of a step: shown empty.
constexpr std::array<const char*, 2> kMaskedFiles = {"/proc/keys", "/proc/key-users"};

// Soft and hard limits of a step, where the caller's hard limit allows.
struct LimitRow {
  int resource;
  const char* name;
  rlim_t soft;
  rlim_t hard;
};
constexpr std::array<LimitRow, RLIM_NLIMITS> kLimits = {
    {{RLIMIT_NOFILE, "nofile", 65536, 65536},
     {RLIMIT_CORE, "core", 0, 0},
     {RLIMIT_STACK, "stack", 8 << 20, RLIM_INFINITY},
     {RLIMIT_MEMLOCK, "memlock", 8 << 20, 8 << 20},
     {RLIMIT_MSGQUEUE, "msgqueue", 819200, 819200},
     {RLIMIT_NICE, "nice", 0, 0},
     {RLIMIT_RTPRIO, "rtprio", 0, 0},
     {RLIMIT_AS, "as", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_CPU, "cpu", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_DATA, "data", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_FSIZE, "fsize", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_LOCKS, "locks", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_NPROC, "nproc", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_RSS, "rss", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_RTTIME, "rttime", RLIM_INFINITY, RLIM_INFINITY},
     {RLIMIT_SIGPENDING, "sigpending", RLIM_INFINITY, RLIM_INFINITY}}};

struct Pipe {
  Fd read, write;
  static Result<Pipe> make() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) return fail_errno("pipe");
    return Pipe{Fd(fds[0]), Fd(fds[1])};
  }
};

// The child of this thread; killed and reaped when it goes out of scope.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    (void)wait();
  }
  int wait() {
    const int status = wait_for_child(std::exchange(pid_, -1));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

// Calls `visit` with the number of every process until it returns true; that number, or -1.
template <class Visit>
pid_t find_process(Visit visit) {
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return -1;
  pid_t found = -1;
  while (const dirent* entry = found < 0 ? ::readdir(proc) : nullptr) {
    const auto pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid > 0 && visit(pid)) found = pid;
  }
  ::closedir(proc);
  return found;
}

pid_t parent_of(pid_t pid) {
  const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat").value_or("");
  const std::size_t name_end = stat.rfind(')');  // behind it: the state, the parent
  if (name_end == std::string::npos || name_end + 4 > stat.size()) return -1;
  return static_cast<pid_t>(std::strtol(stat.c_str() + name_end + 4, nullptr, 10));
}

// Sends `signal` to every process in the pid namespace of `init` but `init` itself.
void signal_namespace(pid_t init, int signal) {
  const auto namespace_of = [](pid_t pid) {
    return read_link_at(AT_FDCWD, "/proc/" + std::to_string(pid) + "/ns/pid").value_or("");
  };
  const std::string wanted = namespace_of(init);
  if (wanted.empty()) return;
  (void)find_process([&](pid_t pid) {
    if (pid != init && namespace_of(pid) == wanted) ::kill(pid, signal);
    return false;
  });
}

// The number behind `"name":` in bubblewrap's status lines, or -1.
long status_number(const std::string& status, const char* name) {
  const std::string field = std::string("\"") + name + "\":";
  const std::size_t at = status.find(field);
  return at == std::string::npos ? -1
                                 : std::strtol(status.c_str() + at + field.size(), nullptr, 10);
}

// Watches the pipes, the clock and the stop request until the command has ended.
class Supervisor {
 public:
  Supervisor(pid_t sandbox, const Command& command, const Cgroup* cgroup,
             const Backend::Output& output, const std::stop_token& stop)
      : sandbox_(sandbox), cgroup_(cgroup), output_(output), stop_(stop) {
    if (command.timeout) deadline_ = Clock::now() + *command.timeout;
  }

  Status watch(const Fd& out, const Fd& err, const Fd& status, const Fd& wake) {
    std::array<pollfd, 4> fds = {{{out.get(), POLLIN, 0},
                                  {err.get(), POLLIN, 0},
                                  {status.get(), POLLIN, 0},
                                  {wake.get(), POLLIN, 0}}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0 || fds[2].fd >= 0) {
      if (::poll(fds.data(), fds.size(), wait_ms()) < 0 && errno != EINTR)
        return fail_errno("poll");
      HM_TRY(drain(fds[0], [&](std::string_view data) { output_(Stream::kStdout, data); }));
      HM_TRY(drain(fds[1], [&](std::string_view data) { output_(Stream::kStderr, data); }));
      HM_TRY(drain(fds[2], [&](std::string_view data) { status_.append(data); }));
      if (fds[3].revents != 0) fds[3].fd = -1;  // told once
      check_stop();
    }
    return {};
  }

  const std::string& status() const { return status_; }
  bool timed_out() const { return timed_out_; }
  bool cancelled() const { return cancelled_; }
  bool over_memory() const {
    return over_memory_ || (cgroup_ != nullptr && cgroup_->over_memory());
  }

 private:
  // Milliseconds until something has to be looked at; -1: only what the descriptors bring.
  int wait_ms() const {
    const int wait = wait_for_clock_ms();
    if (cgroup_ == nullptr || killed_) return wait;
    return wait < 0 ? kLookEveryMs : std::min(wait, kLookEveryMs);
  }

  int wait_for_clock_ms() const {
    const std::optional<Clock::time_point> none;
    const auto& until = killed_ ? none : kill_at_ ? kill_at_ : deadline_;
    if (!until) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Clock::now());
    return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
  }

  template <class Take>
  Status drain(pollfd& item, Take take) {
    if (item.fd < 0 || item.revents == 0) return {};
    std::array<char, 65536> buffer{};
    const ssize_t n = ::read(item.fd, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return {};
    if (n < 0) return fail_errno("read");
    if (n == 0) {
      item.fd = -1;  // poll ignores it from now on
    } else {
      take(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
    }
    return {};
  }

  void check_stop() {
    const auto now = Clock::now();
    if (!kill_at_) {
      cancelled_ = stop_.stop_requested();
      timed_out_ = !cancelled_ && deadline_ && now >= *deadline_;
      // The kernel ended one process of it; the others must not make a result without that one.
      over_memory_ = !cancelled_ && !timed_out_ && over_memory();
      if (!cancelled_ && !timed_out_ && !over_memory_) return;
      const pid_t init = find_process([&](pid_t pid) { return parent_of(pid) == sandbox_; });
      kill_at_ = now;  // nobody to ask: the command was not started yet, or has lost a part
      if (init > 0 && !over_memory_) {
        kill_at_ = now + kGrace;
        signal_namespace(init, SIGTERM);
      }
    }
    if (!killed_ && now >= *kill_at_) {
      ::kill(sandbox_, SIGKILL);  // the pid namespace goes with its init
      killed_ = true;
    }
  }

  const pid_t sandbox_;  // bubblewrap itself
  const Cgroup* const cgroup_;
  const Backend::Output& output_;
  const std::stop_token& stop_;
  std::string status_;
  std::optional<Clock::time_point> deadline_;
  std::optional<Clock::time_point> kill_at_;
  bool killed_ = false, timed_out_ = false, cancelled_ = false, over_memory_ = false;
};

// What the child does before it becomes bubblewrap.
struct Launch {
  int parent = -1;  // a pidfd
  int program = -1;
  char* const* argv = nullptr;
  char* const* env = nullptr;
  std::span<const std::pair<int, int>> fds;  // descriptor → the number it gets; all sources above
  std::span<const Fd> cgroups;               // to be entered
  int error = 0;                             // what went wrong
  const char* task = "start in a pid namespace of its own";
};

int launch_in_child(void* argument) {
  auto* launch = static_cast<Launch*>(argument);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd parent{launch->parent, POLLIN, 0};
  if (::poll(&parent, 1, 0) > 0) return 127;  // it was killed before that: no signal will come
  // bubblewrap looks its own child up in /proc by number, which must be the namespace's.
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    launch->error = errno;
    return 127;
  }
  for (const Fd& entrance : launch->cgroups) {
    if (::write(entrance.get(), "0", 1) == 1) continue;
    launch->error = errno;
    launch->task = "enter its cgroup";
    return 127;
  }
  for (const auto& [fd, as] : launch->fds) ::dup2(fd, as);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::fexecve(launch->program, launch->argv, launch->env);
  launch->error = errno;
  return 127;
}

// bubblewrap is the init of a pid namespace around the sandbox's own: its child waits for it before
// it asks the kernel to die with its parent, and would wait for ever should bubblewrap die before.
// With an init, the kernel kills whoever is left. No signal for our process group reaches an init.
Result<pid_t> spawn(const std::string& bubblewrap, const std::vector<std::string>& command,
                    std::span<const std::pair<int, int>> fds, std::span<const Fd> cgroups) {
  // A step reaches this program as /proc/1/exe, and could change its mode as root.
  HM_ASSIGN(const Fd clone, read_only_clone(bubblewrap));
  const Fd program(::fcntl(clone.get(), F_DUPFD_CLOEXEC, kAboveGiven));
  if (!program) return fail_errno("dup");
  std::vector<std::string> words = {"bwrap", "--args", std::to_string(kArgsFd), "--"};
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<char*, 1> env = {nullptr};
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self) return fail_errno("pidfd_open");
  Launch launch{self.get(), program.get(), argv.data(), env.data(), fds, cgroups};
  HM_ASSIGN(const pid_t pid, run_child(launch_in_child, &launch, CLONE_NEWPID | CLONE_NEWNS));
  if (launch.error == 0) return pid;
  (void)wait_for_child(pid);
  return fail(system_error(bubblewrap + " cannot " + launch.task, launch.error));
}

// become.cc, as it was built: a descriptor that bubblewrap can start it from.
Result<Fd> become_program() {
  Fd fd(::memfd_create("hm-become", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  const auto size = static_cast<std::size_t>(hm_become_end - hm_become_begin);
  HM_TRY(write_all(fd.get(), {hm_become_begin, size}));
  return fd;
}

// The command through that program.
std::vector<std::string> as_user(const image::UserIds& user,
                                 const std::vector<std::string>& command) {
  std::string groups;
  for (const std::uint32_t group : user.groups) {
    groups += (groups.empty() ? "" : ",") + std::to_string(group);
  }
  std::vector<std::string> out = {"/proc/self/fd/" + std::to_string(kBecomeFd),
                                  std::to_string(user.uid), std::to_string(user.gid), groups};
  out.insert(out.end(), command.begin(), command.end());
  return out;
}

}  // namespace

Result<std::string> find_bubblewrap() {
  if (auto path = find_program("bwrap")) return std::move(*path);
  return fail(ErrorCode::kRefused,
              "bubblewrap (bwrap) is not in PATH: install it (apt-get install bubblewrap)");
}

Status make_host_files(const std::string& dir) {
  HM_TRY(write_file_atomically(dir + "/hostname", std::string(kHostname) + "\n", 0644));
  return write_file_atomically(dir + "/empty", "", 0644);
}

HostFiles host_files(const std::string& dir) {
  HostFiles files;
  const std::string empty = dir + "/empty";
  files.emplace_back(kHostnameFile, dir + "/hostname");
  for (const char* path : kMaskedFiles) {
    if (::access(path, F_OK) == 0) files.emplace_back(path, empty);
  }
  for (const char* path : kHostFiles) {
    const std::string real = real_path(path);
    files.emplace_back(path, ::access(real.c_str(), R_OK) == 0 ? real : empty);
  }
  return files;
}

std::vector<std::string> bubblewrap_arguments(const std::string& root, const HostFiles& files,
                                              const Command& command) {
  std::vector<std::string> args;
  const auto add = [&](std::initializer_list<std::string> more) {
    args.insert(args.end(), more.begin(), more.end());
  };
  add({"--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--new-session",
       "--die-with-parent", "--hostname", kHostname, "--json-status-fd", std::to_string(kStatusFd),
       "--seccomp", std::to_string(kFilterFd)});
  if (command.network == Network::kNone) add({"--unshare-net"});
  if (root.empty()) {  // a probe of the machine, not a step
    add({"--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"});
    return args;
  }
  add({"--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys",
       "--tmpfs", "/run"});
  // As root the kernel's settings would be writable (core_pattern runs programs on the host), and
  // modes of files in /proc are the same in every instance of it.
  add({"--remount-ro", "/proc"});
  for (const auto& [path, host] : files) add({"--ro-bind", host, path});
  add({"--cap-drop", "ALL"});
  for (const Capability& capability : kCapabilities) add({"--cap-add", capability.name});
  add({"--clearenv"});
  for (const auto& [name, value] : command.env) add({"--setenv", name, value});
  add({"--chdir", command.directory()});
  return args;
}

Result<Fd> arguments_file(const std::vector<std::string>& args) {
  Fd fd(::memfd_create("hm-args", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  std::string bytes;
  for (const std::string& arg : args) {
    bytes += arg;
    bytes.push_back('\0');
  }
  HM_TRY(write_all(fd.get(), bytes));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return fail_errno("lseek");
  return fd;
}

Status mask_host_directories() {
  for (const char* path : kMaskedDirectories) {
    const int flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::mount("tmpfs", path, "tmpfs", flags, "mode=0755,nr_inodes=1") != 0 && errno != ENOENT) {
      return fail_errno(path);
    }
  }
  return {};
}

void apply_limits() {
  for (const LimitRow& row : kLimits) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource>(row.resource), &limit) != 0) continue;
    limit.rlim_max = std::min(limit.rlim_max, row.hard);
    limit.rlim_cur = std::min(limit.rlim_max, row.soft);
    ::setrlimit(static_cast<__rlimit_resource>(row.resource), &limit);
  }
}

std::vector<StepLimit> current_limits() {
  std::vector<StepLimit> out;
  for (const LimitRow& row : kLimits) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource>(row.resource), &limit) != 0) continue;
    out.push_back({row.resource, limit.rlim_cur, limit.rlim_max});
  }
  return out;
}

std::string limits_description() {
  std::string out;
  for (const LimitRow& row : kLimits) {
    rlimit limit{};
    ::getrlimit(static_cast<__rlimit_resource>(row.resource), &limit);
    out += std::string(row.name) + "=" + std::to_string(limit.rlim_cur) + ":" +
           std::to_string(limit.rlim_max) + ";";
  }
  return out;
}

Status check_bubblewrap(const std::string& bubblewrap) {
  Command probe;
  probe.argv = {"true"};
  probe.env = {{"PATH", "/usr/bin:/bin"}};
  HM_ASSIGN(const SandboxExit exit,
            run_sandboxed(bubblewrap, "", {}, probe, nullptr, [](Stream, std::string_view) {}, {}));
  if (exit.exit_code == 0) return {};
  return fail(ErrorCode::kRefused, "bubblewrap cannot run `true` on this machine (exit " +
                                       std::to_string(exit.exit_code) + ")");
}

std::string sandbox_description() {
  std::string out =
      "bwrap 2; user 0:0; umask 022; stdin /dev/null; /proc(ro) /dev /sys(ro) /run(tmpfs)"
      "; hostname ";
  out += kHostname;
  for (const char* path : kHostFiles) out += std::string("; ") + path;
  for (const char* path : kMaskedFiles) out += std::string("; ") + path;
  for (const char* path : kMaskedDirectories) out += std::string("; ") + path;
  for (const Capability& capability : kCapabilities) out += std::string("; ") + capability.name;
  out += "; " + system_calls_description();
  return out;
}

Result<SandboxExit> run_sandboxed(const std::string& bubblewrap, const std::string& root,
                                  const HostFiles& files, const Command& command,
                                  const Cgroup* cgroup, const Backend::Output& output,
                                  const std::stop_token& stop) {
  HM_ASSIGN(Pipe out, Pipe::make());
  HM_ASSIGN(Pipe err, Pipe::make());
  HM_ASSIGN(Pipe status, Pipe::make());
  HM_ASSIGN(const Fd null, open_file("/dev/null", O_RDONLY));
  HM_ASSIGN(Fd args, arguments_file(bubblewrap_arguments(root, files, command)));
  HM_ASSIGN(const Fd filter, system_call_filter());
  // Descriptors 0-2 and three more are bubblewrap's, and one the command's when it runs as a user;
  // everything else is close-on-exec.
  // What is handed over must not sit on a number that is handed out: move everything up first.
  std::vector<std::pair<int, int>> given = {{null.get(), 0},
                                            {out.write.get(), 1},
                                            {err.write.get(), 2},
                                            {args.get(), kArgsFd},
                                            {status.write.get(), kStatusFd},
                                            {filter.get(), kFilterFd}};
  std::vector<std::string> argv = command.argv;
  Fd become;
  if (command.user) {
    HM_ASSIGN(become, become_program());
    given.emplace_back(become.get(), kBecomeFd);
    argv = as_user(*command.user, command.argv);
  }
  std::vector<Fd> high;
  for (auto& [fd, as] : given) {
    high.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, kAboveGiven));
    if (!high.back()) return fail_errno("dup");
    fd = high.back().get();
  }
  const Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return fail_errno("eventfd");
  const std::stop_callback on_stop(stop, [&] {
    const std::uint64_t one = 1;
    (void)!::write(wake.get(), &one, sizeof one);
  });

  const auto entrances =
      cgroup != nullptr ? std::span<const Fd>(cgroup->entrances()) : std::span<const Fd>();
  HM_ASSIGN(const pid_t pid, spawn(bubblewrap, argv, given, entrances));
  Child child(pid);
  high.clear();
  out.write.reset();
  err.write.reset();
  status.write.reset();

  std::string sandbox_says;  // stderr, should bubblewrap itself fail
  const Backend::Output keep = [&](Stream stream, std::string_view bytes) {
    if (stream == Stream::kStderr && sandbox_says.size() < 4096) sandbox_says.append(bytes);
    output(stream, bytes);
  };
  Supervisor supervisor(pid, command, cgroup, keep, stop);
  HM_TRY(supervisor.watch(out.read, err.read, status.read, wake));
  const int exit_code = child.wait();

  SandboxExit result{exit_code, supervisor.timed_out(), supervisor.cancelled(),
                     supervisor.over_memory()};
  const bool command_ran = status_number(supervisor.status(), "exit-code") >= 0;
  if (!command_ran && !result.timed_out && !result.cancelled && !result.over_memory) {
    const std::string line = sandbox_says.substr(0, sandbox_says.find('\n'));
    if (line.starts_with("bwrap: Can't chdir to ")) {  // the pipeline's mistake, or its parent's
      result.exit_code = 126;
      return result;
    }
    if (line.starts_with("bwrap: execvp ")) {  // as a shell would say: not found, not executable
      result.exit_code = line.ends_with(std::strerror(ENOENT)) ? 127 : 126;
      return result;
    }
    return fail(ErrorCode::kRefused, line.empty() ? "something killed the sandbox"
                                                  : "the sandbox did not start: " + line);
  }
  if (result.over_memory) result.exit_code = 137;
  if (result.timed_out) result.exit_code = 124;
  return result;
}

}  // namespace hm::runner
