#include "runner/attempt.h"

#include <array>
#include <ctime>
#include <thread>

#include "fs/capture.h"
#include "store/util/fd.h"

namespace hm::runner {

namespace {

constexpr std::array<const char*, 2> kTemporary = {"tmp", "var/tmp"};

// File times come from the kernel's coarse clock, which lags: a file written right away must not
// look older than the start of its step.
std::int64_t coarse_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return to_ns(now);
}

}  // namespace

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

Result<Preparation> observe_before(fs::Session& session, const fs::View& view,
                                   const Command& command) {
  Preparation out;
  for (const char* path : kTemporary) {
    HM_ASSIGN(const auto node, session.observe(path, fs::ObservationKind::kProbe));
    if (!node || node->entry.kind != fs::EntryKind::kDirectory) continue;
    HM_TRY(session.observe(path, fs::ObservationKind::kList));
    HM_ASSIGN(const fs::Listing names, view.list(*node));
    if (names.empty()) out.empty_directories.emplace_back(path);
  }
  HM_ASSIGN(out.warnings, observe_declared(session, view, command.on_change));
  return out;
}

std::optional<fs::SessionFailure> as_failure(const Error& error) {
  if (error.code != ErrorCode::kChanged) return std::nullopt;
  return fs::SessionFailure{fs::SessionFailure::Kind::kMoved, error.message, error.message};
}

// What a program does that cannot fork depends on the moment.
void note_over_pids(std::uint64_t pids, Execution& execution) {
  const std::string reached = "reached its limit of " + std::to_string(pids) + " processes";
  execution.warnings.push_back(reached);
  if (execution.failure) return;
  execution.failure =
      fs::SessionFailure{fs::SessionFailure::Kind::kIncomplete, "pids", "it " + reached};
}

Result<std::optional<CapturedLayer>> keep_layer(std::shared_ptr<const fs::Layer> layer,
                                                std::int64_t started_ns, store::Store& store) {
  HM_ASSIGN(const fs::StoredLayer stored, fs::store_layer(*layer, store.blobs()));
  HM_TRY(store.claim_layer(stored.digest));
  // Of one that is known already, nothing below it has to look new.
  HM_ASSIGN(const auto known, store.layer_times(stored.digest));
  store::LayerTimes times{stored.digest, stored.mtimes, started_ns, now_ns()};
  if (known) {
    if (auto old = fs::load_layer(*known, store.blobs())) {
      times = *known;
      layer = *old;
    } else {
      HM_TRY(store.drop_layer(stored.digest));  // its times are damaged: these take their place
    }
  }
  fs::ViewLayer view_layer{
      stored.digest, std::move(layer), times.started_ns, times.captured_ns, {}};
  return std::optional(CapturedLayer{std::move(view_layer), times});
}

}  // namespace hm::runner
