// Store: $HM_HOME — blobs, the record database, scratch folders, and the locks of steps in flight.
//
// Any number of processes may have one store open. What a run learned is submitted as a Batch; a
// background committer makes the blobs durable (one syncfs) and only then visible to other
// processes (one transaction), so no step waits for a disk. kill -9 at any moment loses at most
// what was not committed yet. Thread-safe.
//
// Database format: `user_version` kFormat; a store of a newer format is refused, not touched.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "store/blob_store.h"
#include "store/blob_walk.h"
#include "store/file_index.h"
#include "store/scratch.h"
#include "store/util/digest.h"
#include "store/util/fd.h"
#include "store/util/result.h"

namespace hm::store {

// At most this many path sets are kept for one static key; the least recently used goes first.
inline constexpr int kMaxPathSets = 16;

// What one execution left: see DESIGN terms in man/hm-design.7. All digests but the keys name
// blobs.
struct Record {
  Digest static_key;
  Digest strong_key;
  Digest path_set;
  Digest trace;
  Digest layer;
  Digest log;
  std::int64_t created_ns = 0;   // CLOCK_REALTIME when the step ended
  std::int64_t duration_ms = 0;  // of the execution
  std::int64_t used_ns = 0;      // the last time; the store's own
};

// When a layer was written; kept beside the layer's blob, which holds no times.
struct LayerTimes {
  Digest layer;
  Digest mtimes;  // blob, see fs/layer.h
  std::int64_t started_ns = 0;
  std::int64_t captured_ns = 0;
};

// One step of a run, for `hm why|trace|log|export`.
struct RunStep {
  std::string key;
  std::string outcome;     // hit, ran, failed, skipped, cancelled
  std::string reason;      // one line: why it ran, or why not
  std::string components;  // JSON: part of the static key → digest
  Digest static_key, trace, layer, log;
  std::string chain;  // the view's layers below the step's own, oldest first, 32 bytes each
  std::string image;
  std::int64_t exit_code = 0;
  std::int64_t duration_ms = 0;
};
struct RunReport {
  std::string workspace;
  std::string pipeline;
  std::int64_t started_ns = 0;
  std::vector<RunStep> steps;
};

// An imported root filesystem. Its tree is a layer that hides nothing (fs/stored_source.h).
struct Image {
  std::string name;
  Digest tree;
  std::string config;  // JSON, see image/config.h
  std::string source;  // what it was made from, for people
  std::int64_t imported_ns = 0;
  std::uint64_t entries = 0, bytes = 0;  // bytes: of all files
};

struct Batch {
  std::vector<LayerTimes> layers;
  std::vector<Image> images;  // each takes the place of one of the same name
  std::vector<Record> records;
  bool replace_records = false;  // else an existing record of the same strong key stays
  std::vector<FileDigest> files;
  std::optional<RunReport> report;
  std::vector<Fd> locks;  // steps in flight: released once the batch is visible
};

struct StoreStats {
  std::uint64_t blobs = 0, blob_bytes = 0, records = 0, path_sets = 0, layers = 0, files = 0,
                images = 0;
};

// What the report of one run names.
struct RunNames {
  std::int64_t id = 0;
  std::int64_t started_ns = 0;
  std::vector<Digest> blobs;   // traces and logs
  std::vector<Digest> layers;  // left by its steps, and below them
};

// Rows to forget.
struct Eviction {
  std::vector<Record> records;
  std::vector<std::int64_t> runs;
  std::vector<Digest> layers;
  bool files = false;  // all digests of files
};

class Store {
 public:
  // `home` is created if missing. kRefused when it cannot be used or is newer than this program.
  static Result<std::unique_ptr<Store>> open(const std::string& home);
  virtual ~Store() = default;

  virtual const std::string& home() const = 0;
  virtual BlobStore& blobs() = 0;
  virtual Scratch& scratch() = 0;

  // Path sets known for a static key, most recently used first, at most kMaxPathSets.
  virtual Result<std::vector<Digest>> path_sets(const Digest& static_key) = 0;
  // How many path sets of this key were dropped to stay under kMaxPathSets.
  virtual Result<std::int64_t> dropped_path_sets(const Digest& static_key) = 0;
  virtual Result<std::optional<Record>> find(const Digest& static_key,
                                             const Digest& strong_key) = 0;
  // The newest record under one path set: what a miss is explained against.
  virtual Result<std::optional<Record>> newest(const Digest& static_key,
                                               const Digest& path_set) = 0;
  virtual Result<std::optional<LayerTimes>> layer_times(const Digest& layer) = 0;
  virtual Result<std::optional<Digest>> file_digest(const FileStamp& stamp) = 0;
  // The same, of what is no file of a path set.
  virtual Result<std::optional<Digest>> other_digest(const FileStamp& stamp) = 0;
  // The digests of the files that a path set names, kept and found again all at once. What was
  // recalled serves `file_digest`. It saves only time: it may be lost or out of date, and an error
  // is as good as nothing kept.
  virtual void recall_files(const Digest& path_set) = 0;
  virtual void keep_files(const Digest& path_set, const std::vector<FileDigest>& files) = 0;
  // Whether `file_digest` found in what was recalled all that it was asked for.
  virtual bool recalled_all() const = 0;
  virtual Result<std::optional<RunReport>> last_run(const std::string& workspace) = 0;
  // The newest report of one step in this workspace, from whatever run held it.
  virtual Result<std::optional<RunStep>> last_step(const std::string& workspace,
                                                   const std::string& pipeline,
                                                   const std::string& key) = 0;
  virtual Result<std::vector<Image>> images() = 0;  // by name
  virtual Result<std::optional<Image>> image(const std::string& name) = 0;
  virtual Status remove_image(const std::string& name) = 0;
  // Forgets this layer and every record whose result it is: its bytes are gone or wrong.
  virtual Status drop_layer(const Digest& layer) = 0;
  // Forgets the digests of all files: one of them was wrong.
  virtual Status drop_file_digests() = 0;
  virtual Status drop_record(const Record& record) = 0;
  // Forgets a path set whose blob is gone or wrong, and every record under it.
  virtual Status drop_path_set(const Digest& static_key, const Digest& path_set) = 0;
  // Everything, as of one moment; least recently used first.
  virtual Result<std::vector<Record>> records() = 0;
  virtual Result<std::vector<LayerTimes>> layers() = 0;
  virtual Result<std::vector<RunNames>> run_names() = 0;
  // One transaction; path sets without a record go too.
  virtual Status evict(const Eviction& eviction) = 0;
  // Removes every blob that `keep` does not want. The caller has stopped all claims.
  virtual Result<Swept> sweep(const std::function<bool(const Digest&)>& keep) = 0;
  // Says that this process relies on the layer and the blobs, see claims.h. Before it looks whether
  // they are there.
  virtual Status claim_layer(const Digest& layer) = 0;
  virtual Status claim_result(const Record& record) = 0;
  virtual void touch(const Record& record) = 0;  // used now; written with the next batch

  // Queues the batch; returns at once. Errors are kept for `flush`.
  virtual void submit(Batch batch) = 0;
  virtual Status flush() = 0;

  // An exclusive lock on a step in flight, over all processes. kCancelled when `stop` was
  // requested. `waiting` is called once if somebody else holds it.
  virtual Result<Fd> lock_in_flight(const Digest& name, const std::stop_token& stop,
                                    const std::function<void()>& waiting) = 0;

  virtual Result<StoreStats> stats() = 0;
  // Removes all records and every blob. Refused (kRefused) while another process has scratch here.
  virtual Status clear() = 0;
};

}  // namespace hm::store
