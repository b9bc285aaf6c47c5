#include "runner/step_runner.h"

#include <algorithm>

#include "fs/capture.h"

namespace hm::runner {

const char* to_string(StepOutcome outcome) {
  switch (outcome) {
    case StepOutcome::kHit:
      return "hit";
    case StepOutcome::kRan:
      return "ran";
    case StepOutcome::kFailed:
      return "failed";
    case StepOutcome::kCancelled:
      return "cancelled";
    case StepOutcome::kRestart:
      return "restart";
  }
  return "?";
}

namespace {

StepResult restart(StaticKey key, std::string reason) {
  StepResult result;
  result.outcome = StepOutcome::kRestart;
  result.key = std::move(key);
  result.reason = std::move(reason);
  return result;
}

std::optional<std::string> forced_reason(const StepJob& job) {
  if (job.forced) return job.forced;
  if (!job.cache.enabled) return "its cache policy is none";
  return std::nullopt;
}

}  // namespace

Result<LookupResult> StepRunner::preview(const StepJob& job, const fs::View& view) {
  const StaticKey key = static_key(job.command, key_base_);
  if (const auto reason = forced_reason(job))
    return LookupResult{Miss{*reason, {}, {}}, key.digest};
  return look_up(store_, view, key, job.cache.ttl, job.previous);
}

Result<StepResult> StepRunner::run(const StepJob& job, const fs::View& view, Sources& sources,
                                   const std::stop_token& stop) {
  auto result = run_or_reuse(job, view, sources, stop);
  // All children of this run are to see the same times.
  if (result && result->layer) fs::place_times(*result->layer, view.layers(), now_ns());
  return result;
}

Result<StepResult> StepRunner::run_or_reuse(const StepJob& job, const fs::View& view,
                                            Sources& sources, const std::stop_token& stop) {
  StaticKey key = static_key(job.command, key_base_);
  Fd flight;
  Miss miss;
  if (const auto reason = forced_reason(job)) {
    miss.reason = *reason;
  } else {
    // Twice: the second time holding the lock of this work in flight, so that of two identical
    // steps one runs and the other finds its result.
    for (int round = 0; round < 2; ++round) {
      auto found = look_up(store_, view, key, job.cache.ttl, job.previous);
      if (!found && found.error().code == ErrorCode::kChanged) {
        return restart(std::move(key), found.error().message);
      }
      if (!found) return fail(std::move(found).error());
      if (auto* hit = std::get_if<Hit>(&found->outcome)) {
        return job.verify ? verify_hit(job, std::move(key), std::move(*hit), view, sources, stop)
                          : adopt_hit(job, std::move(key), std::move(*hit));
      }
      if (round == 0) miss = std::get<Miss>(found->outcome);
      if (round == 1) break;
      auto lock = store_.lock_in_flight(found->flight, stop, [&] {
        events_.note("step '" + job.info.key + "' is running elsewhere: waiting for its result");
      });
      if (!lock && lock.error().code == ErrorCode::kCancelled) {
        StepResult result;
        result.outcome = StepOutcome::kCancelled;
        result.exit_code = 130;
        return result;
      }
      if (!lock) return fail(std::move(lock).error());
      flight = std::move(*lock);
    }
  }
  return execute(job, std::move(key), miss, view, sources, std::move(flight), stop);
}

Result<StepResult> StepRunner::adopt_hit(const StepJob& job, StaticKey key, Hit hit) {
  StepResult result;
  result.outcome = StepOutcome::kHit;
  result.key = std::move(key);
  result.path_set = hit.record.path_set;
  result.strong_key = hit.record.strong_key;
  result.trace = hit.record.trace;
  result.log = hit.record.log;
  result.layer = std::move(hit.layer);
  result.inputs = hit.inputs;
  result.reason = std::to_string(hit.inputs->items().size()) + " observed inputs unchanged";
  store_.touch(hit.record);
  events_.step_start(job.info);
  events_.step_cache_hit(job.info, hit.record.strong_key.hex(), hit.inputs->items().size());
  LineSplitter lines(
      [&](Stream stream, std::string_view line) { events_.step_log(job.info, stream, line); });
  // A log that is gone is no reason to run the step again.
  const auto replayed =
      replay_log(store_.blobs(), hit.record.log, [&](Stream stream, std::string_view bytes) {
        events_.step_output(job.info, stream, bytes);
        lines.add(stream, bytes);
      });
  lines.finish();
  if (!replayed) events_.note("step '" + job.info.key + "': " + replayed.error().message);
  return result;
}

// Of the newest record, or else of the newest path set; one that is not to be had only costs round
// trips.
fs::LookupProfile StepRunner::profile_of(const StaticKey& key) {
  const auto path_sets = store_.path_sets(key.digest);
  if (!path_sets || path_sets->empty()) return {};
  const auto record = store_.newest(key.digest, path_sets->front());
  for (const Digest& digest :
       {record && *record ? (*record)->trace : path_sets->front(), path_sets->front()}) {
    const auto blob = store_.blobs().read(digest);
    if (!blob) continue;
    if (const auto newest = fs::Trace::decode(*blob)) return fs::LookupProfile(*newest);
  }
  return {};
}

// Once more without what the profile got wrong of extended attributes, should it have.
Result<Execution> StepRunner::run_command(const StepJob& job, const StaticKey& key,
                                          const fs::View& view, StepLog& log,
                                          const std::stop_token& stop) {
  Command command = job.command;
  command.profile = profile_of(key);
  while (true) {
    LineSplitter lines(
        [&](Stream stream, std::string_view line) { events_.step_log(job.info, stream, line); });
    Status log_status;
    auto execution = backend_.run(
        view, command,
        [&](Stream stream, std::string_view bytes) {
          events_.step_output(job.info, stream, bytes);
          lines.add(stream, bytes);
          if (log_status) log_status = log.append(stream, bytes);
        },
        stop);
    lines.finish();
    if (!execution) return execution;
    HM_TRY(log_status);
    const auto& failure = execution->failure;
    const bool met_attributes = failure && failure->kind == fs::SessionFailure::Kind::kAttributes;
    if (!met_attributes || stop.stop_requested()) return execution;
    events_.note("step '" + job.info.key + "' starts over: " + fs::printable(failure->path) +
                 " has extended attributes, which its last execution met none of");
    events_.step_start(job.info);
    command.profile.expect_xattrs();
    HM_ASSIGN(log, StepLog::create(store_.scratch()));
  }
}

namespace {

// A file that the store has lost of an image: no step can write it again.
Status check_image(const StepJob& job, const fs::View& view,
                   const std::optional<fs::SessionFailure>& failure) {
  if (!failure || failure->kind != fs::SessionFailure::Kind::kStore) return {};
  if (!is_stored_image(job.info.image)) return {};
  HM_ASSIGN(const auto node, view.resolve(std::string_view(failure->path).substr(1)));
  if (!node || node->origin != fs::kOriginImage) return {};
  return fail(ErrorCode::kCorrupt, fs::printable(failure->path) + " of the image " +
                                       job.info.image.substr(0, job.info.image.rfind('@')) +
                                       " is damaged in the store: import it again");
}

}  // namespace

Result<StepResult> StepRunner::execute(const StepJob& job, StaticKey key, const Miss& miss,
                                       const fs::View& view, Sources& sources, Fd flight,
                                       const std::stop_token& stop) {
  HM_TRY(backend_.check());
  events_.step_cache_miss(job.info, miss.reason, miss.path, miss.change);
  events_.step_start(job.info);
  HM_ASSIGN(StepLog log, StepLog::create(store_.scratch()));
  auto execution = run_command(job, key, view, log, stop);
  if (!execution) return fail(std::move(execution).error());
  for (const std::string& warning : execution->warnings) {
    events_.note("step '" + job.info.key + "': " + warning);
  }

  if (execution->over_memory) {
    events_.note("step '" + job.info.key + "' was killed: over its memory limit of " +
                 memory_text(job.command.limits.memory.value_or(0)));
  }
  HM_TRY(check_image(job, view, execution->failure));
  HM_ASSIGN(auto back, setback(*execution, key, view));
  if (back) return std::move(*back);
  StepResult result;
  result.key = std::move(key);
  result.reason = miss.reason;
  result.duration_ms = execution->duration.count();
  result.exit_code = execution->exit_code;
  HM_ASSIGN(result.log, log.finish(store_.blobs()));
  HM_ASSIGN(result.trace, store_.blobs().put(execution->trace.encode()));
  if (execution->cancelled) {
    result.outcome = StepOutcome::kCancelled;
    result.exit_code = 130;
    return result;
  }
  HM_TRY(record(job, *execution, result, std::move(flight)));
  HM_ASSIGN(const auto moved, moved_path(execution->trace, view, sources));
  if (moved) {
    // What was recorded is true of what was served; this run must not go on with it.
    return restart(std::move(result.key), *moved);
  }
  HM_ASSIGN(result.inputs, fs::PathSet::decode(execution->trace.encode_path_set()));
  return result;
}

// The restart that an execution asks for, if it does.
Result<std::optional<StepResult>> StepRunner::setback(const Execution& execution,
                                                      const StaticKey& key, const fs::View& view) {
  const auto& failure = execution.failure;
  if (failure && failure->kind == fs::SessionFailure::Kind::kMoved) {
    return std::optional(restart(key, failure->path));
  }
  if (failure && failure->kind == fs::SessionFailure::Kind::kStore) {
    HM_TRY(drop_damaged(view));
    StepResult result = restart(key, failure->reason);
    result.store_damaged = true;
    return std::optional(std::move(result));
  }
  return std::optional<StepResult>{};
}

namespace {

// What a step wrote to each stream, however it was cut into pieces.
struct OutputDigest {
  Hasher out, err;
  void add(Stream stream, std::string_view bytes) {
    (stream == Stream::kStdout ? out : err).update(bytes);
  }
  std::pair<Digest, Digest> finish() { return {out.finish(), err.finish()}; }
};

constexpr const char* kNotDeterministic =
    "the step is not deterministic, or depends on something that is not observed (time, "
    "randomness, the network)";

Verification compare(const Execution& again, const fs::Layer& recorded, bool same_output) {
  using Outcome = Verification::Outcome;
  if (!again.captured && again.exit_code == 0 && again.failure) {
    return {Outcome::kUnknown, again.failure->path + ": " + again.failure->reason, {}};
  }
  if (!again.captured) {
    return {
        Outcome::kFailed,
        "exit " + std::to_string(again.exit_code) + ", where it had passed: " + kNotDeterministic,
        {}};
  }
  auto differences = fs::layer_differences(recorded, *again.captured->layer.layer);
  if (!differences.empty()) {
    return {Outcome::kDiffers, std::string("what it wrote differs: ") + kNotDeterministic,
            std::move(differences)};
  }
  return {Outcome::kSame,
          same_output ? "the same result" : "the same result (but it printed something else)",
          {}};
}

}  // namespace

// The recorded result stays what it is, and is what the steps after this one start from.
Result<StepResult> StepRunner::verify_hit(const StepJob& job, StaticKey key, Hit hit,
                                          const fs::View& view, Sources& sources,
                                          const std::stop_token& stop) {
  HM_TRY(backend_.check());
  const Digest log = hit.record.log;
  OutputDigest now, before;
  auto again = backend_.run(
      view, job.command, [&](Stream stream, std::string_view bytes) { now.add(stream, bytes); },
      stop);
  if (!again) return fail(std::move(again).error());
  HM_TRY(check_image(job, view, again->failure));
  HM_ASSIGN(auto back, setback(*again, key, view));
  if (back) return std::move(*back);
  HM_ASSIGN(const auto moved, moved_path(again->trace, view, sources));
  if (moved) return restart(std::move(key), *moved);
  if (again->cancelled) {
    StepResult result;
    result.outcome = StepOutcome::kCancelled;
    result.exit_code = 130;
    return result;
  }
  const auto replayed = replay_log(store_.blobs(), log, [&](Stream stream, std::string_view bytes) {
    before.add(stream, bytes);
  });
  const bool same_output = replayed && now.finish() == before.finish();
  HM_ASSIGN(StepResult result, adopt_hit(job, std::move(key), std::move(hit)));
  const Verification verification = compare(*again, *result.layer->layer, same_output);
  events_.step_verified(job.info, verification);
  result.refuted = verification.outcome != Verification::Outcome::kSame;
  result.reason += "; run again: " + verification.message;
  return result;
}

Status StepRunner::record(const StepJob& job, const Execution& execution, StepResult& result,
                          Fd flight) {
  if (!execution.captured) {
    result.outcome = StepOutcome::kFailed;
    return {};
  }
  result.outcome = StepOutcome::kRan;
  result.layer = execution.captured->layer;
  store::BlobStore& blobs = store_.blobs();
  HM_ASSIGN(result.path_set, blobs.put(execution.trace.encode_path_set()));
  result.strong_key = fs::strong_key(result.key.digest, result.path_set, execution.trace);
  store::Batch batch;
  batch.layers.push_back(execution.captured->times);
  batch.locks.push_back(std::move(flight));
  if (execution.failure) {
    result.strong_key = Digest{};
    events_.note("step '" + job.info.key + "' is not cached: " + execution.failure->path + ": " +
                 execution.failure->reason);
  } else if (job.cache.enabled) {
    const bool replaces = job.forced.has_value();
    HM_ASSIGN(const auto other, store_.find(result.key.digest, result.strong_key));
    const bool expired = other && has_expired(*other, job.cache.ttl);
    // Of a record whose layer is lost nobody else could make a hit: ours takes its place.
    bool adopted = false;
    if (other && !replaces && !expired) {
      // Somebody finished the same step on the same inputs first: theirs is the result.
      HM_ASSIGN(adopted, adopt_layer(*other, result));
    }
    batch.replace_records = replaces || expired || (other && !adopted);
    batch.records.push_back({result.key.digest, result.strong_key, result.path_set, result.trace,
                             execution.captured->layer.digest, result.log, now_ns(),
                             result.duration_ms});
  }
  store_.submit(std::move(batch));
  return {};
}

Result<bool> StepRunner::adopt_layer(const store::Record& other, StepResult& result) {
  HM_TRY(store_.claim_result(other));
  HM_ASSIGN(const auto times, store_.layer_times(other.layer));
  if (!times) return false;
  auto layer = fs::load_view_layer(*times, store_.blobs());
  if (!layer) return false;
  result.layer = std::move(*layer);
  return true;
}

Result<std::optional<std::string>> StepRunner::moved_path(const fs::Trace& trace,
                                                          const fs::View& view, Sources& sources) {
  std::vector<std::string_view> paths;
  for (const fs::Observation& item : trace.observations) paths.push_back(item.path);
  HM_ASSIGN(const auto moved, view.first_moved(paths));
  if (moved) return std::optional("/" + *moved);
  return sources.moved_rule_file();
}

Status StepRunner::drop_damaged(const fs::View& view) {
  for (const fs::ViewLayer& item : view.layers()) {
    const auto& entries = item.layer->entries();
    const bool whole = std::all_of(entries.begin(), entries.end(), [&](const auto& entry) {
      const bool has_bytes =
          !entry.whiteout && entry.entry.kind == fs::EntryKind::kFile && entry.entry.size > 0;
      return !has_bytes || store_.blobs().has(entry.content, entry.entry.size);
    });
    if (!whole) HM_TRY(store_.drop_layer(item.digest));
  }
  return {};
}

Result<bool> StepRunner::still_holds(const StepResult& result, const fs::View& view) {
  if (result.strong_key.is_zero()) return false;  // its observation log is incomplete
  auto blob = store_.blobs().read(result.path_set);
  if (!blob) return false;
  HM_ASSIGN(const auto path_set, fs::PathSet::decode(std::move(*blob)));
  const auto today = fs::strong_key_on(view, result.key.digest, result.path_set, *path_set);
  return today && *today == result.strong_key;
}

}  // namespace hm::runner
