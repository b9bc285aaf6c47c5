#include "runner/store_check.h"

#include <unordered_set>

#include "fs/capture.h"
#include "fs/stored_source.h"
#include "fs/trace.h"
#include "runner/step_log.h"
#include "store/claims.h"

namespace hm::runner {

namespace {

using store::Record;

std::string short_name(const Digest& digest) { return digest.hex().substr(0, 12); }

class MeaningCheck {
 public:
  MeaningCheck(store::Store& store, store::BlobSizes sizes, store::Repair repair,
               store::Findings& findings)
      : store_(store), sizes_(std::move(sizes)), repair_(repair), findings_(findings) {}

  Result<StoreTotals> run() {
    HM_ASSIGN(const Fd held, store::hold_off_prune(store_.home()));
    HM_ASSIGN(const auto layers, store_.layers());
    for (const store::LayerTimes& times : layers) HM_TRY(check_layer(times));
    HM_ASSIGN(const auto images, store_.images());
    for (const store::Image& image : images) HM_TRY(check_image(image));
    HM_ASSIGN(const auto records, store_.records());
    for (const Record& record : records) HM_TRY(check_record(record));
    return StoreTotals{records.size(), layers.size()};
  }

 private:
  Status check_layer(const store::LayerTimes& times) {
    const std::string fault = layer_fault(times);
    if (fault.empty()) {
      whole_layers_.insert(times.layer);
      return {};
    }
    if (repairs()) HM_TRY(store_.drop_layer(times.layer));
    findings_.add("layer " + short_name(times.layer) + ": " + fault, repairs());
    return {};
  }

  // Of one that lost a part nothing is left but its name.
  Status check_image(const store::Image& image) {
    const std::string fault = image_fault(image);
    if (fault.empty()) return {};
    if (repairs()) HM_TRY(store_.remove_image(image.name));
    findings_.add("image " + image.name + ": " + fault + " (import it again)", repairs());
    return {};
  }

  std::string image_fault(const store::Image& image) {
    const auto times = store_.layer_times(image.tree);
    const bool known = times && *times;
    if (!known || (!whole_layers_.contains(image.tree) && !layer_fault(**times).empty())) {
      return "its tree " + short_name(image.tree) + " is not whole";
    }
    const auto tree = fs::load_layer(**times, store_.blobs());
    return tree && fs::is_whole_tree(**tree) ? "" : "what it names is no tree";
  }

  std::string layer_fault(const store::LayerTimes& times) {
    const auto layer = fs::load_layer(times, store_.blobs());
    if (!layer) return layer.error().message;
    for (const fs::LayerEntry& item : (*layer)->entries()) {
      const bool has_bytes =
          !item.whiteout && item.entry.kind == fs::EntryKind::kFile && item.entry.size > 0;
      if (!has_bytes || size_of(item.content) == item.entry.size) continue;
      return "/" + fs::printable(item.path) + " has lost its content " + short_name(item.content);
    }
    return "";
  }

  // A blob may have come after those that are known were looked at.
  std::optional<std::uint64_t> size_of(const Digest& digest) {
    if (const auto known = sizes_.find(digest); known != sizes_.end()) return known->second;
    const auto size = store_.blobs().verified_size(digest);
    if (!size) return std::nullopt;
    sizes_.emplace(digest, *size);
    return *size;
  }

  Status check_record(const Record& record) {
    const std::string fault = record_fault(record);
    if (fault.empty()) return {};
    if (repairs()) HM_TRY(store_.drop_record(record));
    findings_.add("record " + short_name(record.strong_key) + ": " + fault, repairs());
    return {};
  }

  std::string record_fault(const Record& record) {
    if (!whole_layers_.contains(record.layer)) {
      // Or it came after the layers were looked at.
      const auto times = store_.layer_times(record.layer);
      if (!times || !*times || !layer_fault(**times).empty()) {
        return "its layer " + short_name(record.layer) + " is not in the store";
      }
      whole_layers_.insert(record.layer);
    }
    const auto bytes = store_.blobs().read(record.trace);
    if (!bytes) return "its trace: " + bytes.error().message;
    const auto trace = fs::Trace::decode(*bytes);
    if (!trace) return "its trace: " + trace.error().message;
    if (Digest::of(trace->encode_path_set()) != record.path_set ||
        fs::strong_key(record.static_key, record.path_set, *trace) != record.strong_key) {
      return "its trace is of another record";
    }
    if (!size_of(record.path_set)) return "its path set is not in the store";
    const auto log = replay_log(store_.blobs(), record.log, [](Stream, std::string_view) {});
    return log ? "" : "its log: " + log.error().message;
  }

  bool repairs() const { return repair_ == store::Repair::kYes; }

  store::Store& store_;
  store::BlobSizes sizes_;
  const store::Repair repair_;
  store::Findings& findings_;
  std::unordered_set<Digest> whole_layers_;
};

}  // namespace

Result<StoreTotals> check_meanings(store::Store& store, store::BlobSizes sizes,
                                   store::Repair repair, store::Findings& findings) {
  return MeaningCheck(store, std::move(sizes), repair, findings).run();
}

}  // namespace hm::runner
