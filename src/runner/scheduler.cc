#include "runner/scheduler.h"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <thread>

#include "fs/known_values.h"
#include "runner/graph.h"
#include "runner/sources.h"

namespace hm::runner {

namespace {

// A run whose workspace keeps changing is started over this often before it fails.
constexpr int kMaxRestarts = 2;

constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

enum class Phase { kWaiting, kRunning, kDone, kSkipped };

struct Node {
  StepJob job;
  ResolvedImage image;  // of its chain
  std::string base;     // for Sources::base
  Phase phase = Phase::kWaiting;
  StepResult result;
  bool has_result = false;  // of this or an earlier attempt
  std::string skip_reason;
};

bool passed(const Node& node) {
  return node.phase == Phase::kDone &&
         (node.result.outcome == StepOutcome::kHit || node.result.outcome == StepOutcome::kRan);
}

// fs::View::first_moved, by as many threads as it is worth.
Result<std::optional<std::string>> first_moved(const fs::View& view,
                                               std::span<const std::string_view> paths) {
  constexpr std::size_t kPathsOfAThread = 500;
  const std::size_t most = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t count = std::min(most, 1 + paths.size() / kPathsOfAThread);
  const std::size_t share = paths.size() / count + 1;
  std::vector<Result<std::optional<std::string>>> found(count);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < count; ++i) {
      const auto part = paths.subspan(std::min(i * share, paths.size()));
      const auto own = part.first(std::min(share, part.size()));
      const auto look = [&view, &result = found[i], own] { result = view.first_moved(own); };
      if (i + 1 < count) {
        threads.emplace_back(look);
      } else {
        look();
      }
    }
  }
  for (auto& result : found) {
    if (!result || *result) return std::move(result);
  }
  return std::optional<std::string>{};
}

// In the order of the sets, which is that of directories. A table of its own: a std::set of a
// hundred thousand would take longer than to look at them.
std::vector<std::string_view> distinct_paths(const std::vector<const fs::PathSet*>& sets) {
  std::size_t count = 0;
  for (const fs::PathSet* set : sets) count += set->items().size();
  struct Slot {
    std::uint32_t hash, number;  // place in `paths` + 1; 0: free
  };
  std::vector<Slot> slots(std::bit_ceil(2 * count + 1));
  std::vector<std::string_view> paths;
  for (const fs::PathSet* set : sets) {
    for (const fs::PathSet::Item& item : set->items()) {
      const std::size_t hash = std::hash<std::string_view>{}(item.path);
      const auto own = static_cast<std::uint32_t>(hash >> 32);
      std::size_t at = hash & (slots.size() - 1);
      while (slots[at].number != 0 &&
             (slots[at].hash != own || paths[slots[at].number - 1] != item.path)) {
        at = (at + 1) & (slots.size() - 1);
      }
      if (slots[at].number != 0) continue;
      paths.push_back(item.path);
      slots[at] = {own, static_cast<std::uint32_t>(paths.size())};
    }
  }
  return paths;
}

class RunImpl final : public Run {
 public:
  RunImpl(Pipeline pipeline, RunOptions options, IdMode id_mode, store::Store& store,
          Backend& backend, EventSink& events)
      : pipeline_(std::move(pipeline)),
        options_(std::move(options)),
        id_mode_(id_mode),
        store_(store),
        events_(events),
        backend_name_(backend.name()),
        step_ids_(backend.id_mode(id_mode)),
        runner_(store, backend, events, step_ids_) {}

  Status prepare();
  Result<RunOutcome> execute(const std::stop_token& stop) override;
  Result<std::vector<Plan>> plan() override;

 private:
  Status prepare_step(std::size_t index);
  Result<std::string> settle_user(ResolvedImage& image) const;
  void number_chains();
  void tell_images();
  Status run_attempts(const std::stop_token& stop);
  Status run_attempt(const std::stop_token& stop);
  void work(Sources& sources);
  Status look_again(Sources& sources);
  Result<std::optional<std::string>> moved_input(Sources& sources);
  Status keep_files(Sources& sources);
  std::optional<std::size_t> next_ready();
  void skip_hopeless();
  bool is_ready(std::size_t index) const;
  std::optional<std::string> cause_of_skip(std::size_t index) const;
  void run_one(std::size_t index, Sources& sources);
  void finish(std::size_t index, Result<StepResult> result);
  void report_end(const Node& node);
  fs::View view_of(std::size_t index, const fs::ViewBase& base) const;
  std::shared_ptr<fs::KnownValues> values_beside(std::size_t index);
  std::vector<fs::ViewLayer> chain_below(std::size_t index) const;
  ExitCode verdict(const std::stop_token& stop) const;
  store::RunReport report() const;

  const Pipeline pipeline_;
  const RunOptions options_;
  const IdMode id_mode_;
  store::Store& store_;
  EventSink& events_;
  const char* const backend_name_;
  const IdMode step_ids_;
  StepRunner runner_;
  const std::int64_t started_ns_ = now_ns();

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::vector<Node> nodes_;
  // What lookups of this attempt have found: for the steps with one parent on one base.
  std::map<std::pair<std::optional<std::size_t>, std::string>, std::shared_ptr<fs::KnownValues>>
      known_values_;
  std::size_t running_ = 0;
  bool stopping_ = false;   // after a failure, without keep_going
  std::string stop_cause_;  // the step that failed
  bool restart_ = false;
  std::string restart_reason_;
  bool store_damaged_ = false;  // why there is a restart
  bool timed_out_ = false;
  bool gave_up_ = false;
  std::optional<Error> error_;
  std::optional<std::stop_source> attempt_stop_;
};

// --- before the run -------------------------------------------------------------------------

Status RunImpl::prepare() {
  nodes_.resize(pipeline_.steps.size());
  number_chains();
  for (const std::size_t index : topological_order(pipeline_)) HM_TRY(prepare_step(index));
  return {};
}

Status RunImpl::prepare_step(std::size_t index) {
  const Step& step = pipeline_.steps[index];
  Node& node = nodes_[index];
  if (step.parent) {
    node.image = nodes_[*step.parent].image;
    node.base = nodes_[*step.parent].base;
  } else {
    auto resolved =
        resolve_image(image_name(pipeline_, step, options_), options_.workspace, store_);
    if (!resolved) return fail(std::move(resolved).error().in("step '" + step.key + "'"));
    node.image = std::move(*resolved);
    HM_ASSIGN(node.base, settle_user(node.image));
  }
  StepInfo& info = node.job.info;
  info.id = new_uuid();
  info.key = step.key;
  info.label = step.label.empty() ? step.key : step.label;
  info.image = node.image.id;
  if (step.parent) info.parent_key = pipeline_.steps[*step.parent].key;
  node.job.command = command_of(step, node.image.config, options_.env);
  node.job.cache = step.cache;
  node.job.verify = options_.verify;
  if (options_.rerun.contains(step.key)) {
    node.job.forced = "--rerun asks for it";
  } else if (options_.cache == RunOptions::Cache::kIgnore) {
    node.job.forced = "--no-cache asks for it";
  }
  node.job.previous = [this, &key = step.key] {
    return store_.last_step(options_.workspace, pipeline_.name, key);
  };
  return {};
}

// What the steps of an image start from. Leaves `ids` to an image only whose steps are not root's.
Result<std::string> RunImpl::settle_user(ResolvedImage& image) const {
  auto& [id, config] = image;
  if (config.user.empty()) return id;
  if (!config.ids) {
    return fail(ErrorCode::kNotFound,
                "image " + shown_image(id).name + " is made for the user '" +
                    fs::printable(config.user) +
                    "', whom its /etc/passwd and /etc/group do not have (or an "
                    "older hm imported it: import it again)");
  }
  if (config.ids->is_root() || step_ids_ == IdMode::kSingle) {
    if (config.ids->is_root()) config.user.clear();
    config.ids.reset();
    return id;
  }
  return base_for(id, *config.ids);
}

void RunImpl::number_chains() {
  std::vector<std::size_t> children(pipeline_.steps.size());
  for (const Step& step : pipeline_.steps) {
    if (step.parent) children[*step.parent] += 1;
  }
  std::size_t chains = 0;
  for (const std::size_t index : topological_order(pipeline_)) {
    const auto parent = pipeline_.steps[index].parent;
    const bool continues = parent && children[*parent] == 1;
    nodes_[index].job.info.chain = continues ? nodes_[*parent].job.info.chain : chains++;
  }
}

// --- the graph, under the lock --------------------------------------------------------------

std::optional<std::string> RunImpl::cause_of_skip(std::size_t index) const {
  const Step& step = pipeline_.steps[index];
  const auto failed = [&](std::size_t other) {
    return nodes_[other].phase == Phase::kSkipped ||
           (nodes_[other].phase == Phase::kDone && !passed(nodes_[other]));
  };
  if (step.parent && failed(*step.parent)) return pipeline_.steps[*step.parent].key;
  if (!step.continue_on_failure) {
    for (const std::size_t other : step.after) {
      if (failed(other)) return pipeline_.steps[other].key;
    }
    if (stopping_) return stop_cause_;
  }
  return std::nullopt;
}

bool RunImpl::is_ready(std::size_t index) const {
  const Step& step = pipeline_.steps[index];
  const auto ended = [&](std::size_t other) {
    return nodes_[other].phase == Phase::kDone || nodes_[other].phase == Phase::kSkipped;
  };
  return nodes_[index].phase == Phase::kWaiting && (!step.parent || passed(nodes_[*step.parent])) &&
         std::all_of(step.after.begin(), step.after.end(), ended);
}

void RunImpl::skip_hopeless() {
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      Node& node = nodes_[i];
      if (node.phase != Phase::kWaiting) continue;
      const auto cause = cause_of_skip(i);
      if (!cause) continue;
      node.phase = Phase::kSkipped;
      const auto culprit = std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& other) {
        return other.job.info.key == *cause;
      });
      const bool itself_skipped = culprit != nodes_.end() && culprit->phase == Phase::kSkipped;
      node.skip_reason = "step '" + *cause + (itself_skipped ? "' was skipped" : "' did not pass");
      events_.step_skipped(node.job.info, node.skip_reason, *cause);
      again = true;
    }
  }
}

std::optional<std::size_t> RunImpl::next_ready() {
  if (restart_ || error_ || attempt_stop_->stop_requested()) return std::nullopt;
  skip_hopeless();
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (is_ready(i)) return i;
  }
  return std::nullopt;
}

std::vector<fs::ViewLayer> RunImpl::chain_below(std::size_t index) const {
  std::vector<fs::ViewLayer> layers;
  for (auto at = pipeline_.steps[index].parent; at; at = pipeline_.steps[*at].parent) {
    if (nodes_[*at].result.layer) layers.push_back(*nodes_[*at].result.layer);
  }
  std::reverse(layers.begin(), layers.end());
  return layers;
}

fs::View RunImpl::view_of(std::size_t index, const fs::ViewBase& base) const {
  return fs::View(base, chain_below(index), now_ns());
}

// Null where no other step has such a view. Their layers are the same objects with the same times:
// a parent passes once in an attempt.
std::shared_ptr<fs::KnownValues> RunImpl::values_beside(std::size_t index) {
  const auto parent = pipeline_.steps[index].parent;
  const std::string& base = nodes_[index].base;
  bool is_shared = false;
  for (std::size_t i = 0; i < nodes_.size() && !is_shared; ++i) {
    is_shared = i != index && pipeline_.steps[i].parent == parent && nodes_[i].base == base;
  }
  if (!is_shared) return nullptr;
  auto& values = known_values_[{parent, base}];
  if (!values) values = std::make_shared<fs::KnownValues>();
  return values;
}

// --- running --------------------------------------------------------------------------------

void RunImpl::work(Sources& sources) {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto index = next_ready();
    if (!index) {
      if (running_ == 0) {
        changed_.notify_all();
        return;
      }
      changed_.wait(lock);
      continue;
    }
    nodes_[*index].phase = Phase::kRunning;
    running_ += 1;
    lock.unlock();
    run_one(*index, sources);
    lock.lock();
    running_ -= 1;
    changed_.notify_all();
  }
}

void RunImpl::run_one(std::size_t index, Sources& sources) {
  auto result = [&]() -> Result<StepResult> {
    HM_ASSIGN(fs::ViewBase base, sources.base(nodes_[index].base));
    std::unique_lock lock(mutex_);
    fs::View view = view_of(index, base);
    view.share(values_beside(index));
    const bool earlier = nodes_[index].has_result;
    StepResult kept = nodes_[index].result;
    lock.unlock();
    if (earlier) {  // of the attempt before: keep it silently if it is this view's result too
      HM_ASSIGN(const bool holds, runner_.still_holds(kept, view));
      if (holds) {
        if (kept.layer) fs::place_times(*kept.layer, view.layers(), now_ns());
        return kept;
      }
    }
    return runner_.run(nodes_[index].job, view, sources, attempt_stop_->get_token());
  }();
  const std::lock_guard lock(mutex_);
  finish(index, std::move(result));
}

void RunImpl::finish(std::size_t index, Result<StepResult> result) {
  Node& node = nodes_[index];
  if (!result) {
    node.phase = Phase::kDone;
    node.result.outcome = StepOutcome::kFailed;
    node.result.reason = result.error().message;
    if (!error_) error_ = std::move(result).error().in("step '" + node.job.info.key + "'");
    attempt_stop_->request_stop();
    return;
  }
  if (result->outcome == StepOutcome::kRestart) {
    node.phase = Phase::kWaiting;
    node.has_result = false;
    restart_ = true;
    restart_reason_ = result->reason;
    store_damaged_ = result->store_damaged;
    if (result->store_damaged) {
      // The layer that lacks bytes came from an ancestor: all of them have to be looked up again.
      for (auto at = pipeline_.steps[index].parent; at; at = pipeline_.steps[*at].parent) {
        nodes_[*at].has_result = false;
      }
    }
    return;
  }
  const bool kept = node.has_result;
  node.phase = Phase::kDone;
  const bool same =
      kept && node.result.strong_key == result->strong_key && node.result.log == result->log;
  node.result = std::move(*result);
  if (!same) report_end(node);
  node.has_result = passed(node);
  if (passed(node) || node.result.outcome == StepOutcome::kCancelled) return;
  if (options_.on_failure == RunOptions::OnFailure::kStop && !stopping_) {
    stopping_ = true;
    stop_cause_ = node.job.info.key;
    const bool others_must_run =
        std::any_of(pipeline_.steps.begin(), pipeline_.steps.end(),
                    [](const Step& step) { return step.continue_on_failure; });
    // What runs beside it is stopped, unless some step is to run whatever happened before it.
    if (!others_must_run) attempt_stop_->request_stop();
  }
}

void RunImpl::report_end(const Node& node) {
  const StepResult& result = node.result;
  events_.step_end(node.job.info, result.exit_code, result.duration_ms,
                   result.layer ? result.layer->digest.hex() : "");
  if (result.outcome == StepOutcome::kFailed) {
    events_.chain_failed(node.job.info, result.exit_code,
                         "step '" + node.job.info.key + "' failed with exit code " +
                             std::to_string(result.exit_code));
  }
}

Status RunImpl::run_attempt(const std::stop_token& stop) {
  HM_ASSIGN(const auto sources, Sources::open(options_.workspace, id_mode_, store_));
  {
    const std::lock_guard lock(mutex_);
    restart_ = false;
    known_values_.clear();
    attempt_stop_.emplace();
    stopping_ = false;
    for (Node& node : nodes_) node.phase = Phase::kWaiting;
  }
  const std::stop_callback on_stop(stop, [&] {
    attempt_stop_->request_stop();
    changed_.notify_all();
  });
  {
    std::vector<std::jthread> workers;
    const std::size_t count = std::min<std::size_t>(std::max(1U, options_.parallelism),
                                                    std::max<std::size_t>(1, nodes_.size()));
    for (std::size_t i = 0; i < count; ++i) workers.emplace_back([&] { work(*sources); });
  }
  const Status status = look_again(*sources);
  sources->submit_learned();
  if (status && !store_.recalled_all()) HM_TRY(keep_files(*sources));
  return status;
}

// So that the next lookup of each step finds the digests of its files at once.
Status RunImpl::keep_files(Sources& sources) {
  for (const Node& node : nodes_) {
    if (!passed(node)) continue;
    std::vector<std::string_view> paths;
    for (const fs::PathSet::Item& item : node.result.inputs->items()) {
      if (item.kind == fs::ObservationKind::kContent) paths.push_back(item.path);
    }
    HM_ASSIGN(const fs::ViewBase base, sources.base(node.base));
    const auto files = fs::View(base, {}, now_ns()).lasting_digests(paths);
    if (!files.empty()) store_.keep_files(node.result.path_set, files);
  }
  return {};
}

// Each executed step looked again at its own inputs when it ended, a hit never did. A run that
// passes is of one state: what any of its steps looked at is as it was now that all have ended.
Status RunImpl::look_again(Sources& sources) {
  if (restart_ || error_ || !std::all_of(nodes_.begin(), nodes_.end(), passed)) return {};
  HM_ASSIGN(auto moved, sources.moved_rule_file());
  if (!moved) {
    HM_ASSIGN(moved, moved_input(sources));
  }
  if (!moved) return {};
  restart_ = true;
  restart_reason_ = *moved;
  store_damaged_ = false;
  return {};
}

// Each path is looked at once, however many steps rest on it.
Result<std::optional<std::string>> RunImpl::moved_input(Sources& sources) {
  std::map<std::string, std::vector<const fs::PathSet*>> inputs;   // by what is below the layers
  std::set<std::pair<std::string_view, const fs::PathSet*>> seen;  // steps share them
  for (const Node& node : nodes_) {
    const fs::PathSet* const set = node.result.inputs.get();
    if (seen.emplace(node.base, set).second) inputs[node.base].push_back(set);
  }
  for (const auto& [name, sets] : inputs) {
    const std::vector<std::string_view> own = distinct_paths(sets);
    HM_ASSIGN(const fs::ViewBase base, sources.base(name));
    HM_ASSIGN(const auto moved, first_moved(fs::View(base, {}, now_ns()), own));
    if (moved) return std::optional("/" + *moved);
  }
  return std::optional<std::string>{};
}

Status RunImpl::run_attempts(const std::stop_token& stop) {
  // Damage in the store is repaired by running what made it: at most once for each step.
  std::size_t repairs_left = nodes_.size();
  for (int moves = 0;;) {
    HM_TRY(run_attempt(stop));
    if (!restart_ || error_ || stop.stop_requested()) return {};
    if (store_damaged_ && repairs_left-- > 0) {
      events_.note(restart_reason_ + ": what made it runs again");
      continue;
    }
    if (store_damaged_ || moves++ == kMaxRestarts) {
      gave_up_ = true;
      events_.note(
          (store_damaged_ ? "the store stays damaged: " : "workspace changed while running: ") +
          fs::printable(restart_reason_));
      return {};
    }
    events_.note(fs::printable(restart_reason_) + " changed while running: starting over");
  }
}

// Which image a name stands for is settled now, for the whole run.
void RunImpl::tell_images() {
  std::set<std::string> told;
  for (const Node& node : nodes_) {
    const auto& [id, config] = node.image;
    if (!is_stored_image(id) || !told.insert(id).second) continue;
    const ShownImage image = shown_image(id);
    const std::string user = fs::printable(config.user);
    events_.note("image " + image.name + " is " + image.tree.substr(0, 12) +
                 (config.ids ? ", its steps run as '" + user + "'" : ""));
    if (step_ids_ == IdMode::kSingle && told.size() == 1) {
      events_.note("without other ids than root's chown fails in its steps: " + single_id_reason() +
                   "; --backend vm has all ids");
    }
    if (!user.empty() && !config.ids) {
      events_.note("image " + image.name + " is made for the user '" + user +
                   "', who has no id here: its steps run as root");
    }
  }
}

Result<RunOutcome> RunImpl::execute(const std::stop_token& stop) {
  BuildInfo build{new_uuid(), nodes_.size(), 0, backend_name_};
  for (const Node& node : nodes_) build.chains = std::max(build.chains, node.job.info.chain + 1);
  events_.build_start(build);
  tell_images();
  for (const Node& node : nodes_) events_.step_queued(node.job.info);

  std::stop_source run_stop;
  const std::stop_callback on_cancel(stop, [&] { run_stop.request_stop(); });
  std::jthread timer;
  if (pipeline_.timeout) {
    timer = std::jthread([&](const std::stop_token& over) {
      std::mutex mutex;
      std::condition_variable_any wait;
      std::unique_lock lock(mutex);
      wait.wait_for(lock, over, *pipeline_.timeout, [] { return false; });
      if (over.stop_requested()) return;
      {
        const std::lock_guard guard(mutex_);
        timed_out_ = true;
      }
      run_stop.request_stop();
    });
  }
  HM_TRY(run_attempts(run_stop.get_token()));
  timer = std::jthread();

  RunOutcome outcome;
  {
    const std::lock_guard lock(mutex_);
    skip_hopeless();
    for (Node& node : nodes_) {  // what a stop or an error left over
      if (node.phase != Phase::kWaiting) continue;
      node.phase = Phase::kSkipped;
      node.skip_reason = "the run was stopped";
      events_.step_skipped(node.job.info, node.skip_reason, "");
    }
    outcome.exit_code = verdict(stop);
    outcome.error = error_;
    for (const Node& node : nodes_) outcome.steps.push_back(node.result);
  }
  store::Batch batch;
  batch.report = report();
  store_.submit(std::move(batch));
  const Status flushed = store_.flush();
  if (!flushed) events_.note("results could not be stored: " + flushed.error().message);
  events_.build_end(static_cast<int>(outcome.exit_code), (now_ns() - started_ns_) / 1'000'000);
  return outcome;
}

ExitCode RunImpl::verdict(const std::stop_token& stop) const {
  if (error_) return ExitCode::kInfrastructure;
  if (stop.stop_requested()) return ExitCode::kCancelled;
  if (timed_out_) return ExitCode::kTimeout;
  if (gave_up_) return ExitCode::kFailed;
  const bool all = std::all_of(nodes_.begin(), nodes_.end(), [](const Node& node) {
    return passed(node) && !node.result.refuted;
  });
  return all ? ExitCode::kPassed : ExitCode::kFailed;
}

store::RunReport RunImpl::report() const {
  store::RunReport report{options_.workspace, pipeline_.name, started_ns_, {}};
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    store::RunStep step;
    step.key = node.job.info.key;
    step.image = node.base;
    if (node.phase == Phase::kSkipped) {
      step.outcome = "skipped";
      step.reason = node.skip_reason;
    } else {
      const StepResult& result = node.result;
      step.outcome = to_string(result.outcome);
      step.reason = result.reason;
      if (!result.key.components.empty()) step.components = encode_components(result.key);
      step.static_key = result.key.digest;
      step.trace = result.trace;
      step.log = result.log;
      step.exit_code = result.exit_code;
      step.duration_ms = result.duration_ms;
      if (result.layer) step.layer = result.layer->digest;
      for (const fs::ViewLayer& layer : chain_below(i)) step.chain += layer.digest.raw();
    }
    report.steps.push_back(std::move(step));
  }
  return report;
}

Result<std::vector<Plan>> RunImpl::plan() {
  HM_ASSIGN(const auto sources, Sources::open(options_.workspace, id_mode_, store_));
  std::vector<Plan> plans(nodes_.size());
  for (const std::size_t index : topological_order(pipeline_)) {
    Plan& plan = plans[index];
    plan.key = pipeline_.steps[index].key;
    const auto parent = pipeline_.steps[index].parent;
    if (parent && plans[*parent].what != Plan::What::kHit) {
      plan.reason = "depends on what '" + pipeline_.steps[*parent].key + "' writes";
      continue;
    }
    HM_ASSIGN(const fs::ViewBase base, sources->base(nodes_[index].base));
    HM_ASSIGN(auto found, runner_.preview(nodes_[index].job, view_of(index, base)));
    if (auto* hit = std::get_if<Hit>(&found.outcome)) {
      plan.what = Plan::What::kHit;
      plan.reason = std::to_string(hit->inputs->items().size()) + " inputs unchanged";
      nodes_[index].result.layer = std::move(hit->layer);
    } else {
      plan.what = Plan::What::kRuns;
      plan.reason = std::get<Miss>(found.outcome).reason;
    }
  }
  return plans;
}

}  // namespace

std::string image_name(const Pipeline& pipeline, const Step& step, const RunOptions& options) {
  return options.image.value_or(step.image.value_or(pipeline.default_image.value_or(kHostImage)));
}

Command command_of(const Step& step, const image::ImageConfig& config,
                   const std::map<std::string, std::string>& extra_env) {
  Command command;
  command.argv = step.argv;
  if (command.argv.empty()) command.argv = {"/bin/sh", "-c", step.command};
  command.user = config.ids;
  command.env = {{"HOME", config.ids ? config.ids->home : "/root"}, {"PATH", kDefaultPath}};
  for (const auto& [name, value] : config.env) command.env[name] = value;
  for (const auto& [name, value] : step.env) command.env[name] = value;
  for (const auto& [name, value] : extra_env) command.env[name] = value;
  if (step.cwd != ".") command.cwd = step.cwd;
  if (step.cwd.empty() && config.working_dir != "/") command.working_dir = config.working_dir;
  command.network = step.network;
  command.limits = step.limits;
  command.timeout = step.timeout;
  command.on_change = step.cache.on_change;
  return command;
}

Result<std::unique_ptr<Run>> Run::create(Pipeline pipeline, RunOptions options, IdMode id_mode,
                                         store::Store& store, Backend& backend, EventSink& events) {
  auto run = std::make_unique<RunImpl>(std::move(pipeline), std::move(options), id_mode, store,
                                       backend, events);
  HM_TRY(run->prepare());
  return std::unique_ptr<Run>(std::move(run));
}

}  // namespace hm::runner
