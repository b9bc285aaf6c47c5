// StepRunner: one step on one view — look up, else wait for whoever runs the same, else execute,
// capture, record.
//
// The rule it serves: a record is (static key, trace, result), made only from an execution that
// succeeded and whose observation log is complete. Thread-safe: steps run in parallel.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "fs/view.h"
#include "runner/backend.h"
#include "runner/events.h"
#include "runner/isolation.h"
#include "runner/lookup.h"
#include "runner/pipeline.h"
#include "runner/sources.h"
#include "runner/step_log.h"
#include "store/store.h"

namespace hm::runner {

enum class StepOutcome {
  kHit,
  kRan,
  kFailed,     // by itself, by a signal, or by its own timeout
  kCancelled,  // stopped from outside
  kRestart,    // a live path moved, or the store was damaged: try the run again
};
const char* to_string(StepOutcome outcome);

struct StepResult {
  StepOutcome outcome = StepOutcome::kFailed;
  int exit_code = 0;
  std::int64_t duration_ms = 0;
  std::string reason;          // why it ran; for a restart, what moved
  bool store_damaged = false;  // with kRestart
  StaticKey key;
  Digest path_set, strong_key, trace, log;
  std::optional<fs::ViewLayer> layer;         // hit or ran
  std::shared_ptr<const fs::PathSet> inputs;  // what it looked at: hit or ran
  bool refuted = false;                       // a hit whose step, run again, did not do the same
};

// One step as it is to be run in this run.
struct StepJob {
  StepInfo info;
  Command command;
  CachePolicy cache;
  // Set when the lookup is to be left out: why, in one line.
  std::optional<std::string> forced;
  bool verify = false;    // run a hit again, and compare
  PreviousStep previous;  // its report in this workspace's last run
};

class StepRunner {
 public:
  StepRunner(store::Store& store, Backend& backend, EventSink& events, IdMode id_mode)
      : store_(store), backend_(backend), events_(events), key_base_(id_mode) {}

  // Errors are the machine's or the store's.
  Result<StepResult> run(const StepJob& job, const fs::View& view, Sources& sources,
                         const std::stop_token& stop);
  // What `run` would do, without doing it.
  Result<LookupResult> preview(const StepJob& job, const fs::View& view);
  // Whether `result` of an earlier attempt is what this view gives too.
  Result<bool> still_holds(const StepResult& result, const fs::View& view);

 private:
  Result<StepResult> run_or_reuse(const StepJob& job, const fs::View& view, Sources& sources,
                                  const std::stop_token& stop);
  Result<StepResult> execute(const StepJob& job, StaticKey key, const Miss& miss,
                             const fs::View& view, Sources& sources, Fd flight,
                             const std::stop_token& stop);
  fs::LookupProfile profile_of(const StaticKey& key);
  Result<Execution> run_command(const StepJob& job, const StaticKey& key, const fs::View& view,
                                StepLog& log, const std::stop_token& stop);
  Result<StepResult> verify_hit(const StepJob& job, StaticKey key, Hit hit, const fs::View& view,
                                Sources& sources, const std::stop_token& stop);
  Result<std::optional<StepResult>> setback(const Execution& execution, const StaticKey& key,
                                            const fs::View& view);
  Result<StepResult> adopt_hit(const StepJob& job, StaticKey key, Hit hit);
  Status record(const StepJob& job, const Execution& execution, StepResult& result, Fd flight);
  Result<bool> adopt_layer(const store::Record& other, StepResult& result);
  Result<std::optional<std::string>> moved_path(const fs::Trace& trace, const fs::View& view,
                                                Sources& sources);
  Status drop_damaged(const fs::View& view);

  store::Store& store_;
  Backend& backend_;
  EventSink& events_;
  const KeyBase key_base_;
};

}  // namespace hm::runner
