#include "store/store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <thread>

#include "test_support.h"

namespace hm::store {
namespace {

using namespace test;  // NOLINT: a test file
using namespace std::chrono_literals;

Record record(const std::string& key, const std::string& strong, const std::string& set,
              const std::string& layer = "layer") {
  Record out;
  out.static_key = digest_of("key " + key);
  out.strong_key = digest_of("strong " + strong);
  out.path_set = digest_of("set " + set);
  out.trace = digest_of("trace " + strong);
  out.layer = digest_of(layer);
  out.log = digest_of("log");
  out.created_ns = 42;
  out.duration_ms = 7;
  return out;
}

void submit_record(Store& store, const Record& item, bool replace = false) {
  Batch batch;
  batch.records.push_back(item);
  batch.replace_records = replace;
  store.submit(std::move(batch));
  must(store.flush());
}

class StoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<Store> open() { return must(Store::open(home())); }
  std::string home() const { return temp_ / "home"; }
  TempDir temp_;
};

void set_user_version(const std::string& path, int version) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  const std::string sql = "PRAGMA user_version=" + std::to_string(version);
  ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
}

TEST_F(StoreTest, NewerFormatIsRefusedAndUntouched) {
  open().reset();
  set_user_version(home() + "/hm.db", 999);
  const std::string before = slurp(home() + "/hm.db");
  const auto store = Store::open(home());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kRefused);
  EXPECT_NE(store.error().message.find("newer"), std::string::npos) << store.error().message;
  EXPECT_EQ(slurp(home() + "/hm.db"), before);
  EXPECT_FALSE(Store::open(home())) << "still";
}

TEST_F(StoreTest, OlderFormatLosesItsRecordsAndIsRaised) {
  {
    const auto store = open();
    submit_record(*store, record("k", "s", "p"));
  }
  set_user_version(home() + "/hm.db", 1);
  const auto store = open();
  EXPECT_EQ(must(store->stats()).records, 0U);
  EXPECT_TRUE(Store::open(home())) << "of today's format by now";
}

TEST_F(StoreTest, SameFormatOpensAgainWithItsRecords) {
  {
    const auto store = open();
    submit_record(*store, record("k", "s", "p"));
  }
  const auto store = open();
  EXPECT_TRUE(must(store->find(digest_of("key k"), digest_of("strong s"))));
}

TEST_F(StoreTest, HomeThatCannotBeUsedIsRefused) {
  write_file(home(), "a file");
  const auto store = Store::open(home());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kRefused);
}

TEST_F(StoreTest, GarbageDatabaseIsRefusedNotOverwritten) {
  const std::string garbage(4096, 'g');
  write_file(home() + "/hm.db", garbage);
  ASSERT_FALSE(Store::open(home()));
  EXPECT_EQ(slurp(home() + "/hm.db"), garbage);
}

TEST_F(StoreTest, RecordsAreVisibleToAnotherStoreAfterFlush) {
  const auto writer = open();
  const auto reader = open();
  const Record item = record("k", "s", "p");
  EXPECT_FALSE(must(reader->find(item.static_key, item.strong_key)));
  submit_record(*writer, item);
  const auto found = must(reader->find(item.static_key, item.strong_key));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->path_set, item.path_set);
  EXPECT_EQ(found->trace, item.trace);
  EXPECT_EQ(found->layer, item.layer);
  EXPECT_EQ(found->log, item.log);
  EXPECT_EQ(found->created_ns, 42);
  EXPECT_EQ(found->duration_ms, 7);
  EXPECT_EQ(must(reader->path_sets(item.static_key)), std::vector<Digest>{item.path_set});
  EXPECT_FALSE(must(reader->find(item.static_key, digest_of("strong other"))));
  EXPECT_FALSE(must(reader->find(digest_of("key other"), item.strong_key)));
}

TEST_F(StoreTest, SubmittedBatchesAreWrittenWhenTheStoreCloses) {
  const Record item = record("k", "s", "p");
  {
    const auto store = open();
    Batch batch;
    batch.records.push_back(item);
    store->submit(std::move(batch));
  }
  EXPECT_TRUE(must(open()->find(item.static_key, item.strong_key)));
}

TEST_F(StoreTest, SecondFinisherLeavesTheFirstRecord) {
  const auto store = open();
  Record first = record("k", "s", "p", "first");
  Record second = record("k", "s", "p", "second");
  submit_record(*store, first);
  submit_record(*store, second);
  EXPECT_EQ(must(store->find(first.static_key, first.strong_key))->layer, digest_of("first"));
  submit_record(*store, second, /*replace=*/true);
  EXPECT_EQ(must(store->find(first.static_key, first.strong_key))->layer, digest_of("second"));
  EXPECT_EQ(must(store->stats()).records, 1U);
}

TEST_F(StoreTest, LayerTimesOfTheFirstCaptureStay) {
  const auto store = open();
  for (const int start : {1, 2}) {
    Batch batch;
    batch.layers.push_back({digest_of("layer"), digest_of("mtimes"), start, start + 10});
    store->submit(std::move(batch));
  }
  must(store->flush());
  const auto times = must(store->layer_times(digest_of("layer")));
  ASSERT_TRUE(times);
  EXPECT_EQ(times->started_ns, 1);
  EXPECT_EQ(times->captured_ns, 11);
  EXPECT_EQ(times->mtimes, digest_of("mtimes"));
  EXPECT_FALSE(must(store->layer_times(digest_of("other"))));
}

TEST_F(StoreTest, NewestIsByCreation) {
  const auto store = open();
  for (const int created : {10, 30, 20}) {
    Record item = record("k", std::to_string(created), "p");
    item.created_ns = created;
    submit_record(*store, item);
  }
  EXPECT_EQ(must(store->newest(digest_of("key k"), digest_of("set p")))->created_ns, 30);
  EXPECT_FALSE(must(store->newest(digest_of("key k"), digest_of("set q"))));
}

TEST_F(StoreTest, PathSetsAreBounded) {
  const auto store = open();
  const Digest key = digest_of("key k");
  for (int i = 0; i < kMaxPathSets + 3; ++i) {
    submit_record(*store, record("k", std::to_string(i), std::to_string(i)));
  }
  submit_record(*store, record("another", "s", "p"));
  const auto sets = must(store->path_sets(key));
  ASSERT_EQ(sets.size(), static_cast<std::size_t>(kMaxPathSets));
  EXPECT_EQ(sets.front(), digest_of("set " + std::to_string(kMaxPathSets + 2))) << "newest first";
  EXPECT_EQ(sets.back(), digest_of("set 3"));
  EXPECT_EQ(must(store->dropped_path_sets(key)), 3);
  EXPECT_EQ(must(store->dropped_path_sets(digest_of("key another"))), 0);
  EXPECT_FALSE(must(store->find(key, digest_of("strong 2")))) << "its records went with it";
  EXPECT_TRUE(must(store->find(key, digest_of("strong 3"))));
}

TEST_F(StoreTest, TouchedPathSetIsNotTheFirstToGo) {
  const auto store = open();
  for (int i = 0; i < kMaxPathSets; ++i) {
    submit_record(*store, record("k", std::to_string(i), std::to_string(i)));
  }
  store->touch(record("k", "0", "0"));
  must(store->flush());
  EXPECT_EQ(must(store->path_sets(digest_of("key k"))).front(), digest_of("set 0"));
  submit_record(*store, record("k", "new", "new"));
  EXPECT_TRUE(must(store->find(digest_of("key k"), digest_of("strong 0"))));
  EXPECT_FALSE(must(store->find(digest_of("key k"), digest_of("strong 1"))));
}

TEST_F(StoreTest, ManyStrongKeysShareOnePathSet) {
  const auto store = open();
  Batch batch;
  for (int i = 0; i < 100; ++i) batch.records.push_back(record("k", std::to_string(i), "p"));
  store->submit(std::move(batch));
  must(store->flush());
  EXPECT_EQ(must(store->path_sets(digest_of("key k"))).size(), 1U);
  EXPECT_EQ(must(store->dropped_path_sets(digest_of("key k"))), 0);
  EXPECT_EQ(must(store->stats()).records, 100U);
}

TEST_F(StoreTest, FileDigestNeedsTheExactStamp) {
  const auto store = open();
  const FileStamp stamp{1, 2, 3, 4, 5};
  Batch batch;
  batch.files.push_back({stamp, digest_of("content")});
  store->submit(std::move(batch));
  must(store->flush());
  EXPECT_EQ(must(store->file_digest(stamp)), digest_of("content"));
  for (int field = 0; field < 5; ++field) {
    FileStamp other = stamp;
    if (field == 0) other.device += 1;
    if (field == 1) other.inode += 1;
    if (field == 2) other.size += 1;
    if (field == 3) other.mtime_ns += 1;
    if (field == 4) other.ctime_ns += 1;
    EXPECT_FALSE(must(store->file_digest(other))) << "field " << field;
  }
}

TEST_F(StoreTest, FileDigestOfAnInodeIsItsLastStamp) {
  const auto store = open();
  const FileStamp old{1, 2, 3, 4, 5};
  const FileStamp now{1, 2, 3, 40, 50};
  for (const auto& [stamp, text] : {std::pair(old, "old"), std::pair(now, "now")}) {
    Batch batch;
    batch.files.push_back({stamp, digest_of(text)});
    store->submit(std::move(batch));
  }
  must(store->flush());
  EXPECT_FALSE(must(store->file_digest(old)));
  EXPECT_EQ(must(store->file_digest(now)), digest_of("now"));
  EXPECT_EQ(must(store->stats()).files, 1U);
}

TEST_F(StoreTest, FileDigestTakesNumbersOfAllSizes) {
  const auto store = open();
  const FileStamp stamp{~0ULL, 1ULL << 63, 1ULL << 40, -5, INT64_MAX};
  Batch batch;
  batch.files.push_back({stamp, digest_of("x")});
  store->submit(std::move(batch));
  must(store->flush());
  EXPECT_EQ(must(store->file_digest(stamp)), digest_of("x"));
}

std::uint64_t log_bytes(const std::string& home) {
  return std::filesystem::file_size(home + "/hm.db-wal");
}

FileDigest numbered(std::uint64_t inode) {
  return {FileStamp{1, inode, 5, 6, 7}, digest_of(std::to_string(inode))};
}

void fill_log(Store& store) {
  Batch batch;
  for (std::uint64_t inode = 1; inode <= 40'000; ++inode) batch.files.push_back(numbered(inode));
  store.submit(std::move(batch));
  must(store.flush());
}

TEST_F(StoreTest, ALongLogIsEmptiedAtTheEnd) {
  auto store = open();
  fill_log(*store);
  EXPECT_GT(log_bytes(home()), 256U * 4096);
  store.reset();
  EXPECT_EQ(log_bytes(home()), 0U);
  EXPECT_EQ(must(open()->file_digest(numbered(40'000).stamp)), digest_of("40000"));
}

TEST_F(StoreTest, AShortLogStays) {
  auto store = open();
  submit_record(*store, record("k", "s", "p"));
  store.reset();
  EXPECT_GT(log_bytes(home()), 0U);
  EXPECT_LE(log_bytes(home()), 256U * 4200);
}

// Nobody waits for another process that reads, and nobody's rows are lost.
TEST_F(StoreTest, ALongLogStaysWhileSomebodyReads) {
  auto store = open();
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open((home() + "/hm.db").c_str(), &other), SQLITE_OK);
  const char* begin = "BEGIN; SELECT count(*) FROM files";
  ASSERT_EQ(sqlite3_exec(other, begin, nullptr, nullptr, nullptr), SQLITE_OK);
  fill_log(*store);
  const auto started = std::chrono::steady_clock::now();
  store.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - started, 10s);
  EXPECT_GT(log_bytes(home()), 256U * 4096);
  sqlite3_close(other);
  EXPECT_EQ(must(open()->file_digest(numbered(40'000).stamp)), digest_of("40000"));
}

RunStep run_step(const std::string& key, const std::string& outcome) {
  RunStep step;
  step.key = key;
  step.outcome = outcome;
  step.reason = "because of \"this\"";
  step.components = "{}";
  step.static_key = digest_of("static " + key);
  step.trace = digest_of("trace");
  step.chain = std::string(32, '\0') + std::string(32, '\xff');
  step.image = "host";
  step.exit_code = 3;
  step.duration_ms = 1234;
  return step;
}

void submit_report(Store& store, RunReport report) {
  Batch batch;
  batch.report = std::move(report);
  store.submit(std::move(batch));
  must(store.flush());
}

TEST_F(StoreTest, FilesOfAPathSetAreRecalledAtOnce) {
  const FileDigest files[] = {{{1, 2, 3, 4, 5}, digest_of("one")},
                              {{6, 7, 8, 9, 10}, digest_of("two")}};
  const Digest path_set = digest_of("set");
  {
    const auto store = open();
    store->keep_files(path_set, {files[0], files[1]});
    must(store->flush());
  }
  const auto store = open();
  store->recall_files(digest_of("another set"));
  EXPECT_FALSE(must(store->file_digest(files[0].stamp))) << "in a list that nobody recalled";
  EXPECT_FALSE(store->recalled_all());
  const auto other = open();
  other->recall_files(path_set);
  for (const FileDigest& file : files) EXPECT_EQ(must(other->file_digest(file.stamp)), file.digest);
  EXPECT_TRUE(other->recalled_all());
  must(other->drop_file_digests());
  EXPECT_FALSE(must(other->file_digest(files[0].stamp)));
  const auto later = open();
  later->recall_files(path_set);
  EXPECT_FALSE(must(later->file_digest(files[0].stamp))) << "dropped for everybody";
}

TEST_F(StoreTest, AListOfFilesThatIsLostIsAsNone) {
  const FileDigest file{{1, 2, 3, 4, 5}, digest_of("one")};
  {
    const auto store = open();
    store->keep_files(digest_of("set"), {file});
    must(store->flush());
  }
  std::filesystem::remove_all(home() + "/blobs");
  std::filesystem::create_directories(home() + "/blobs");
  const auto store = open();
  store->recall_files(digest_of("set"));
  EXPECT_FALSE(must(store->file_digest(file.stamp)));
}

TEST_F(StoreTest, LastRunGivesBackTheReport) {
  const auto store = open();
  submit_report(*store, {"/ws", "ci", 5, {run_step("a", "ran"), run_step("b", "hit")}});
  submit_report(*store, {"/other", "ci", 6, {run_step("c", "ran")}});
  const auto report = must(store->last_run("/ws"));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->workspace, "/ws");
  EXPECT_EQ(report->pipeline, "ci");
  EXPECT_EQ(report->started_ns, 5);
  ASSERT_EQ(report->steps.size(), 2U);
  const RunStep& step = report->steps[0];
  EXPECT_EQ(step.key, "a");
  EXPECT_EQ(step.outcome, "ran");
  EXPECT_EQ(step.reason, "because of \"this\"");
  EXPECT_EQ(step.static_key, digest_of("static a"));
  EXPECT_EQ(step.trace, digest_of("trace"));
  EXPECT_TRUE(step.layer.is_zero()) << "a digest that was not there stays absent";
  EXPECT_EQ(step.chain, std::string(32, '\0') + std::string(32, '\xff'));
  EXPECT_EQ(step.image, "host");
  EXPECT_EQ(step.exit_code, 3);
  EXPECT_EQ(step.duration_ms, 1234);
  EXPECT_EQ(report->steps[1].key, "b");
  EXPECT_FALSE(must(store->last_run("/nowhere")));
}

TEST_F(StoreTest, LastStepComesFromWhateverRunHeldIt) {
  const auto store = open();
  submit_report(*store, {"/ws", "ci", 1, {run_step("a", "ran"), run_step("b", "old")}});
  submit_report(*store, {"/ws", "ci", 2, {run_step("b", "new")}});
  submit_report(*store, {"/ws", "other", 3, {run_step("b", "other pipeline")}});
  EXPECT_EQ(must(store->last_step("/ws", "ci", "a"))->outcome, "ran");
  EXPECT_EQ(must(store->last_step("/ws", "ci", "b"))->outcome, "new");
  EXPECT_FALSE(must(store->last_step("/ws", "ci", "c")));
  EXPECT_FALSE(must(store->last_step("/elsewhere", "ci", "a")));
}

TEST_F(StoreTest, LastStepPassesOverReportsWithoutComponents) {
  const auto store = open();
  submit_report(*store, {"/ws", "ci", 1, {run_step("a", "ran")}});
  RunStep skipped = run_step("a", "skipped");
  skipped.components = "";
  submit_report(*store, {"/ws", "ci", 2, {skipped}});
  EXPECT_EQ(must(store->last_step("/ws", "ci", "a"))->outcome, "ran");
}

TEST_F(StoreTest, OldReportsGo) {
  const auto store = open();
  submit_report(*store, {"/ws", "ci", 1, {run_step("oldest", "ran")}});
  for (int i = 0; i < 20; ++i) submit_report(*store, {"/ws", "ci", 2 + i, {run_step("a", "ran")}});
  EXPECT_FALSE(must(store->last_step("/ws", "ci", "oldest")));
  EXPECT_EQ(must(store->last_run("/ws"))->started_ns, 21);
}

TEST_F(StoreTest, DropLayerForgetsItsRecordsOnly) {
  const auto store = open();
  submit_record(*store, record("k", "1", "p", "bad"));
  submit_record(*store, record("k", "2", "p", "good"));
  submit_record(*store, record("other", "3", "p", "bad"));
  must(store->drop_layer(digest_of("bad")));
  EXPECT_FALSE(must(store->find(digest_of("key k"), digest_of("strong 1"))));
  EXPECT_FALSE(must(store->find(digest_of("key other"), digest_of("strong 3"))));
  EXPECT_TRUE(must(store->find(digest_of("key k"), digest_of("strong 2"))));
  submit_record(*store, record("k", "1", "p", "again"));
  EXPECT_TRUE(must(store->find(digest_of("key k"), digest_of("strong 1")))) << "may come back";
}

TEST_F(StoreTest, ClearRemovesEverything) {
  const auto store = open();
  submit_record(*store, record("k", "s", "p"));
  submit_report(*store, {"/ws", "ci", 1, {run_step("a", "ran")}});
  const Digest blob = must(store->blobs().put("blob"));
  must(store->clear());
  const StoreStats stats = must(store->stats());
  EXPECT_EQ(stats.blobs + stats.records + stats.path_sets + stats.layers + stats.files, 0U);
  EXPECT_FALSE(must(store->last_run("/ws")));
  EXPECT_FALSE(must(store->find(digest_of("key k"), digest_of("strong s"))));
  EXPECT_FALSE(store->blobs().has(blob, 4));
  // It still works.
  EXPECT_EQ(must(store->blobs().read(must(store->blobs().put("blob")))), "blob");
  submit_record(*store, record("k", "s", "p"));
  EXPECT_EQ(must(store->stats()).records, 1U);
}

TEST_F(StoreTest, ClearIsRefusedWhileAnotherProcessIsThere) {
  const auto store = open();
  submit_record(*store, record("k", "s", "p"));
  must(store->blobs().put("blob"));
  auto other = open();
  const auto status = store->clear();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kRefused);
  EXPECT_EQ(must(store->stats()).blobs, 1U);
  EXPECT_EQ(must(store->stats()).records, 1U);
  other.reset();
  must(store->clear());
}

TEST_F(StoreTest, StatsCountBlobs) {
  const auto store = open();
  must(store->blobs().put("12345"));
  must(store->blobs().put("123"));
  EXPECT_EQ(must(store->stats()).blobs, 2U);
  EXPECT_EQ(must(store->stats()).blob_bytes, 8U);
}

// Tries to take the lock for a moment; true if somebody else holds it.
bool is_held(Store& store, const Digest& name) {
  std::stop_source stop;
  bool waited = false;
  const auto lock = store.lock_in_flight(name, stop.get_token(), [&] {
    waited = true;
    stop.request_stop();
  });
  EXPECT_EQ(waited, !lock) << "waiting is told exactly when there is something to wait for";
  if (lock) return false;
  EXPECT_EQ(lock.error().code, ErrorCode::kCancelled);
  return true;
}

TEST_F(StoreTest, LockInFlightExcludes) {
  const auto first = open();
  const auto second = open();
  const Digest name = digest_of("step");
  {
    const Fd lock = must(first->lock_in_flight(name, {}, [] {}));
    EXPECT_TRUE(is_held(*second, name)) << "another process's store";
    EXPECT_TRUE(is_held(*first, name)) << "another thread of the same store";
  }
  EXPECT_FALSE(is_held(*second, name));
}

TEST_F(StoreTest, LockInFlightTellsNamesInOneFileApart) {
  const auto store = open();
  Digest one = digest_of("step");
  Digest two = one;
  two.bytes[7] = static_cast<std::uint8_t>(two.bytes[7] ^ 0x40);  // same first byte: same file
  const Fd lock = must(store->lock_in_flight(one, {}, [] {}));
  EXPECT_FALSE(is_held(*store, two));
  EXPECT_TRUE(is_held(*store, one));
}

TEST_F(StoreTest, WaiterGetsTheLockOnceTheBatchIsVisible) {
  const auto first = open();
  const auto second = open();
  const Record item = record("k", "s", "p");
  Batch batch;
  batch.records.push_back(item);
  batch.locks.push_back(must(first->lock_in_flight(item.strong_key, {}, [] {})));
  std::promise<void> waiting;
  auto waiter = std::async(std::launch::async, [&] {
    const Fd lock = must(second->lock_in_flight(item.strong_key, {}, [&] { waiting.set_value(); }));
    return must(second->find(item.static_key, item.strong_key)).has_value();
  });
  waiting.get_future().wait();
  EXPECT_NE(waiter.wait_for(30ms), std::future_status::ready);
  first->submit(std::move(batch));
  EXPECT_TRUE(waiter.get()) << "whoever gets the lock sees the record";
}

TEST_F(StoreTest, WaitingForALockEndsWithTheStopToken) {
  const auto store = open();
  const Digest name = digest_of("step");
  const Fd lock = must(store->lock_in_flight(name, {}, [] {}));
  std::stop_source stop;
  auto waiter = std::async(std::launch::async,
                           [&] { return store->lock_in_flight(name, stop.get_token(), [] {}); });
  EXPECT_NE(waiter.wait_for(30ms), std::future_status::ready);
  stop.request_stop();
  const auto result = waiter.get();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kCancelled);
}

TEST_F(StoreTest, ManyThreadsOfTwoStores) {
  const auto first = open();
  const auto second = open();
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Store& store = t % 2 == 0 ? *first : *second;
      for (int i = 0; i < 25; ++i) {
        const std::string name = std::to_string(t) + "." + std::to_string(i);
        Batch batch;
        batch.records.push_back(record(name, name, "p"));
        store.submit(std::move(batch));
        if (!store.find(digest_of("key " + name), digest_of("strong " + name))) ++failures;
        if (i % 10 == 0 && !store.stats()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  must(first->flush());
  must(second->flush());
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(must(first->stats()).records, 100U);
}

}  // namespace
}  // namespace hm::store
