// The `namespace` backend: hmfs serves the view, overlayfs takes the writes, bubblewrap runs the
// command. One fresh mount per attempt, so that the kernel's caches know nothing yet.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <mutex>
#include <thread>

#include "fs/capture.h"
#include "fs/overlay.h"
#include "runner/backend.h"
#include "runner/sandbox.h"

namespace hm::runner {

namespace {

// Directories given to the step empty and opaque when the view has them empty: one listing instead
// of one absent name for each random temporary file.
constexpr std::array<const char*, 2> kTemporary = {"tmp", "var/tmp"};

// File times come from the kernel's coarse clock, which lags: a file written right away must not
// look older than the start of its step.
std::int64_t coarse_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return to_ns(now);
}

// What the step writes has to be newer than all that its ancestors wrote: the clock is given a tick
// where it has not moved since. A clock that was set back is not waited for.
std::int64_t start_after(const fs::View& view) {
  constexpr std::int64_t kLongestWaitNs = 200'000'000;
  std::int64_t now = coarse_now_ns();
  const std::int64_t newest =
      view.layers().empty() ? now - 1 : view.layers().back().times->end_ns();
  if (newest - now > kLongestWaitNs) return now;
  for (; now <= newest; now = coarse_now_ns()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return now;
}

class NamespaceBackend final : public Backend {
 public:
  NamespaceBackend(store::Store& store, std::string bubblewrap, fs::PassthroughMode passthrough)
      : store_(store), bubblewrap_(std::move(bubblewrap)), passthrough_(passthrough) {}

  Status check() override {
    const std::lock_guard lock(check_mutex_);
    if (!checked_) {
      const std::string dir = store_.scratch().fresh("check");
      checked_ = check_in(dir);
      (void)remove_tree(AT_FDCWD, dir);
    }
    return *checked_;
  }

  Result<Execution> run(const fs::View& view, const Command& command, const Output& output,
                        const std::stop_token& stop) override {
    const std::string dir = store_.scratch().fresh("step");
    for (const std::string& path : {dir, dir + "/lower"}) {
      if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
    }
    auto execution = run_in(dir, view, command, output, stop);
    if (execution && execution->captured) {
      store_.scratch().discard(dir);  // the store has all that takes room
    } else {
      (void)remove_tree(AT_FDCWD, dir);
    }
    return execution;
  }

 private:
  // Mounts an empty view and an overlay over it, and starts the sandbox on the host's own root.
  Status check_in(const std::string& dir) {
    HM_TRY(mask_host_directories());
    for (const std::string& path : {dir, dir + "/lower"}) {
      if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
    }
    const fs::View view({}, {}, now_ns());
    HM_ASSIGN(const auto session,
              fs::Session::start(view, store_, dir + "/lower", {}, {}, passthrough_));
    HM_ASSIGN(const fs::View::Node root, view.root());
    HM_ASSIGN(const fs::Overlay overlay, fs::Overlay::mount(dir + "/lower", dir, root.entry));
    return check_bubblewrap(bubblewrap_);
  }

  Result<Execution> run_in(const std::string& dir, const fs::View& view, const Command& command,
                           const Output& output, const std::stop_token& stop) {
    Execution execution;
    std::stop_source abandon;
    const std::stop_callback on_stop(stop, [&] { abandon.request_stop(); });
    HM_ASSIGN(const auto session, fs::Session::start(view, store_, dir + "/lower", {},
                                                     command.profile, passthrough_, abandon));
    auto prepared = prepare(*session, dir, view, command);
    if (!prepared) {
      execution.failure = session->failure();
      if (!execution.failure) execution.failure = as_failure(prepared.error());
      if (execution.failure) return execution;
      return fail(std::move(prepared).error());
    }
    execution.warnings = std::move(*prepared);
    HM_ASSIGN(const fs::View::Node root, view.root());
    HM_ASSIGN(fs::Overlay overlay, fs::Overlay::mount(dir + "/lower", dir, root.entry));

    HM_ASSIGN(const auto files, host_files(dir));
    const std::int64_t started_ns = start_after(view);
    const auto started = std::chrono::steady_clock::now();
    const std::optional<Cgroup> cgroup = cgroup_for(command.limits, execution.warnings);
    auto exit = run_sandboxed(bubblewrap_, overlay.root(), files, command,
                              cgroup ? &*cgroup : nullptr, output, abandon.get_token());
    overlay.unmount();
    session->stop();
    execution.failure = session->failure();
    execution.trace = session->trace();
    execution.duration = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - started);
    if (exit) {
      spdlog::debug("{}: exit {} after {} ms, {} observations", command.argv.back(),
                    exit->exit_code, execution.duration.count(),
                    execution.trace.observations.size());
    }
    if (!exit && execution.failure) return execution;  // what it ran into says more
    if (!exit) return fail(std::move(exit).error());
    execution.exit_code = exit->exit_code;
    execution.timed_out = exit->timed_out;
    execution.cancelled = exit->cancelled && stop.stop_requested();
    execution.over_memory = exit->over_memory;
    if (cgroup && cgroup->over_pids()) note_over_pids(*command.limits.pids, execution);
    const bool succeeded = exit->exit_code == 0 && !exit->timed_out && !exit->cancelled;
    // An incomplete observation log makes the result unfit for the cache, not for this run.
    const bool usable =
        !execution.failure || execution.failure->kind == fs::SessionFailure::Kind::kIncomplete;
    if (succeeded && usable) {
      const fs::StepTimes times{started_ns, fs::SeenTimes(session->seen_times())};
      HM_ASSIGN(execution.captured, capture(overlay.upper(), view, times));
    }
    return execution;
  }

  // Without a cgroup the step runs all the same: a limit does not make its result another one.
  static std::optional<Cgroup> cgroup_for(const Limits& limits,
                                          std::vector<std::string>& warnings) {
    if (!limits.any()) return std::nullopt;
    auto cgroup = Cgroup::create(limits);
    if (cgroup) return std::move(*cgroup);
    warnings.push_back("its limits are not enforced: " + cgroup.error().message);
    return std::nullopt;
  }

  // What a program does that cannot fork depends on the moment: no result to keep.
  static void note_over_pids(std::uint64_t pids, Execution& execution) {
    const std::string reached = "reached its limit of " + std::to_string(pids) + " processes";
    execution.warnings.push_back(reached);
    if (execution.failure) return;
    execution.failure =
        fs::SessionFailure{fs::SessionFailure::Kind::kIncomplete, "pids", "it " + reached};
  }

  // A live path that moves while it is observed is a failure of the attempt, not of the machine.
  static std::optional<fs::SessionFailure> as_failure(const Error& error) {
    if (error.code != ErrorCode::kChanged) return std::nullopt;
    return fs::SessionFailure{fs::SessionFailure::Kind::kMoved, error.message, error.message};
  }

  // Everything that is observed before the command runs. Returns warnings.
  static Result<std::vector<std::string>> prepare(fs::Session& session, const std::string& dir,
                                                  const fs::View& view, const Command& command) {
    for (const char* path : kTemporary) {
      HM_ASSIGN(const auto node, session.observe(path, fs::ObservationKind::kProbe));
      if (!node || node->entry.kind != fs::EntryKind::kDirectory) continue;
      HM_TRY(session.observe(path, fs::ObservationKind::kList));
      HM_ASSIGN(const fs::Listing names, view.list(*node));
      if (names.empty()) HM_TRY(fs::Overlay::add_opaque_directory(view, dir, path));
    }
    return observe_declared(session, view, command.on_change);
  }

  Result<std::optional<CapturedLayer>> capture(const std::string& upper, const fs::View& view,
                                               const fs::StepTimes& step) {
    HM_ASSIGN(auto layer, fs::capture_upper(upper, view, step, store_.blobs()));
    HM_ASSIGN(const fs::StoredLayer stored, fs::store_layer(*layer, store_.blobs()));
    HM_TRY(store_.claim_layer(stored.digest));
    // An equal layer that is known already keeps its times: nothing below it has to look new.
    HM_ASSIGN(const auto known, store_.layer_times(stored.digest));
    store::LayerTimes times{stored.digest, stored.mtimes, step.started_ns, now_ns()};
    if (known) {
      if (auto old = fs::load_layer(*known, store_.blobs())) {
        times = *known;
        layer = *old;
      } else {
        HM_TRY(store_.drop_layer(stored.digest));  // its times are damaged: these take their place
      }
    }
    fs::ViewLayer view_layer{
        stored.digest, std::move(layer), times.started_ns, times.captured_ns, {}};
    return std::optional(CapturedLayer{std::move(view_layer), times});
  }

  store::Store& store_;
  const std::string bubblewrap_;
  const fs::PassthroughMode passthrough_;
  std::mutex check_mutex_;  // guards checked_
  std::optional<Status> checked_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_namespace_backend(store::Store& store,
                                                        fs::PassthroughMode passthrough) {
  HM_ASSIGN(std::string bubblewrap, find_bubblewrap());
  return std::unique_ptr<Backend>(
      std::make_unique<NamespaceBackend>(store, std::move(bubblewrap), passthrough));
}

}  // namespace hm::runner
