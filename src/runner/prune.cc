#include "runner/prune.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "fs/capture.h"
#include "store/claims.h"

namespace hm::runner {

namespace {

// A record or a run's report: what is forgotten as a whole.
struct Unit {
  std::int64_t used_ns = 0;
  const store::Record* record = nullptr;
  const store::RunNames* run = nullptr;
};

class Prune {
 public:
  Prune(store::Store& store, std::optional<std::uint64_t> max_bytes)
      : store_(store), max_bytes_(max_bytes) {}

  Result<Pruned> run() {
    HM_TRY(store_.flush());
    HM_ASSIGN(const Fd stopped, store::stop_claims(store_.home()));
    HM_ASSIGN(const auto claims, store::read_claims(store_.home()));
    HM_ASSIGN(layers_, layers_by_digest());
    for (const auto& [kind, digest] : claims) keep(named(kind, digest));
    HM_ASSIGN(const auto images, store_.images());
    for (const store::Image& image : images) keep(named(store::ClaimKind::kLayer, image.tree));
    HM_TRY(choose());
    store::Eviction eviction = std::move(eviction_);
    for (const auto& [digest, times] : layers_) {
      if (!kept_layers_.contains(digest)) eviction.layers.push_back(digest);
    }
    eviction.files = max_bytes_ == 0;
    HM_TRY(store_.evict(eviction));
    Pruned out{eviction.records.size(), eviction.runs.size(), eviction.layers.size(), {}, bytes_};
    HM_ASSIGN(out.blobs,
              store_.sweep([this](const Digest& digest) { return kept_.contains(digest); }));
    return out;
  }

 private:
  using Names = std::unordered_map<Digest, std::uint64_t>;  // blob → bytes

  Result<std::unordered_map<Digest, store::LayerTimes>> layers_by_digest() {
    HM_ASSIGN(const auto rows, store_.layers());
    std::unordered_map<Digest, store::LayerTimes> out;
    for (const store::LayerTimes& row : rows) out.emplace(row.layer, row);
    return out;
  }

  // The newest first; the first that does not fit and all before it go.
  Status choose() {
    HM_ASSIGN(const auto records, store_.records());
    HM_ASSIGN(const auto runs, store_.run_names());
    std::vector<Unit> units;
    for (const auto& record : records) units.push_back({record.used_ns, &record, nullptr});
    for (const auto& run : runs) units.push_back({run.started_ns, nullptr, &run});
    std::stable_sort(units.begin(), units.end(),
                     [](const Unit& a, const Unit& b) { return a.used_ns > b.used_ns; });
    bool full = false;
    for (const Unit& unit : units) {
      if (!full) {
        const Names names = named(unit);
        full = max_bytes_ && bytes_ + added_bytes(names) > *max_bytes_;
        if (!full) keep(names);
      }
      if (full) forget(unit);
    }
    return {};
  }

  void forget(const Unit& unit) {
    if (unit.record != nullptr) eviction_.records.push_back(*unit.record);
    if (unit.run != nullptr) eviction_.runs.push_back(unit.run->id);
  }

  Names named(const Unit& unit) {
    Names out;
    if (const store::Record* record = unit.record) {
      for (const Digest& blob : {record->path_set, record->trace, record->log}) {
        add_blob(out, blob);
      }
      add_layer(out, record->layer);
      return out;
    }
    for (const Digest& blob : unit.run->blobs) add_blob(out, blob);
    for (const Digest& layer : unit.run->layers) add_layer(out, layer);
    return out;
  }

  Names named(store::ClaimKind kind, const Digest& digest) {
    Names out;
    if (kind == store::ClaimKind::kLayer) {
      add_layer(out, digest);
    } else {
      add_blob(out, digest);
    }
    return out;
  }

  void add_blob(Names& out, const Digest& digest) {
    if (!digest.is_zero()) out.emplace(digest, store_.blobs().size(digest).value_or(0));
  }

  // A layer that is not to be read names itself only: its record is of no use to anybody.
  void add_layer(Names& out, const Digest& digest) {
    if (digest.is_zero()) return;
    add_blob(out, digest);
    const auto row = layers_.find(digest);
    if (row == layers_.end()) return;
    add_blob(out, row->second.mtimes);
    auto& contents = contents_[digest];
    if (!contents) contents = contents_of(row->second);
    out.insert(contents->begin(), contents->end());
  }

  Names contents_of(const store::LayerTimes& times) {
    Names out;
    const auto layer = fs::load_layer(times, store_.blobs());
    if (!layer) return out;
    for (const fs::LayerEntry& item : (*layer)->entries()) {
      if (!item.whiteout && item.entry.kind == fs::EntryKind::kFile) {
        out.emplace(item.content, item.entry.size);
      }
    }
    return out;
  }

  std::uint64_t added_bytes(const Names& names) const {
    std::uint64_t sum = 0;
    for (const auto& [digest, size] : names) sum += kept_.contains(digest) ? 0 : size;
    return sum;
  }

  void keep(const Names& names) {
    bytes_ += added_bytes(names);
    for (const auto& [digest, size] : names) {
      kept_.insert(digest);
      if (layers_.contains(digest)) kept_layers_.insert(digest);
    }
  }

  store::Store& store_;
  const std::optional<std::uint64_t> max_bytes_;
  std::unordered_map<Digest, store::LayerTimes> layers_;
  std::unordered_map<Digest, std::optional<Names>> contents_;  // by layer, read once
  std::unordered_set<Digest> kept_, kept_layers_;
  std::uint64_t bytes_ = 0;  // of kept_
  store::Eviction eviction_;
};

}  // namespace

Result<Pruned> prune(store::Store& store, std::optional<std::uint64_t> max_bytes) {
  return Prune(store, max_bytes).run();
}

}  // namespace hm::runner
