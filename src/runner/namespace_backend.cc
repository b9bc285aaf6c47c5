// The `namespace` backend: hmfs serves the view, overlayfs takes the writes, bubblewrap runs the
// command. One fresh mount per attempt, so that the kernel's caches know nothing yet.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>

#include "fs/capture.h"
#include "fs/overlay.h"
#include "runner/attempt.h"
#include "runner/backend.h"
#include "runner/sandbox.h"

namespace hm::runner {

namespace {

class NamespaceBackend final : public Backend {
 public:
  NamespaceBackend(store::Store& store, std::string bubblewrap, fs::PassthroughMode passthrough)
      : store_(store), bubblewrap_(std::move(bubblewrap)), passthrough_(passthrough) {}

  const char* name() const override { return "namespace"; }

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

    HM_ASSIGN(const HostFiles files, shared_files());
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
      HM_ASSIGN(auto layer, fs::capture_upper(overlay.upper(), view, times, store_.blobs()));
      HM_ASSIGN(execution.captured, keep_layer(std::move(layer), started_ns, store_));
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

  static Result<std::vector<std::string>> prepare(fs::Session& session, const std::string& dir,
                                                  const fs::View& view, const Command& command) {
    HM_ASSIGN(Preparation prepared, observe_before(session, view, command));
    for (const std::string& path : prepared.empty_directories) {
      HM_TRY(fs::Overlay::add_opaque_directory(view, dir, path));
    }
    return std::move(prepared.warnings);
  }

  // Steps see them read-only: all may have the same.
  Result<HostFiles> shared_files() {
    const std::lock_guard lock(files_mutex_);
    if (files_dir_.empty()) {
      const std::string dir = store_.scratch().fresh("files");
      if (::mkdir(dir.c_str(), 0700) != 0) return fail_errno(dir);
      HM_TRY(make_host_files(dir));
      files_dir_ = dir;
    }
    return host_files(files_dir_);
  }

  store::Store& store_;
  const std::string bubblewrap_;
  const fs::PassthroughMode passthrough_;
  std::mutex check_mutex_;  // guards checked_
  std::optional<Status> checked_;
  std::mutex files_mutex_;  // guards files_dir_
  std::string files_dir_;   // empty: not made yet
};

}  // namespace

Result<std::unique_ptr<Backend>> make_namespace_backend(store::Store& store,
                                                        fs::PassthroughMode passthrough) {
  HM_ASSIGN(std::string bubblewrap, find_bubblewrap());
  return std::unique_ptr<Backend>(
      std::make_unique<NamespaceBackend>(store, std::move(bubblewrap), passthrough));
}

}  // namespace hm::runner
