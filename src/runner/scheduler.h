// Scheduler: runs a pipeline's graph over a few worker threads.
//
// A step is ready when its parent passed and the steps it comes after have ended. The first failure
// stops the rest unless keep_going; what is not run is skipped, with its cause, transitively. If a
// live file moved under a step, the attempt ends when the running steps have, and the pipeline
// starts over on fresh pins: steps whose observations still hold keep their results silently, the
// others run again. Twice at most, then the run fails.
//
// One Run object, one run. `execute` blocks; it may be stopped through the token from any thread.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "runner/backend.h"
#include "runner/events.h"
#include "runner/isolation.h"
#include "runner/pipeline.h"
#include "runner/step_runner.h"
#include "store/store.h"

namespace hm::runner {

// Exit codes of hm, as in hm(1).
enum class ExitCode {
  kPassed = 0,
  kFailed = 1,
  kUsage = 2,
  kInfrastructure = 4,
  kInvalidPipeline = 7,
  kTimeout = 124,
  kExecFailed = 125,
  kCancelled = 130,
};

struct RunOptions {
  std::string workspace;                   // absolute project root
  std::optional<std::string> image;        // instead of every root step's own
  std::map<std::string, std::string> env;  // on top of every step's
  std::set<std::string> rerun;             // keys whose lookup is left out
  bool verify = false;                     // run hits again and compare; exit code 1 if one differs
  enum class Cache { kUse, kIgnore } cache = Cache::kUse;
  enum class OnFailure { kStop, kKeepGoing } on_failure = OnFailure::kStop;
  unsigned parallelism = 1;
};

struct RunOutcome {
  ExitCode exit_code = ExitCode::kPassed;
  std::optional<Error> error;     // with kInfrastructure: what the machine lacks
  std::vector<StepResult> steps;  // one per step of the pipeline; skipped ones as default
};

// What a dry run says of one step.
struct Plan {
  std::string key;
  enum class What { kHit, kRuns, kUnknown } what = What::kUnknown;  // unknown: its parent runs
  std::string reason;
};

class Run {
 public:
  // kNotFound when a root step's image is unknown.
  static Result<std::unique_ptr<Run>> create(Pipeline pipeline, RunOptions options, IdMode id_mode,
                                             store::Store& store, Backend& backend,
                                             EventSink& events);
  virtual ~Run() = default;
  virtual Result<RunOutcome> execute(const std::stop_token& stop) = 0;
  virtual Result<std::vector<Plan>> plan() = 0;
};

// The name of the image that a step without a parent starts from.
std::string image_name(const Pipeline& pipeline, const Step& step, const RunOptions& options);

// The command that a step of a pipeline means on an image, with the environment it starts with.
Command command_of(const Step& step, const image::ImageConfig& config,
                   const std::map<std::string, std::string>& extra_env);

}  // namespace hm::runner
