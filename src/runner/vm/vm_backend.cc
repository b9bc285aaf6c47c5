// The `vm` backend: each step in a virtual machine of its own, whose root hmfs serves through a
// port. One fresh guest per attempt, which no other step has touched.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <sstream>

#include "fs/overlay_xattr.h"
#include "fs/upper_archive.h"
#include "runner/attempt.h"
#include "runner/backend.h"
#include "runner/graph.h"
#include "runner/sandbox.h"
#include "runner/system_calls.h"
#include "runner/vm/hypervisor.h"
#include "runner/vm/initramfs.h"

namespace hm::runner {

namespace {

using vm::Clock;
using vm::Frame;
using vm::FrameType;
using vm::Hypervisor;
using vm::Machine;
using vm::StepEnd;
using vm::StepOrder;

constexpr std::chrono::seconds kGrace{10};  // between TERM and the end of the machine
constexpr std::size_t kEntropyBytes = 64;
constexpr std::size_t kLeastPerSecond = std::size_t{256} << 10;  // bytes of what a step wrote
constexpr int kMachineFailed = 125;  // the exit code of a step whose machine broke down

// QEMU's user network: its name server, which asks those of the host.
constexpr const char* kNameServer = "nameserver 10.0.2.3\n";

int code_of(const StepEnd& end) {
  switch (end.kind) {
    case StepEnd::Kind::kExited:
      return static_cast<int>(end.number);
    case StepEnd::Kind::kSignalled:
      return 128 + static_cast<int>(end.number);
    case StepEnd::Kind::kNoProgram:
      return 127;
    case StepEnd::Kind::kNoDirectory:
    case StepEnd::Kind::kNotExecutable:
      break;
  }
  return 126;
}

// The host's, but for the servers, which a guest reaches by way of QEMU only.
std::string resolv_conf(const std::string& of_host, Network network) {
  if (network == Network::kNone) return of_host;
  std::string out = kNameServer;
  std::istringstream lines(of_host);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("nameserver")) out += line + "\n";
  }
  return out;
}

Result<std::vector<vm::GuestFile>> guest_files(const std::string& dir, Network network) {
  HM_TRY(make_host_files(dir));
  const HostFiles files = host_files(dir);
  std::vector<vm::GuestFile> out;
  for (const auto& [path, host] : files) {
    struct stat st {};
    HM_ASSIGN(std::string content, read_file(host));
    if (::stat(host.c_str(), &st) != 0) return fail_errno(host);
    if (path == "/etc/resolv.conf") content = resolv_conf(content, network);
    out.push_back({path, std::move(content), st.st_mode & 07777, to_ns(st.st_mtim)});
  }
  return out;
}

vm::GuestDirectory guest_directory(const std::string& path, const fs::Entry& entry) {
  vm::GuestDirectory out{path, entry.mode, entry.uid, entry.gid, false, {}};
  for (const auto& [name, value] : entry.xattrs) {
    out.xattrs.emplace_back(fs::escape_overlay_xattr(name), value);
  }
  return out;
}

// The root and what is to be empty, each below its parents, as the view has them.
Result<std::vector<vm::GuestDirectory>> guest_directories(const fs::View& view,
                                                          const std::vector<std::string>& empty) {
  HM_ASSIGN(const fs::View::Node root, view.root());
  std::vector<vm::GuestDirectory> out = {guest_directory("", root.entry)};
  for (const std::string& path : empty) {
    for (std::size_t at = path.find('/'); true; at = path.find('/', at + 1)) {
      const std::string prefix = path.substr(0, at);
      HM_ASSIGN(const auto node, view.resolve(prefix));
      if (!node) return fail(ErrorCode::kNotFound, prefix);
      out.push_back(guest_directory(prefix, node->entry));
      if (at == std::string::npos) break;
    }
    out.back().opaque = true;
  }
  return out;
}

Result<StepOrder> order_of(const Command& command, const fs::View& view,
                           const std::vector<std::string>& empty, const std::string& dir) {
  StepOrder order;
  order.argv = command.argv;
  order.cwd = command.directory();
  for (const auto& [name, value] : command.env) {
    if (name != "PWD") order.env.push_back(name + "=" + value);
  }
  order.env.push_back("PWD=" + order.cwd);
  order.hostname = kHostname;
  HM_ASSIGN(order.files, guest_files(dir, command.network));
  for (const char* path : kMaskedDirectories) order.masked_directories.emplace_back(path);
  for (const StepLimit& limit : current_limits()) {
    order.limits.push_back({static_cast<std::uint64_t>(limit.resource), limit.soft, limit.hard});
  }
  for (const Capability& item : kCapabilities) {
    order.capabilities.push_back(static_cast<std::uint32_t>(item.number));
  }
  HM_ASSIGN(const Fd filter, system_call_filter());
  HM_ASSIGN(order.filter, read_all(filter.get()));
  HM_ASSIGN(order.directories, guest_directories(view, empty));
  order.memory = command.limits.memory.value_or(0);
  order.pids = command.limits.pids.value_or(0);
  if (command.user) {
    order.uid = command.user->uid;
    order.gid = command.user->gid;
    order.groups = command.user->groups;
  }
  order.entropy.resize(kEntropyBytes);
  if (::getentropy(order.entropy.data(), order.entropy.size()) != 0) return fail_errno("entropy");
  return order;
}

// Wakes a thread that polls when a stop is requested.
class StopEvent {
 public:
  explicit StopEvent(const std::stop_token& stop)
      : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), callback_(stop, Write{event_.get()}) {}
  int fd() const { return event_.get(); }

 private:
  struct Write {
    int fd;
    void operator()() const {
      const std::uint64_t one = 1;
      (void)!::write(fd, &one, sizeof one);
    }
  };
  Fd event_;
  std::stop_callback<Write> callback_;
};

// Why an attempt is stopped before its command ends: it is cancelled, or its session cannot go on.
class Stops {
 public:
  explicit Stops(const std::stop_token& cancel)
      : cancel_(cancel), pass_on_(cancel, Request{abandon_}), event_(abandon_.get_token()) {}
  // For the session.
  const std::stop_source& abandon() const { return abandon_; }
  // Readable once there is one.
  int wake() const { return event_.fd(); }
  bool cancelled() const { return cancel_.stop_requested(); }
  bool abandoned() const { return abandon_.stop_requested() && !cancelled(); }

 private:
  struct Request {
    std::stop_source source;
    void operator()() { source.request_stop(); }
  };
  const std::stop_token cancel_;
  std::stop_source abandon_;
  std::stop_callback<Request> pass_on_;
  StopEvent event_;
};

// How a step ended, as far as its machine is concerned.
struct Ending {
  std::optional<StepEnd> end;
  bool timed_out = false;
  bool cancelled = false;
  std::string broken;  // what the guest did that none of ours does

  bool passed() const {
    return end && end->kind == StepEnd::Kind::kExited && end->number == 0 && !end->over_memory &&
           !timed_out && !cancelled && broken.empty();
  }
};

// From the order to the end of the command.
class Supervisor {
 public:
  // `patience`: with the guest until the command starts.
  Supervisor(Machine& machine, const Command& command, const Backend::Output& output,
             const Stops& stops, std::chrono::milliseconds patience)
      : machine_(machine),
        timeout_(command.timeout),
        output_(output),
        stops_(stops),
        deadline_(Clock::now() + patience) {}

  // Errors are the machine's (it could not set the step up), never the command's.
  Result<Ending> watch() {
    while (!over_) {
      auto frame = machine_.receive(kill_at_ ? kill_at_ : deadline_, kill_at_ ? -1 : stops_.wake());
      if (!frame && frame.error().code == ErrorCode::kCorrupt) {
        ending_.broken = frame.error().message;
        break;
      }
      if (!frame) return fail(std::move(frame).error());
      if (*frame) {
        HM_TRY(take(**frame));
      }
      check_stop();
    }
    return ending_;
  }

 private:
  Status take(const Frame& frame) {
    StepEnd end;
    if (!started_ && frame.type != FrameType::kStarted && frame.type != FrameType::kFailure) {
      over_ = true;
      ending_.broken = kOutOfOrder;
      return {};
    }
    switch (frame.type) {
      case FrameType::kStarted:
        if (started_) break;
        started_ = true;
        deadline_.reset();
        if (timeout_) deadline_ = Clock::now() + *timeout_;
        return {};
      case FrameType::kStdout:
        output_(Stream::kStdout, frame.payload);
        return {};
      case FrameType::kStderr:
        output_(Stream::kStderr, frame.payload);
        return {};
      case FrameType::kExit:
        over_ = true;
        if (decode(frame.payload, end)) {
          ending_.end = end;
        } else {
          ending_.broken = "it says how the command ended, but not so that it makes sense";
        }
        return {};
      case FrameType::kFailure:
        return fail(ErrorCode::kRefused, "the virtual machine cannot run the step: " +
                                             printable(frame.payload.substr(0, 300)));
      case FrameType::kReady:
      case FrameType::kSent:
      case FrameType::kHello:
      case FrameType::kStart:
      case FrameType::kStop:
      case FrameType::kSend:
      case FrameType::kEnd:
        break;
    }
    over_ = true;
    ending_.broken = kOutOfOrder;
    return {};
  }

  void check_stop() {
    const auto now = Clock::now();
    if (stops_.abandoned()) {
      over_ = true;  // whatever the command still does, it starts over
      return;
    }
    if (!kill_at_) {
      ending_.cancelled = stops_.cancelled();
      const bool late = !ending_.cancelled && deadline_ && now >= *deadline_;
      if (!ending_.cancelled && !late) return;
      if (late && !started_) {
        over_ = true;
        ending_.broken = "it did not start the command in time";
        return;
      }
      ending_.timed_out = late;
      kill_at_ = now + kGrace;
      (void)machine_.send(FrameType::kStop, "", *kill_at_);
    }
    if (now >= *kill_at_) over_ = true;
  }

  static constexpr const char* kOutOfOrder = "it sent a message out of order";

  Machine& machine_;
  const std::optional<std::chrono::milliseconds> timeout_;
  const Backend::Output& output_;
  const Stops& stops_;
  std::optional<Clock::time_point> deadline_, kill_at_;
  bool started_ = false;
  bool over_ = false;
  Ending ending_;
};

class VmBackend final : public Backend {
 public:
  VmBackend(store::Store& store, VmSettings settings)
      : store_(store), settings_(std::move(settings)) {}

  const char* name() const override { return "vm"; }
  IdMode id_mode(IdMode) const override { return IdMode::kGuest; }

  Status check() override {
    const std::lock_guard lock(mutex_);
    if (hypervisor_ || failed_) return failed_ ? fail(*failed_) : Status();
    const std::string_view init =
        settings_.init.empty() ? vm::guest_init() : std::string_view(settings_.init);
    auto opened = Hypervisor::open(settings_.options, store_.home(), store_.scratch().path(), init,
                                   settings_.say);
    if (!opened) {
      failed_ = opened.error();
      return fail(*failed_);
    }
    hypervisor_ = std::move(*opened);
    return {};
  }

  Result<Execution> run(const fs::View& view, const Command& command, const Output& output,
                        const std::stop_token& stop) override {
    HM_TRY(check());
    const auto place = hypervisor_->take_place(stop);
    if (!place) return cancelled();
    auto attempt = try_once(view, command, output, stop, false);
    if (attempt || attempt.error().code != kNotBooted) return attempt;
    settings_.say(attempt.error().message + "; trying once more");
    hypervisor_->forget_saved(command.network == Network::kHost);
    auto again = try_once(view, command, output, stop, true);
    if (!again && again.error().code == kNotBooted) again.error().code = ErrorCode::kRefused;
    return again;
  }

 private:
  // Within this file: the machine did not come up, and nothing of the step has happened.
  static constexpr ErrorCode kNotBooted = ErrorCode::kNotFound;

  static Execution cancelled() {
    Execution execution;
    execution.cancelled = true;
    execution.exit_code = 130;
    return execution;
  }

  Result<Execution> try_once(const fs::View& view, const Command& command, const Output& output,
                             const std::stop_token& stop, bool cold) {
    const bool network = command.network == Network::kHost;
    const Stops stops(stop);
    HM_ASSIGN(Hypervisor::Started started, hypervisor_->start(network, cold, stops.wake()));
    if (settings_.verbose) settings_.say(text_of(hypervisor_->command_line(started, network)));
    Execution execution;
    // The machine boots while what is observed before the command is observed.
    HM_ASSIGN(
        const auto session,
        fs::Session::start_relay(view, store_, started.machine.take_relay(), fs::Session::Watcher(),
                                 command.profile, {}, stops.abandon()));
    auto prepared = observe_before(*session, view, command);
    if (!prepared) {
      execution.failure = session->failure();
      if (!execution.failure) execution.failure = as_failure(prepared.error());
      if (execution.failure) return execution;
      return fail(std::move(prepared).error());
    }
    execution.warnings = std::move(prepared->warnings);
    auto ready = started.machine.wait_ready(started.until, stops.wake(), started.use);
    if (!ready && stops.abandoned()) {
      execution.failure = session->failure();
      return execution;
    }
    if (!ready && ready.error().code == ErrorCode::kCancelled) return cancelled();
    if (!ready) return fail(kNotBooted, ready.error().message);
    HM_TRY(run_in(started.machine, *session, view, command, prepared->empty_directories, output,
                  stops, execution));
    return execution;
  }

  Status run_in(Machine& machine, fs::Session& session, const fs::View& view,
                const Command& command, const std::vector<std::string>& empty, const Output& output,
                const Stops& stops, Execution& execution) {
    HM_ASSIGN(StepOrder order, make_order(command, view, empty));
    order.clock_ns = start_after(view);
    const auto started = Clock::now();
    HM_TRY(machine.send(FrameType::kStart, encode(order), started + settings_.patience));
    HM_ASSIGN(const Ending ending,
              Supervisor(machine, command, output, stops, settings_.patience).watch());
    // The guest begins with it while the session ends. One that has gone is noticed by who reads.
    if (ending.passed()) {
      (void)machine.send(FrameType::kSend, "", Clock::now() + settings_.patience);
    }
    session.stop();
    execution.failure = session.failure();
    execution.trace = session.trace();
    execution.duration =
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - started);
    spdlog::debug("{}: {} ms in a virtual machine, {} observations", command.argv.back(),
                  execution.duration.count(), execution.trace.observations.size());
    settle(ending, command, execution);
    const bool usable =
        !execution.failure || execution.failure->kind == fs::SessionFailure::Kind::kIncomplete;
    if (!ending.passed() || execution.exit_code != 0 || !usable) return {};
    return capture(machine, session, view, order.clock_ns, stops.wake(), execution);
  }

  Result<StepOrder> make_order(const Command& command, const fs::View& view,
                               const std::vector<std::string>& empty) {
    const std::string dir = store_.scratch().fresh("step");
    if (::mkdir(dir.c_str(), 0700) != 0) return fail_errno(dir);
    auto order = order_of(command, view, empty, dir);
    (void)remove_tree(AT_FDCWD, dir);
    return order;
  }

  static void settle(const Ending& ending, const Command& command, Execution& execution) {
    execution.timed_out = ending.timed_out;
    execution.cancelled = ending.cancelled;
    if (ending.end) {
      execution.exit_code = code_of(*ending.end);
      execution.over_memory = ending.end->over_memory;
      if (ending.end->over_pids) note_over_pids(command.limits.pids.value_or(0), execution);
    }
    if (execution.over_memory) execution.exit_code = 137;
    if (execution.timed_out) execution.exit_code = 124;
    if (execution.cancelled) execution.exit_code = 130;
    std::string broken = ending.broken;
    const bool guest =
        execution.failure && execution.failure->kind == fs::SessionFailure::Kind::kGuest;
    if (guest) broken = execution.failure->reason;
    if (!broken.empty() && !execution.timed_out && !execution.cancelled) {
      break_down(broken, execution);
    }
  }

  // Nothing that such a guest did is to be believed.
  static void break_down(const std::string& what, Execution& execution) {
    execution.exit_code = kMachineFailed;
    execution.warnings.push_back("its virtual machine failed: " + what);
    execution.failure = fs::SessionFailure{fs::SessionFailure::Kind::kIncomplete, "/",
                                           "its virtual machine failed"};
  }

  Status capture(Machine& machine, fs::Session& session, const fs::View& view,
                 std::int64_t started_ns, int wake, Execution& execution) {
    const fs::StepTimes times{started_ns, fs::SeenTimes(session.seen_times())};
    const auto began = Clock::now();
    std::size_t received = 0;
    const fs::ArchiveSource source = [&](std::span<char> buffer) -> Result<std::size_t> {
      // The next bytes in time, and all of them: one byte now and then would go on for ever.
      const std::chrono::seconds earned(received / kLeastPerSecond);
      const auto until =
          std::min(Clock::now(), began + settings_.patience + earned) + settings_.patience;
      HM_ASSIGN(const std::size_t count, machine.read_changes(buffer, until, wake));
      received += count;
      return count;
    };
    auto layer = fs::capture_archive(source, view, times, store_.scratch(), store_.blobs());
    if (!layer && layer.error().code == ErrorCode::kCancelled) {
      execution.cancelled = true;
      execution.exit_code = 130;
      return {};
    }
    const bool untrue = !layer && (layer.error().code == ErrorCode::kInvalid ||
                                   layer.error().code == ErrorCode::kCorrupt);
    if (untrue) {
      break_down(layer.error().message, execution);
      return {};
    }
    if (!layer) return fail(std::move(layer).error());
    HM_ASSIGN(execution.captured, keep_layer(std::move(*layer), started_ns, store_));
    return {};
  }

  static std::string text_of(const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& word : words) {
      const bool plain = word.find(' ') == std::string::npos;
      out += (out.empty() ? "" : " ") + (plain ? word : "'" + word + "'");
    }
    return out;
  }

  store::Store& store_;
  const VmSettings settings_;
  std::mutex mutex_;  // guards failed_ and the making of hypervisor_
  std::unique_ptr<Hypervisor> hypervisor_;
  std::optional<Error> failed_;
};

}  // namespace

std::unique_ptr<Backend> make_vm_backend(store::Store& store, VmSettings settings) {
  return std::make_unique<VmBackend>(store, std::move(settings));
}

}  // namespace hm::runner
