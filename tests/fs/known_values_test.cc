// KnownValues: what is kept, and that lookups which share it find what they find alone.
#include "fs/known_values.h"

#include <gtest/gtest.h>

#include <thread>

#include "fs/trace.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file
using Kind = ObservationKind;

TEST(KnownValues, KnowWhatWasObservedInTheSameWay) {
  KnownValues known;
  EXPECT_FALSE(known.find("a", Kind::kProbe));
  known.add("a", Kind::kProbe, {"probed", std::nullopt});
  known.add("a", Kind::kContent, {"read", 7});
  known.add("a", Kind::kContent, {"read otherwise", 8});
  const auto read = known.find("a", Kind::kContent);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->text, "read");
  EXPECT_EQ(read->moment_ns, 7);
  EXPECT_EQ(known.find("a", Kind::kProbe)->text, "probed");
  EXPECT_FALSE(known.find("a", Kind::kProbe)->moment_ns);
  EXPECT_FALSE(known.find("a", Kind::kList));
  EXPECT_FALSE(known.find("", Kind::kProbe));
  EXPECT_FALSE(known.find("a/", Kind::kProbe));
}

TEST(KnownValues, StayWhereTheyAreWhileOthersAreAdded) {
  KnownValues known;
  known.add("first", Kind::kProbe, {"value of the first", 1});
  const auto first = known.find("first", Kind::kProbe);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&known] {
      for (int i = 0; i < 5000; ++i) {
        const std::string path = "d/" + std::to_string(i);
        known.add(path, Kind::kContent, {"of " + path, i});
        const auto found = known.find(path, Kind::kContent);
        EXPECT_TRUE(found && found->text == "of " + path && found->moment_ns == i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(first->text, "value of the first");
}

class SharedLookup : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 20; ++i) {
      const std::string number = std::to_string(i);
      write_file(trees_.workspace("d" + std::to_string(i % 3) + "/f" + number), "text " + number);
      write_file(trees_.image("usr/i" + number), number);
    }
  }

  // Paths that are there, that are not, that are in a layer, in ways that fit and that do not.
  Trace some_paths(Random& random) const {
    std::map<std::string, Kind, PathLess> items;
    for (int i = 0; i < 25; ++i) {
      const std::string number = std::to_string(random.below(22));
      const std::string dir = "workspace/d" + std::to_string(random.below(4));
      const std::vector<std::string> paths = {dir,         dir + "/f" + number,  "usr/i" + number,
                                              "workspace", "made/f" + number,    "made",
                                              "usr",       dir + "/none/deeper", ""};
      items[random.pick(paths)] = random.pick<Kind>({Kind::kProbe, Kind::kContent, Kind::kList});
    }
    Trace trace;
    for (const auto& [path, kind] : items) trace.observations.push_back({path, kind, ""});
    return trace;
  }

  Trees trees_;
};

TEST_F(SharedLookup, FindsWhatALookupAloneFinds) {
  const auto layer =
      view_layer({dir_entry("made"), file_entry("made/f3", "of a step"), dir_entry("workspace"),
                  dir_entry("workspace/d1"), file_entry("workspace/d1/f4", "of a step, too")});
  const View alone = trees_.view({layer});
  View shared = alone;
  shared.share(std::make_shared<KnownValues>());
  Random random(4711);
  for (int round = 0; round < 200; ++round) {
    const Trace paths = some_paths(random);
    const Trace expected = must(evaluate(alone, paths));
    EXPECT_EQ(must(evaluate(shared, paths)).encode(), expected.encode()) << "round " << round;
    const auto set = must(PathSet::decode(paths.encode_path_set()));
    const Digest name = Digest::of(paths.encode_path_set());
    for (const Digest& key : {Digest::of("key"), Digest::of("of a sibling")}) {
      EXPECT_EQ(must(strong_key_on(shared, key, name, *set)), strong_key(key, name, expected));
    }
  }
}

TEST_F(SharedLookup, OfAnotherViewKnowsNothing) {
  const auto layer = view_layer({dir_entry("usr"), file_entry("usr/i3", "of a step")});
  View below = trees_.view();
  View above = trees_.view({layer});
  below.share(std::make_shared<KnownValues>());
  above.share(std::make_shared<KnownValues>());
  Trace paths;
  paths.observations.push_back({"usr/i3", Kind::kContent, ""});
  EXPECT_NE(must(evaluate(below, paths)).encode(), must(evaluate(above, paths)).encode());
}

}  // namespace
}  // namespace hm::fs
