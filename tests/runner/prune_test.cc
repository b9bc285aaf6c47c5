#include "runner/prune.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "fs/capture.h"
#include "store/claims.h"
#include "test_support.h"

namespace hm::runner {
namespace {

using namespace test;  // NOLINT: a test file

class PruneTest : public ::testing::Test {
 protected:
  // A record with a layer of one file of `text`; later ones are used later.
  store::Record add(const std::string& text) {
    store::BlobStore& blobs = store().blobs();
    const auto layer = build_layer({file_entry("f", text)});
    const fs::StoredLayer stored = must(fs::store_layer(*layer, blobs));
    must(blobs.put(text));
    store::Record record;
    record.static_key = digest_of("key " + text);
    record.strong_key = digest_of("strong " + text);
    record.path_set = must(blobs.put("path set " + text));
    record.trace = must(blobs.put("trace " + text));
    record.log = must(blobs.put("log " + text));
    record.layer = stored.digest;
    store::Batch batch;
    batch.layers.push_back({stored.digest, stored.mtimes, 1, 2});
    batch.records.push_back(record);
    store().submit(std::move(batch));
    must(store().flush());
    return record;
  }
  bool known(const store::Record& record) {
    return must(store().find(record.static_key, record.strong_key)).has_value();
  }
  bool has(const std::string& text) {
    return exists(home() + "/blobs/" + digest_of(text).hex().substr(0, 2) + "/" +
                  digest_of(text).hex());
  }
  store::Store& store() { return *store_; }
  std::string home() const { return temp_ / "home"; }
  // What a process put is claimed by it until it ends.
  void start_anew() {
    store_.reset();
    store_ = must(store::Store::open(home()));
  }

  TempDir temp_;
  std::unique_ptr<store::Store> store_ = must(store::Store::open(home()));
};

TEST_F(PruneTest, WithoutASizeOnlyWhatNothingNamesGoes) {
  const store::Record record = add("text");
  must(store().blobs().put("of nobody"));
  start_anew();
  EXPECT_EQ(must(prune(store(), std::nullopt)).blobs.blobs, 1U);
  EXPECT_FALSE(has("of nobody"));
  EXPECT_TRUE(has("text") && has("trace text") && has("path set text") && has("log text"));
  EXPECT_TRUE(known(record));
  must(fs::load_layer(*must(store().layer_times(record.layer)), store().blobs()));
}

TEST_F(PruneTest, TheLeastRecentlyUsedGoFirst) {
  const store::Record first = add(std::string(1000, 'a'));
  const store::Record second = add(std::string(1000, 'b'));
  const store::Record third = add(std::string(1000, 'c'));
  store().touch(first);
  must(store().flush());
  start_anew();
  const Pruned pruned = must(prune(store(), 2 * 6000));
  EXPECT_LE(pruned.kept_bytes, 2U * 6000);
  EXPECT_EQ(pruned.records, 1U);
  EXPECT_TRUE(known(first));
  EXPECT_FALSE(known(second));
  EXPECT_TRUE(known(third));
  EXPECT_FALSE(has(std::string(1000, 'b')));
  EXPECT_EQ(must(store().dropped_path_sets(second.static_key)), 1);
  EXPECT_TRUE(must(store().path_sets(second.static_key)).empty());
}

TEST_F(PruneTest, ZeroLeavesNothing) {
  add("text");
  start_anew();
  must(prune(store(), 0));
  const store::StoreStats stats = must(store().stats());
  EXPECT_EQ(stats.blobs + stats.records + stats.layers + stats.path_sets + stats.files, 0U);
}

TEST_F(PruneTest, WhatAnotherProcessClaimsStays) {
  const store::Record record = add("text");
  start_anew();
  const auto other = must(store::Store::open(home()));
  must(other->claim_result(record));
  must(other->blobs().put("not named yet"));
  EXPECT_EQ(must(prune(store(), 0)).records, 1U);
  EXPECT_TRUE(has("text") && has("trace text") && has("log text") && has("path set text"));
  EXPECT_TRUE(has("not named yet"));
  must(fs::load_layer(*must(other->layer_times(record.layer)), other->blobs()));
}

TEST_F(PruneTest, AClaimWaitsForPrune) {
  const auto other = must(store::Store::open(home()));
  std::atomic<bool> claimed = false;
  Fd stopped = must(store::stop_claims(home()));
  std::jthread claimer([&] {
    must(other->blobs().put("late"));
    claimed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(claimed);
  stopped.reset();
  claimer.join();
  EXPECT_TRUE(has("late"));
}

}  // namespace
}  // namespace hm::runner
