#include "store/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "store/database.h"
#include "store/sqlite.h"
#include "store/util/brief_mutex.h"

namespace hm::store {

namespace {

// What the next process is left to read of the log: about 1 ms. Emptying it costs two syncs.
constexpr int kLogPagesLeft = 256;

// Reports of older runs in one workspace are of no use to anybody.
constexpr int kKeptRuns = 20;

constexpr const char* kSelectRecord =
    "SELECT static_key,strong_key,path_set,trace,layer,log,created_ns,duration_ms,"
    "used_ns FROM records ";

// The statements that readers use, prepared once.
struct Readers {
  Stmt path_sets, dropped, find, newest, layer, file;

  static Result<Readers> prepare(Db& db) {
    const std::string record = kSelectRecord;
    HM_ASSIGN(Stmt path_sets, db.prepare("SELECT path_set FROM path_sets WHERE static_key=? "
                                         "ORDER BY used_ns DESC LIMIT ?"));
    HM_ASSIGN(Stmt dropped, db.prepare("SELECT count FROM dropped_path_sets WHERE static_key=?"));
    HM_ASSIGN(Stmt find, db.prepare(record + "WHERE static_key=? AND strong_key=?"));
    HM_ASSIGN(Stmt newest, db.prepare(record + "WHERE static_key=? AND path_set=? "
                                               "ORDER BY created_ns DESC LIMIT 1"));
    HM_ASSIGN(Stmt layer,
              db.prepare("SELECT layer,mtimes,started_ns,captured_ns FROM layers WHERE layer=?"));
    HM_ASSIGN(Stmt file, db.prepare("SELECT digest FROM files WHERE device=? AND inode=? AND "
                                    "size=? AND mtime_ns=? AND ctime_ns=?"));
    return Readers{std::move(path_sets), std::move(dropped), std::move(find),
                   std::move(newest),    std::move(layer),   std::move(file)};
  }
};

// Steps a statement for at most one row and leaves no read transaction behind.
template <class Make>
auto one_row(Stmt& stmt, Make make) -> Result<std::optional<decltype(make(stmt))>> {
  std::optional<decltype(make(stmt))> out;
  HM_ASSIGN(const bool row, stmt.step());
  if (row) out = make(stmt);
  stmt.bind();
  return out;
}

template <class Make>
auto all_rows(Stmt& stmt, Make make) -> Result<std::vector<decltype(make(stmt))>> {
  std::vector<decltype(make(stmt))> out;
  while (true) {
    HM_ASSIGN(const bool row, stmt.step());
    if (!row) return out;
    out.push_back(make(stmt));
  }
}

LayerTimes layer_row(Stmt& row) {
  return LayerTimes{row.digest(0), row.digest(1), row.number(2), row.number(3)};
}

Record record_row(Stmt& row) {
  return Record{row.digest(0), row.digest(1), row.digest(2), row.digest(3), row.digest(4),
                row.digest(5), row.number(6), row.number(7), row.number(8)};
}

constexpr const char* kSelectImage =
    "SELECT name,tree,config,source,imported_ns,entries,bytes FROM images ";

Image image_row(Stmt& row) {
  return Image{row.bytes(0),
               row.digest(1),
               row.bytes(2),
               row.bytes(3),
               row.number(4),
               static_cast<std::uint64_t>(row.number(5)),
               static_cast<std::uint64_t>(row.number(6))};
}

RunStep run_step_row(Stmt& row) {
  RunStep step;
  step.key = row.bytes(0);
  step.outcome = row.bytes(1);
  step.reason = row.bytes(2);
  step.components = row.bytes(3);
  step.static_key = row.digest(4);
  step.trace = row.digest(5);
  step.layer = row.digest(6);
  step.log = row.digest(7);
  step.chain = row.bytes(8);
  step.image = row.bytes(9);
  step.exit_code = row.number(10);
  step.duration_ms = row.number(11);
  return step;
}

constexpr const char* kDropBarePathSets = R"sql(
DELETE FROM dropped_path_sets WHERE static_key NOT IN (SELECT static_key FROM path_sets);
INSERT INTO dropped_path_sets(static_key, count)
  SELECT static_key, count(*) FROM path_sets WHERE NOT EXISTS (SELECT 1 FROM records WHERE
  records.static_key=path_sets.static_key AND records.path_set=path_sets.path_set)
  GROUP BY static_key ON CONFLICT(static_key) DO UPDATE SET count=count+excluded.count;
DELETE FROM path_sets WHERE NOT EXISTS (SELECT 1 FROM records WHERE
  records.static_key=path_sets.static_key AND records.path_set=path_sets.path_set);
)sql";

constexpr const char* kRunStepColumns =
    "key,outcome,reason,components,static_key,trace,layer,log,chain,image,exit_code,duration_ms";

void leave_short(Db& db) {
  if (db.log_pages() > kLogPagesLeft) db.empty_log();
}

// Writes batches. Owned by the committer thread, which has its own connection.
class BatchWriter {
 public:
  explicit BatchWriter(Db db) : db_(std::move(db)) {}

  Status write(std::deque<Batch>& batches, const std::vector<Record>& touched) {
    HM_ASSIGN(Txn txn, Txn::begin(db_));
    for (const Batch& batch : batches) HM_TRY(write_one(batch));
    for (const Record& record : touched) HM_TRY(touch(record));
    return txn.commit();
  }

  void close() { leave_short(db_); }

 private:
  Status write_one(const Batch& batch) {
    HM_ASSIGN(Stmt layer, db_.prepare("INSERT OR IGNORE INTO layers VALUES(?,?,?,?)"));
    for (const LayerTimes& times : batch.layers) {
      HM_TRY(layer.bind(times.layer, times.mtimes, times.started_ns, times.captured_ns).run());
    }
    HM_ASSIGN(Stmt file, db_.prepare("INSERT OR REPLACE INTO files VALUES(?,?,?,?,?,?)"));
    for (const auto& [stamp, digest] : batch.files) {
      HM_TRY(
          file.bind(stamp.device, stamp.inode, stamp.size, stamp.mtime_ns, stamp.ctime_ns, digest)
              .run());
    }
    for (const Record& record : batch.records) {
      HM_TRY(write_record(record, batch.replace_records));
    }
    if (batch.report) HM_TRY(write_report(*batch.report));
    HM_ASSIGN(Stmt image, db_.prepare("INSERT OR REPLACE INTO images VALUES(?,?,?,?,?,?,?)"));
    for (const Image& item : batch.images) {
      HM_TRY(image
                 .bind(item.name, item.tree, item.config, item.source, item.imported_ns,
                       item.entries, item.bytes)
                 .run());
    }
    return {};
  }

  Status write_record(const Record& record, bool replace) {
    HM_ASSIGN(Stmt insert,
              db_.prepare(std::string("INSERT OR ") + (replace ? "REPLACE" : "IGNORE") +
                          " INTO records VALUES(?,?,?,?,?,?,?,?,?)"));
    HM_TRY(insert
               .bind(record.static_key, record.strong_key, record.path_set, record.trace,
                     record.layer, record.log, record.created_ns, now_ns(), record.duration_ms)
               .run());
    HM_ASSIGN(Stmt set, db_.prepare("INSERT OR REPLACE INTO path_sets VALUES(?,?,?)"));
    HM_TRY(set.bind(record.static_key, record.path_set, now_ns()).run());
    return bound_path_sets(record.static_key);
  }

  Status bound_path_sets(const Digest& key) {
    HM_ASSIGN(Stmt old, db_.prepare("SELECT path_set FROM path_sets WHERE static_key=? "
                                    "ORDER BY used_ns DESC LIMIT -1 OFFSET ?"));
    old.bind(key, kMaxPathSets);
    std::vector<Digest> sets;
    while (true) {
      HM_ASSIGN(const bool row, old.step());
      if (!row) break;
      sets.push_back(old.digest(0));
    }
    for (const Digest& set : sets) {
      HM_ASSIGN(Stmt records, db_.prepare("DELETE FROM records WHERE static_key=? AND path_set=?"));
      HM_TRY(records.bind(key, set).run());
      HM_ASSIGN(Stmt remove,
                db_.prepare("DELETE FROM path_sets WHERE static_key=? AND path_set=?"));
      HM_TRY(remove.bind(key, set).run());
      HM_ASSIGN(Stmt count, db_.prepare("INSERT INTO dropped_path_sets VALUES(?,1) ON CONFLICT DO "
                                        "UPDATE SET count=count+1"));
      HM_TRY(count.bind(key).run());
    }
    return {};
  }

  Status touch(const Record& record) {
    HM_ASSIGN(Stmt used, db_.prepare("UPDATE records SET used_ns=? WHERE static_key=? AND "
                                     "strong_key=?"));
    HM_TRY(used.bind(now_ns(), record.static_key, record.strong_key).run());
    HM_ASSIGN(Stmt set, db_.prepare("UPDATE path_sets SET used_ns=? WHERE static_key=? AND "
                                    "path_set=?"));
    return set.bind(now_ns(), record.static_key, record.path_set).run();
  }

  Status write_report(const RunReport& report) {
    HM_ASSIGN(Stmt run, db_.prepare("INSERT INTO runs(workspace,pipeline,started_ns) VALUES(?,?,?) "
                                    "RETURNING id"));
    run.bind(report.workspace, report.pipeline, report.started_ns);
    HM_TRY(run.step());
    const std::int64_t id = run.number(0);
    run.bind();
    HM_ASSIGN(Stmt step, db_.prepare(std::string("INSERT INTO run_steps(run,position,") +
                                     kRunStepColumns + ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    std::int64_t position = 0;
    for (const RunStep& row : report.steps) {
      HM_TRY(step.bind(id, position++, row.key, row.outcome, row.reason, row.components,
                       row.static_key, row.trace, row.layer, row.log, row.chain, row.image,
                       row.exit_code, row.duration_ms)
                 .run());
    }
    HM_ASSIGN(Stmt prune,
              db_.prepare("DELETE FROM runs WHERE workspace=?1 AND id NOT IN (SELECT id "
                          "FROM runs WHERE workspace=?1 ORDER BY id DESC LIMIT ?2)"));
    return prune.bind(report.workspace, kKeptRuns).run();
  }

  Db db_;
};

// The report of a run whose steps were all hits names nothing that is not durable already.
bool has_new_blobs(const Batch& batch) {
  const bool executed =
      batch.report && std::any_of(batch.report->steps.begin(), batch.report->steps.end(),
                                  [](const auto& step) { return step.outcome != "hit"; });
  return executed || !batch.layers.empty() || !batch.records.empty() || !batch.files.empty();
}

class SqliteStore final : public Store {
 public:
  SqliteStore(std::string home, Fd home_fd, Scratch scratch, Db reader, Readers statements,
              Db writer)
      : home_(std::move(home)),
        home_fd_(std::move(home_fd)),
        scratch_(std::move(scratch)),
        reader_(std::move(reader)),
        statements_(std::move(statements)),
        writer_(std::move(writer)) {}

  Status start() {
    HM_ASSIGN(BlobStore blobs, BlobStore::open(home_, scratch_));
    blobs_.emplace(std::move(blobs));
    HM_TRY(make_directories(home_ + "/locks", 0700));
    committer_ = std::jthread([this](const std::stop_token& stop) { commit_loop(stop); });
    return {};
  }

  ~SqliteStore() override {
    {
      const std::lock_guard lock(queue_mutex_);  // else the committer may miss the wake-up
      committer_.request_stop();
    }
    wake_.notify_all();
    if (committer_.joinable()) committer_.join();
    leave_short(reader_);
  }

  const std::string& home() const override { return home_; }
  BlobStore& blobs() override { return *blobs_; }
  Scratch& scratch() override { return scratch_; }

  Result<std::vector<Digest>> path_sets(const Digest& static_key) override {
    const std::lock_guard lock(read_mutex_);
    std::vector<Digest> out;
    Stmt& stmt = statements_.path_sets.bind(static_key, kMaxPathSets);
    while (true) {
      HM_ASSIGN(const bool row, stmt.step());
      if (!row) break;
      out.push_back(stmt.digest(0));
    }
    stmt.bind();
    return out;
  }

  Result<std::int64_t> dropped_path_sets(const Digest& static_key) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(const auto count, one_row(statements_.dropped.bind(static_key),
                                        [](Stmt& row) { return row.number(0); }));
    return count.value_or(0);
  }

  Result<std::optional<Record>> find(const Digest& static_key, const Digest& strong_key) override {
    const std::lock_guard lock(read_mutex_);
    return one_row(statements_.find.bind(static_key, strong_key), record_row);
  }

  Result<std::optional<Record>> newest(const Digest& static_key, const Digest& path_set) override {
    const std::lock_guard lock(read_mutex_);
    return one_row(statements_.newest.bind(static_key, path_set), record_row);
  }

  Result<std::optional<LayerTimes>> layer_times(const Digest& layer) override {
    const std::lock_guard lock(read_mutex_);
    return one_row(statements_.layer.bind(layer), [](Stmt& row) {
      return LayerTimes{row.digest(0), row.digest(1), row.number(2), row.number(3)};
    });
  }

  Result<std::optional<Digest>> file_digest(const FileStamp& stamp) override {
    {
      const std::lock_guard lock(files_mutex_);
      if (const auto known = files_.find(stamp)) return known;
    }
    recalled_all_ = false;
    return other_digest(stamp);
  }

  Result<std::optional<Digest>> other_digest(const FileStamp& stamp) override {
    const std::lock_guard lock(read_mutex_);
    return one_row(statements_.file.bind(stamp.device, stamp.inode, stamp.size, stamp.mtime_ns,
                                         stamp.ctime_ns),
                   [](Stmt& row) { return row.digest(0); });
  }

  void recall_files(const Digest& path_set) override {
    {
      const std::lock_guard lock(files_mutex_);
      if (recalled_.contains(path_set)) return;
    }
    const auto name = other_digest(list_stamp(path_set)).value_or(std::nullopt);
    const auto blob = name ? blobs_->read(*name) : fail(ErrorCode::kNotFound, "");
    const auto files = blob ? FileIndex::decode(*blob) : fail(blob.error());
    const std::lock_guard lock(files_mutex_);
    recalled_[path_set] = files ? *name : Digest{};
    if (!files) return;
    for (const FileDigest& file : *files) files_.add(file);
  }

  void keep_files(const Digest& path_set, const std::vector<FileDigest>& files) override {
    const auto name = blobs_->put(FileIndex::encode(files));
    if (!name) return;
    {
      const std::lock_guard lock(files_mutex_);
      if (std::exchange(recalled_[path_set], *name) == *name) return;
    }
    Batch batch;
    batch.files.push_back({list_stamp(path_set), *name});
    submit(std::move(batch));
  }

  bool recalled_all() const override { return recalled_all_; }

  Result<std::optional<RunReport>> last_run(const std::string& workspace) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt run, reader_.prepare("SELECT id,pipeline,started_ns FROM runs WHERE workspace=? "
                                        "ORDER BY id DESC LIMIT 1"));
    HM_ASSIGN(const bool found, run.bind(workspace).step());
    if (!found) return std::optional<RunReport>{};
    RunReport report{workspace, run.bytes(1), run.number(2), {}};
    HM_ASSIGN(Stmt steps, reader_.prepare(std::string("SELECT ") + kRunStepColumns +
                                          " FROM run_steps WHERE run=? ORDER BY position"));
    steps.bind(run.number(0));
    HM_ASSIGN(report.steps, all_rows(steps, run_step_row));
    return std::optional<RunReport>(std::move(report));
  }

  Result<std::optional<RunStep>> last_step(const std::string& workspace,
                                           const std::string& pipeline,
                                           const std::string& key) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare(std::string("SELECT ") + kRunStepColumns +
                                         " FROM run_steps JOIN runs ON runs.id=run_steps.run "
                                         "WHERE workspace=? AND pipeline=? AND key=? AND "
                                         "length(components)>0 ORDER BY run DESC LIMIT 1"));
    return one_row(stmt.bind(workspace, pipeline, key), run_step_row);
  }

  Result<std::vector<Image>> images() override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare(std::string(kSelectImage) + "ORDER BY name"));
    return all_rows(stmt, image_row);
  }

  Result<std::optional<Image>> image(const std::string& name) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare(std::string(kSelectImage) + "WHERE name=?"));
    return one_row(stmt.bind(name), image_row);
  }

  Status remove_image(const std::string& name) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare("DELETE FROM images WHERE name=?"));
    return stmt.bind(name).run();
  }

  Status drop_layer(const Digest& layer) override {
    const std::lock_guard lock(read_mutex_);
    for (const char* table : {"records", "layers"}) {
      HM_ASSIGN(Stmt stmt, reader_.prepare(std::string("DELETE FROM ") + table + " WHERE layer=?"));
      HM_TRY(stmt.bind(layer).run());
    }
    return {};
  }

  Status drop_file_digests() override {
    {
      const std::lock_guard lock(files_mutex_);
      files_.clear();
    }
    const std::lock_guard lock(read_mutex_);
    return reader_.exec("DELETE FROM files");
  }

  Status drop_record(const Record& record) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare("DELETE FROM records WHERE static_key=? AND "
                                         "strong_key=?"));
    return stmt.bind(record.static_key, record.strong_key).run();
  }

  Status drop_path_set(const Digest& static_key, const Digest& path_set) override {
    const std::lock_guard lock(read_mutex_);
    for (const char* table : {"records", "path_sets"}) {
      HM_ASSIGN(Stmt stmt, reader_.prepare(std::string("DELETE FROM ") + table +
                                           " WHERE static_key=? AND path_set=?"));
      HM_TRY(stmt.bind(static_key, path_set).run());
    }
    return {};
  }

  Result<std::vector<Record>> records() override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare(std::string(kSelectRecord) + "ORDER BY used_ns"));
    return all_rows(stmt, record_row);
  }

  Result<std::vector<LayerTimes>> layers() override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare("SELECT layer,mtimes,started_ns,captured_ns FROM layers"));
    return all_rows(stmt, layer_row);
  }

  Result<std::vector<RunNames>> run_names() override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Stmt stmt, reader_.prepare("SELECT id,started_ns,trace,log,layer,chain FROM runs "
                                         "JOIN run_steps ON runs.id=run_steps.run ORDER BY id"));
    std::vector<RunNames> out;
    while (true) {
      HM_ASSIGN(const bool row, stmt.step());
      if (!row) return out;
      if (out.empty() || out.back().id != stmt.number(0)) {
        out.push_back({stmt.number(0), stmt.number(1), {}, {}});
      }
      for (const int column : {2, 3}) out.back().blobs.push_back(stmt.digest(column));
      out.back().layers.push_back(stmt.digest(4));
      const std::string chain = stmt.bytes(5);
      for (std::size_t at = 0; at + 32 <= chain.size(); at += 32) {
        out.back().layers.push_back(Digest::from_raw(chain.substr(at, 32)).value_or(Digest{}));
      }
    }
  }

  Status evict(const Eviction& eviction) override {
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Txn txn, Txn::begin(reader_));
    HM_ASSIGN(Stmt record,
              reader_.prepare("DELETE FROM records WHERE static_key=? AND strong_key=?"));
    for (const Record& item : eviction.records) {
      HM_TRY(record.bind(item.static_key, item.strong_key).run());
    }
    HM_ASSIGN(Stmt run, reader_.prepare("DELETE FROM runs WHERE id=?"));
    for (const std::int64_t id : eviction.runs) HM_TRY(run.bind(id).run());
    HM_ASSIGN(Stmt layer, reader_.prepare("DELETE FROM layers WHERE layer=?"));
    for (const Digest& digest : eviction.layers) HM_TRY(layer.bind(digest).run());
    // A key whose last path set goes is remembered, for a miss to say so, until the next time.
    HM_TRY(reader_.exec(kDropBarePathSets));
    if (eviction.files) HM_TRY(reader_.exec("DELETE FROM files"));
    return txn.commit();
  }

  Result<Swept> sweep(const std::function<bool(const Digest&)>& keep) override {
    return sweep_blobs(home_ + "/blobs", keep);
  }

  Status claim_layer(const Digest& layer) override {
    return scratch_.claims().add({{ClaimKind::kLayer, layer}});
  }

  Status claim_result(const Record& record) override {
    return scratch_.claims().add({{ClaimKind::kLayer, record.layer},
                                  {ClaimKind::kBlob, record.path_set},
                                  {ClaimKind::kBlob, record.trace},
                                  {ClaimKind::kBlob, record.log}});
  }

  void touch(const Record& record) override {
    const std::lock_guard lock(queue_mutex_);
    touched_.push_back(record);
  }

  void submit(Batch batch) override {
    {
      const std::lock_guard lock(queue_mutex_);
      queue_.push_back(std::move(batch));
    }
    wake_.notify_all();
  }

  Status flush() override {
    std::unique_lock lock(queue_mutex_);
    flushing_ += 1;
    wake_.notify_all();
    wake_.wait(lock, [this] { return queue_.empty() && touched_.empty() && !busy_; });
    flushing_ -= 1;
    return std::exchange(commit_status_, Status{});
  }

  Result<Fd> lock_in_flight(const Digest& name, const std::stop_token& stop,
                            const std::function<void()>& waiting) override {
    // Lock files are few (256) and permanent: two steps that share one merely take turns, and no
    // process can lock a name that another one just removed.
    const std::string path = home_ + "/locks/" + name.hex().substr(0, 2);
    HM_ASSIGN(Fd fd, open_file(path, O_RDWR | O_CREAT, 0600));
    // Byte ranges of open file description locks tell apart what shares a file.
    struct flock range {};
    range.l_type = F_WRLCK;
    range.l_whence = SEEK_SET;
    range.l_start = static_cast<off_t>(std::hash<Digest>{}(name) >> 2);
    range.l_len = 1;
    for (bool told = false;; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
      if (::fcntl(fd.get(), F_OFD_SETLK, &range) == 0) return fd;
      if (errno != EAGAIN && errno != EACCES && errno != EINTR) return fail_errno(path);
      if (stop.stop_requested()) return fail(ErrorCode::kCancelled, "cancelled");
      if (!std::exchange(told, true)) waiting();
    }
  }

  Result<StoreStats> stats() override {
    StoreStats out;
    std::error_code error;
    namespace stdfs = std::filesystem;
    for (auto it = stdfs::recursive_directory_iterator(home_ + "/blobs", error);
         !error && it != stdfs::recursive_directory_iterator(); it.increment(error)) {
      if (!it->is_regular_file(error)) continue;
      out.blobs += 1;
      out.blob_bytes += it->file_size(error);
    }
    const std::lock_guard lock(read_mutex_);
    const std::pair<const char*, std::uint64_t*> rows[] = {{"records", &out.records},
                                                           {"path_sets", &out.path_sets},
                                                           {"layers", &out.layers},
                                                           {"files", &out.files},
                                                           {"images", &out.images}};
    for (const auto& [table, count] : rows) {
      HM_ASSIGN(Stmt stmt, reader_.prepare(std::string("SELECT count(*) FROM ") + table));
      HM_TRY(stmt.step());
      *count = static_cast<std::uint64_t>(stmt.number(0));
    }
    return out;
  }

  Status clear() override {
    HM_TRY(flush());
    HM_ASSIGN(const Fd gate, Scratch::exclude_others(home_, scratch_.path()));
    const std::lock_guard lock(read_mutex_);
    HM_ASSIGN(Txn txn, Txn::begin(reader_));
    for (const char* table : {"records", "path_sets", "dropped_path_sets", "layers", "files",
                              "run_steps", "runs", "images"}) {
      HM_TRY(reader_.exec(std::string("DELETE FROM ") + table));
    }
    HM_TRY(txn.commit());
    HM_TRY(remove_tree(home_fd_.get(), "blobs"));
    return make_directories(home_ + "/blobs", 0700);
  }

 private:
  // A path set's list of files stands in the table of files, as a file that cannot be.
  static FileStamp list_stamp(const Digest& path_set) {
    Hasher identity;
    identity.field("files of a path set");
    identity.field(path_set.raw());
    const Digest own = identity.finish();
    FileStamp stamp;
    std::memcpy(&stamp.device, own.bytes.data(), sizeof stamp.device);
    std::memcpy(&stamp.inode, own.bytes.data() + sizeof stamp.device, sizeof stamp.inode);
    return stamp;
  }

  void commit_loop(const std::stop_token& stop) {
    BatchWriter writer(std::move(writer_));
    std::vector<Digest> lost;  // this run goes on with them, no later one may trust them
    std::unique_lock lock(queue_mutex_);
    while (true) {
      wake_.wait(lock, [&] {
        return !queue_.empty() || stop.stop_requested() || (flushing_ > 0 && !touched_.empty());
      });
      if (queue_.empty() && touched_.empty() && stop.stop_requested()) break;
      std::deque<Batch> batches = std::exchange(queue_, {});
      const std::vector<Record> touched = std::exchange(touched_, {});
      busy_ = true;
      lock.unlock();
      Status status;
      const bool names_new_blobs = std::any_of(batches.begin(), batches.end(), has_new_blobs);
      if (names_new_blobs) status = sync_blobs(lost);
      if (status) status = writer.write(batches, touched);
      spdlog::debug("store: {} batches, {} records used: {}", batches.size(), touched.size(),
                    status ? "committed" : status.error().message);
      batches.clear();  // releases the locks of steps in flight
      lock.lock();
      busy_ = false;
      if (!status && commit_status_) commit_status_ = std::move(status);
      wake_.notify_all();
    }
    writer.close();
    blobs_->remove(lost);
  }

  // A sync that failed may have thrown away what was to be written, and the next one succeeds all
  // the same: `lost` gets the blobs of which that may be true.
  Status sync_blobs(std::vector<Digest>& lost) {
    const std::vector<Digest> blobs = blobs_->take_unsynced();
    if (::syncfs(home_fd_.get()) == 0) return {};
    const Error error = system_error(home_);
    lost.insert(lost.end(), blobs.begin(), blobs.end());
    return fail(error);
  }

  std::string home_;
  Fd home_fd_;
  Scratch scratch_;
  std::optional<BlobStore> blobs_;

  std::mutex read_mutex_;  // guards reader_ and statements_
  Db reader_;
  Readers statements_;

  BriefMutex files_mutex_;  // guards the next two
  FileIndex files_;
  std::unordered_map<Digest, Digest> recalled_;  // path set → its list, zero where there is none
  std::atomic<bool> recalled_all_{true};

  std::mutex queue_mutex_;  // guards the next six
  std::condition_variable wake_;
  std::deque<Batch> queue_;
  std::vector<Record> touched_;
  bool busy_ = false;
  int flushing_ = 0;  // callers in flush
  Status commit_status_;

  Db writer_;               // handed to the committer thread when it starts
  std::jthread committer_;  // last: stops before anything it uses goes away
};

}  // namespace

Result<std::unique_ptr<Store>> Store::open(const std::string& named_home) {
  const auto refused = [&](Error error) {
    if (error.code == ErrorCode::kRefused || error.code == ErrorCode::kCorrupt) {
      return fail(std::move(error));
    }
    return fail(ErrorCode::kRefused, "cannot use the store " + named_home + ": " + error.message +
                                         " (set HM_HOME to a folder that can be written)");
  };
  if (auto status = make_directories(named_home, 0700); !status) return refused(status.error());
  // One spelling for everybody who has to recognise a path below it.
  const std::string home = real_path(named_home);
  auto home_fd = open_file(home, O_RDONLY | O_DIRECTORY);
  if (!home_fd) return refused(home_fd.error());
  // Two processes that switch a new database to WAL at once get "locked" whatever the busy timeout:
  // they take turns here.
  auto gate = open_file(home + "/scratch.lock", O_RDWR | O_CREAT, 0600);
  if (!gate) return refused(gate.error());
  if (::flock(gate->get(), LOCK_EX) != 0) return refused(system_error(home));
  // The database is looked at first: a store of a newer format must not be touched at all.
  auto reader = open_database(home);
  if (!reader) return refused(reader.error());
  auto writer = open_database(home);
  if (!writer) return refused(writer.error());
  gate->reset();
  auto statements = Readers::prepare(*reader);
  if (!statements) return refused(statements.error());
  auto scratch = Scratch::open(home);
  if (!scratch) return refused(scratch.error());
  auto store =
      std::make_unique<SqliteStore>(home, std::move(*home_fd), std::move(*scratch),
                                    std::move(*reader), std::move(*statements), std::move(*writer));
  if (auto status = store->start(); !status) return refused(status.error());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace hm::store
