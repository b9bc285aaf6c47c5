// Lookup: hits, and one line for each miss.
#include "runner/lookup.h"

#include <gtest/gtest.h>

#include "fs/capture.h"
#include "fs/trace.h"
#include "test_support.h"

namespace hm::runner {
namespace {

using namespace test;  // NOLINT: a test file
using namespace std::chrono_literals;
using Kind = fs::ObservationKind;

class LookupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(trees_.workspace("a"), "1");
    write_file(trees_.workspace("b"), "1");
    command_.argv = {"sh", "-c", "cat a b"};
    key_ = static_key(command_, KeyBase(IdMode::kFull));
  }

  // Records what a step would have left that observed `items`.
  store::Record record(const std::vector<std::pair<std::string, Kind>>& items,
                       const std::string& wrote = "result", std::int64_t created_ns = now_ns()) {
    fs::Trace wanted;
    for (const auto& [path, kind] : items) wanted.observations.push_back({path, kind, ""});
    const fs::View view = trees_.view();
    const fs::Trace trace = must(fs::evaluate(view, wanted));
    auto& blobs = trees_.store().blobs();
    must(blobs.put(wrote));
    const auto layer = build_layer({file_entry("out", wrote)});
    const auto stored = must(fs::store_layer(*layer, blobs));
    store::Record out;
    out.static_key = key_.digest;
    out.path_set = must(blobs.put(trace.encode_path_set()));
    out.strong_key = fs::strong_key(key_.digest, out.path_set, trace);
    out.trace = must(blobs.put(trace.encode()));
    out.layer = stored.digest;
    out.log = must(blobs.put("hmlog001"));
    out.created_ns = created_ns;
    store::Batch batch;
    batch.layers.push_back({stored.digest, stored.mtimes, 5, 6});
    batch.records.push_back(out);
    trees_.store().submit(std::move(batch));
    must(trees_.store().flush());
    return out;
  }
  LookupResult look(std::optional<std::chrono::seconds> ttl = {},
                    const std::optional<store::RunStep>& previous = {}) {
    const fs::View view = trees_.view();
    return must(look_up(trees_.store(), view, key_, ttl,
                        [&] { return Result<std::optional<store::RunStep>>(previous); }));
  }
  const Hit* hit(const LookupResult& result) { return std::get_if<Hit>(&result.outcome); }
  std::string miss(const LookupResult& result) {
    const auto* out = std::get_if<Miss>(&result.outcome);
    return out == nullptr ? "hit" : out->reason;
  }
  std::string blob_path(const Digest& digest) {
    return trees_.store().home() + "/blobs/" + digest.hex().substr(0, 2) + "/" + digest.hex();
  }

  Trees trees_;
  Command command_;
  StaticKey key_;
};

TEST_F(LookupTest, UnknownKeyIsTheFirstRun) {
  EXPECT_EQ(miss(look()), "first run");
  EXPECT_EQ(look().flight, key_.digest);
}

TEST_F(LookupTest, UnchangedInputsHit) {
  const store::Record item =
      record({{"workspace/a", Kind::kContent}, {"workspace/none", Kind::kProbe}});
  const auto result = look();
  const Hit* found = hit(result);
  ASSERT_NE(found, nullptr) << miss(result);
  EXPECT_EQ(found->record.strong_key, item.strong_key);
  EXPECT_EQ(found->inputs->items().size(), 2U);
  EXPECT_EQ(found->times.started_ns, 5);
  EXPECT_EQ(found->layer.digest, item.layer);
  EXPECT_NE(found->layer.layer->find("out"), nullptr);
  EXPECT_EQ(result.flight, item.strong_key);
}

TEST_F(LookupTest, WhatWasNotObservedMayChange) {
  record({{"workspace/a", Kind::kContent}});
  write_file(trees_.workspace("b"), "2");
  write_file(trees_.workspace("README"), "x");
  EXPECT_NE(hit(look()), nullptr);
}

TEST_F(LookupTest, ChangedInputMissesAndIsNamed) {
  record({{"workspace/a", Kind::kContent}, {"workspace/none", Kind::kProbe}});
  write_file(trees_.workspace("a"), "2");
  const auto result = look();
  EXPECT_EQ(miss(result), "/workspace/a content changed");
  EXPECT_EQ(std::get<Miss>(result.outcome).path, "/workspace/a");
  EXPECT_EQ(std::get<Miss>(result.outcome).change, "content changed");
  write_file(trees_.workspace("a"), "1");
  EXPECT_NE(hit(look()), nullptr) << "and back";
  write_file(trees_.workspace("none"), "");
  EXPECT_EQ(miss(look()), "/workspace/none exists now");
}

TEST_F(LookupTest, EveryOldStateOfTheInputsHits) {
  const store::Record one = record({{"workspace/a", Kind::kContent}}, "one");
  write_file(trees_.workspace("a"), "2");
  const store::Record two = record({{"workspace/a", Kind::kContent}}, "two");
  EXPECT_EQ(one.path_set, two.path_set);
  EXPECT_EQ(hit(look())->record.layer, two.layer);
  write_file(trees_.workspace("a"), "1");
  EXPECT_EQ(hit(look())->record.layer, one.layer);
}

TEST_F(LookupTest, EveryPathSetIsTried) {
  const store::Record old = record({{"workspace/a", Kind::kContent}}, "old");
  write_file(trees_.workspace("a"), "2");
  record({{"workspace/a", Kind::kContent}, {"workspace/b", Kind::kContent}}, "new");
  write_file(trees_.workspace("a"), "1");
  ASSERT_NE(hit(look()), nullptr);
  EXPECT_EQ(hit(look())->record.layer, old.layer);
}

TEST_F(LookupTest, TtlBoundsTheAge) {
  record({{"workspace/a", Kind::kContent}}, "result", now_ns() - 100'000'000'000);
  EXPECT_NE(hit(look(200s)), nullptr);
  EXPECT_EQ(miss(look(50s)), "its result is older than its ttl");
  EXPECT_NE(hit(look()), nullptr);
}

TEST_F(LookupTest, TtlDoesNotTrustARecordFromTheFuture) {
  record({{"workspace/a", Kind::kContent}}, "result", now_ns() + 100'000'000'000);
  EXPECT_EQ(miss(look(200s)), "its result is older than its ttl");
  EXPECT_NE(hit(look()), nullptr);
}

TEST_F(LookupTest, MissingLayerTurnsTheHitIntoAMissAndIsForgotten) {
  const store::Record item = record({{"workspace/a", Kind::kContent}});
  std::filesystem::remove(blob_path(item.layer));
  EXPECT_TRUE(miss(look()).starts_with("the store is damaged: ")) << miss(look());
  EXPECT_FALSE(must(trees_.store().find(item.static_key, item.strong_key)));
}

TEST_F(LookupTest, CorruptBlobsTurnTheHitIntoAMiss) {
  for (const int which : {0, 1}) {
    const store::Record item = record({{"workspace/a", Kind::kContent}}, "result");
    const Digest& victim = which == 0 ? item.path_set : item.layer;
    must_be_zero(::chmod(blob_path(victim).c_str(), 0644), "chmod");
    write_file(blob_path(victim), "garbage");
    EXPECT_TRUE(miss(look()).starts_with("the store is damaged: ")) << which;
    std::filesystem::remove(blob_path(victim));
  }
}

store::RunStep report(const StaticKey& key, const std::string& outcome) {
  store::RunStep out;
  out.outcome = outcome;
  out.components = encode_components(key);
  return out;
}

TEST_F(LookupTest, ChangedKeyIsNamed) {
  Command before = command_;
  before.env["CC"] = "gcc";
  EXPECT_EQ(miss(look({}, report(static_key(before, KeyBase(IdMode::kFull)), "ran"))),
            "environment variable CC changed");
  EXPECT_EQ(miss(look({}, report(key_, "failed"))), "it failed the last time");
}

TEST_F(LookupTest, DroppedResultsAreNamed) {
  for (int i = 0; i < store::kMaxPathSets + 1; ++i) {
    record({{"workspace/a", Kind::kContent}, {"workspace/n" + std::to_string(i), Kind::kProbe}});
  }
  EXPECT_EQ(must(trees_.store().dropped_path_sets(key_.digest)), 1);
  EXPECT_NE(hit(look()), nullptr);
}

TEST_F(LookupTest, LayerWrittenInputsCount) {
  record({{"workspace/a", Kind::kContent}});
  const auto layer = view_layer({dir_entry("workspace"), file_entry("workspace/a", "1")});
  // The same bytes, entry and order (one origin): a parent that wrote them changes nothing.
  const fs::View same = trees_.view({layer});
  EXPECT_NE(hit(must(look_up(trees_.store(), same, key_, {}, {}))), nullptr);
  const fs::View other =
      trees_.view({view_layer({dir_entry("workspace"), file_entry("workspace/a", "2")})});
  EXPECT_EQ(miss(must(look_up(trees_.store(), other, key_, {}, {}))),
            "/workspace/a content changed");
}

}  // namespace
}  // namespace hm::runner
