#include "runner/lookup.h"

#include <spdlog/spdlog.h>

#include "fs/capture.h"
#include "fs/known_values.h"

namespace hm::runner {

namespace {

class Lookup {
 public:
  Lookup(store::Store& store, const fs::View& view, const StaticKey& key,
         std::optional<std::chrono::seconds> ttl)
      : store_(store), view_(view), key_(key), ttl_(ttl), flight_(key.digest) {}

  Result<LookupResult> run(const PreviousStep& previous) {
    HM_ASSIGN(const auto path_sets, store_.path_sets(key_.digest));
    for (const Digest& path_set : path_sets) {
      HM_ASSIGN(auto hit, try_path_set(path_set));
      if (hit) return LookupResult{std::move(*hit), flight_};
    }
    HM_ASSIGN(Miss miss, explain(path_sets.empty(), previous));
    return LookupResult{std::move(miss), flight_};
  }

 private:
  Result<std::optional<Hit>> try_path_set(const Digest& digest) {
    const std::optional<Hit> none;
    auto path_set = read_path_set(digest);
    if (!path_set) {
      // Forgotten, or it would be in the way for ever.
      HM_TRY(store_.drop_path_set(key_.digest, digest));
      return damaged(path_set.error());
    }
    store_.recall_files(digest);
    const auto strong = fs::strong_key_on(view_, key_.digest, digest, **path_set);
    if (!strong) {
      if (strong.error().code == ErrorCode::kChanged) return fail(strong.error());
      note({"an input could not be observed: " + strong.error().message, {}, {}});
      return none;
    }
    if (flight_ == key_.digest) flight_ = *strong;
    HM_ASSIGN(const auto record, store_.find(key_.digest, *strong));
    spdlog::debug("lookup: key {:.12} path set {:.12} ({} paths): {}", key_.digest.hex(),
                  digest.hex(), (*path_set)->items().size(), record ? "known" : "not known");
    if (!record) {
      HM_TRY(explain_change(digest));
      return none;
    }
    if (has_expired(*record, ttl_)) {
      note({"its result is older than its ttl", {}, {}});
      return none;
    }
    return load(*record, digest, std::move(*path_set));
  }

  Result<std::shared_ptr<const fs::PathSet>> read_path_set(const Digest& digest) {
    fs::KnownValues* const known = view_.known_values();
    if (auto path_set = known != nullptr ? known->path_set(digest) : nullptr) return path_set;
    HM_ASSIGN(std::string blob, store_.blobs().read(digest));
    HM_ASSIGN(auto path_set, fs::PathSet::decode(std::move(blob)));
    if (known != nullptr) known->add_path_set(digest, path_set);
    return path_set;
  }

  // A record that lacks a part of its result is forgotten: the step makes a new one.
  Result<std::optional<Hit>> load(const store::Record& record, const Digest& path_set,
                                  std::shared_ptr<const fs::PathSet> inputs) {
    HM_TRY(store_.claim_result(record));
    if (record.path_set != path_set) {
      HM_TRY(store_.drop_record(record));
      return damaged(Error{ErrorCode::kCorrupt, 0, "a record names the wrong path set"});
    }
    HM_ASSIGN(const auto times, store_.layer_times(record.layer));
    if (!times || !store_.blobs().size(record.trace)) {
      HM_TRY(store_.drop_record(record));
      return damaged(Error{ErrorCode::kCorrupt, 0,
                           times ? "a record's trace is missing" : "a layer's times are missing"});
    }
    auto layer = fs::load_view_layer(*times, store_.blobs());
    if (!layer) {
      HM_TRY(store_.drop_layer(record.layer));
      return damaged(layer.error());
    }
    return std::optional(Hit{record, *times, std::move(*layer), std::move(inputs)});
  }

  Result<std::optional<Hit>> damaged(const Error& error) {
    note({"the store is damaged: " + error.message, {}, {}});
    return std::optional<Hit>{};
  }

  // Keeps the first reason: path sets come newest first.
  void note(Miss miss) {
    if (!miss_) miss_ = std::move(miss);
  }

  // Observes once more, all of which is pinned by now, to keep no values where there is a hit.
  Status explain_change(const Digest& path_set) {
    if (miss_) return {};
    HM_ASSIGN(const auto newest, store_.newest(key_.digest, path_set));
    if (!newest) return {};
    const auto blob = store_.blobs().read(newest->trace);
    if (!blob) return {};
    const auto before = fs::Trace::decode(*blob);
    if (!before) return {};
    const auto today = fs::evaluate(view_, *before);
    if (!today && today.error().code == ErrorCode::kChanged) return fail(today.error());
    if (!today) return {};
    if (auto change = fs::first_change(*before, *today)) {
      if (!change->path) {
        note({change->change, {}, change->change});
        return {};
      }
      const std::string path = "/" + *change->path;
      note({fs::printable(path) + " " + change->change, path, change->change});
    }
    return {};
  }

  Result<Miss> explain(bool unknown_key, const PreviousStep& ask_previous) {
    if (miss_) return *miss_;
    if (!unknown_key) return Miss{"no result for these inputs", {}, {}};
    HM_ASSIGN(const auto previous, ask_previous());
    if (previous) {
      const std::string change = components_change(previous->components, key_);
      if (!change.empty()) return Miss{change, {}, {}};
      if (previous->outcome == "failed") return Miss{"it failed the last time", {}, {}};
    }
    HM_ASSIGN(const std::int64_t dropped, store_.dropped_path_sets(key_.digest));
    if (dropped > 0) return Miss{"its older results were dropped from the store", {}, {}};
    return Miss{"first run", {}, {}};
  }

  store::Store& store_;
  const fs::View& view_;
  const StaticKey& key_;
  std::optional<std::chrono::seconds> ttl_;
  Digest flight_;
  std::optional<Miss> miss_;
};

}  // namespace

bool has_expired(const store::Record& record, std::optional<std::chrono::seconds> ttl) {
  const std::int64_t age_ns = now_ns() - record.created_ns;
  return ttl && (age_ns < 0 || age_ns >= std::chrono::nanoseconds(*ttl).count());
}

Result<LookupResult> look_up(store::Store& store, const fs::View& view, const StaticKey& key,
                             std::optional<std::chrono::seconds> ttl,
                             const PreviousStep& previous) {
  return Lookup(store, view, key, ttl).run(previous);
}

}  // namespace hm::runner
