// One attempt at a step: what every backend does before and after the command, whatever runs it.
//
// The backends differ in where the command runs; what is observed before it, when it may start, and
// what becomes of its layer must not. Functions without state; each call on its own thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runner/backend.h"

namespace hm::runner {

// When the step starts, in nanoseconds on CLOCK_REALTIME: later than all that its ancestors wrote.
// Waits for that where needed; a clock that was set back is not waited for.
std::int64_t start_after(const fs::View& view);

struct Preparation {
  std::vector<std::string> warnings;
  // To be given to the step empty and opaque: one listing was observed, instead of one absent name
  // for each random temporary file to come.
  std::vector<std::string> empty_directories;
};

// Everything that is observed before the command runs.
Result<Preparation> observe_before(fs::Session& session, const fs::View& view,
                                   const Command& command);

// A live path that moves while it is observed is a failure of the attempt, not of the machine.
std::optional<fs::SessionFailure> as_failure(const Error& error);

// Adds that the step met its limit of processes: no result to keep.
void note_over_pids(std::uint64_t pids, Execution& execution);

// Stores the layer. An equal one that is known already keeps its times.
Result<std::optional<CapturedLayer>> keep_layer(std::shared_ptr<const fs::Layer> layer,
                                                std::int64_t started_ns, store::Store& store);

}  // namespace hm::runner
