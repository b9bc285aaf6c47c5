// Events: what a run tells its reader, as one object per happening (kinds in hm(1)).
//
// The scheduler calls an EventSink from its worker threads; sinks are thread-safe. JsonEvents
// writes one object per line and loses none: a thread of its own writes, so that a slow reader does
// not hold up the run, and a reader that goes away only ends the writing. HumanEvents prints
// progress for people on stderr.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/layer_diff.h"
#include "runner/step_log.h"

namespace hm::runner {

struct StepInfo {
  std::string id;  // a UUID, unique to this run
  std::string key;
  std::string label;
  std::optional<std::string> parent_key;
  std::string image;      // of the step's chain
  std::size_t chain = 0;  // number of its chain: a maximal run of single parent links
};

struct BuildInfo {
  std::string run_id;
  std::size_t steps = 0;
  std::size_t chains = 0;
  std::string runner;
};

// What became of a cached step that was run again to see whether it does the same.
struct Verification {
  enum class Outcome { kSame, kDiffers, kFailed, kUnknown } outcome = Outcome::kSame;
  std::string message;                           // one line
  std::vector<fs::LayerDifference> differences;  // with kDiffers
};

class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void build_start(const BuildInfo& build) = 0;
  virtual void step_queued(const StepInfo& step) = 0;
  virtual void step_cache_miss(const StepInfo& step, const std::string& reason,
                               const std::optional<std::string>& path,
                               const std::optional<std::string>& change) = 0;
  virtual void step_start(const StepInfo& step) = 0;
  virtual void step_log(const StepInfo& step, Stream stream, std::string_view line) = 0;
  // The same bytes as they come, before they are cut into lines.
  virtual void step_output(const StepInfo&, Stream, std::string_view) {}
  virtual void step_cache_hit(const StepInfo& step, const std::string& tag,
                              std::size_t observations) = 0;
  virtual void step_verified(const StepInfo&, const Verification&) {}
  virtual void step_skipped(const StepInfo& step, const std::string& reason,
                            const std::string& cause) = 0;
  virtual void step_end(const StepInfo& step, int exit_code, std::int64_t duration_ms,
                        const std::string& snapshot) = 0;
  virtual void chain_failed(const StepInfo& step, int exit_code, const std::string& message) = 0;
  virtual void build_end(int exit_code, std::int64_t duration_ms) = 0;
  // A line for people: warnings, waiting for another process, a restart.
  virtual void note(const std::string& text) = 0;
};

enum class LogLines { kFailedOnly, kAll };

std::unique_ptr<EventSink> make_json_events(int fd);
std::unique_ptr<EventSink> make_human_events(int fd, LogLines lines);
// Says nothing but notes, on `fd`.
std::unique_ptr<EventSink> make_quiet_events(int fd);

std::string new_uuid();
// RFC 3339 with milliseconds, UTC.
std::string timestamp_now();

}  // namespace hm::runner
