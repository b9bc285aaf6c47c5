// Lookup: has this step, on this view, a result already?
//
// static key → its path sets, newest first → each evaluated on today's view → strong key → record.
// Evaluation costs what the step observed, never the size of the workspace. A miss says why, in
// one line, against the newest record that there is. Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "fs/trace.h"
#include "fs/view.h"
#include "runner/static_key.h"
#include "store/store.h"

namespace hm::runner {

struct Miss {
  std::string reason;                 // one line for people
  std::optional<std::string> path;    // the first observed path that changed
  std::optional<std::string> change;  // how
};

struct Hit {
  store::Record record;
  store::LayerTimes times;
  fs::ViewLayer layer;
  std::shared_ptr<const fs::PathSet> inputs;
};

struct LookupResult {
  std::variant<Hit, Miss> outcome;
  // Names the work in flight: same key, and the same values under the newest known path set.
  Digest flight;
};

// Whether a record is older than `ttl` allows. One from the future was made by a wrong clock.
bool has_expired(const store::Record& record, std::optional<std::chrono::seconds> ttl);

// The report of a step in the workspace's last run, to name a changed static key: asked for only
// where that is in doubt.
using PreviousStep = std::function<Result<std::optional<store::RunStep>>()>;

// kChanged when a pinned live path moved under the evaluation.
Result<LookupResult> look_up(store::Store& store, const fs::View& view, const StaticKey& key,
                             std::optional<std::chrono::seconds> ttl, const PreviousStep& previous);

}  // namespace hm::runner
