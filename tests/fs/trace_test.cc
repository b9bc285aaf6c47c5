// Traces: normalisation, encoding, evaluation on another view, and what a miss is told as.
#include "fs/trace.h"

#include <gtest/gtest.h>

#include "store/util/bytes.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file
using Kind = ObservationKind;

constexpr Kind kProbe = Kind::kProbe;
constexpr Kind kContent = Kind::kContent;
constexpr Kind kList = Kind::kList;

View::Node node_of(EntryKind kind, std::int64_t moment_ns = kImageMomentNs) {
  View::Node node;
  node.entry.kind = kind;
  node.moment_ns = moment_ns;
  return node;
}

std::vector<std::string> paths_of(const Trace& trace) {
  std::vector<std::string> out;
  for (const Observation& item : trace.observations) {
    out.push_back(std::string(to_string(item.kind)) + " " + item.path);
  }
  return out;
}
using Paths = std::vector<std::string>;

// --- TraceBuilder

TEST(TraceBuilder, StrongestObservationOfAPathWins) {
  const View::Node file = node_of(EntryKind::kFile);
  const View::Node dir = node_of(EntryKind::kDirectory);
  for (const bool strong_first : {false, true}) {
    TraceBuilder builder;
    const Observation weak[] = {{"f", kProbe, "weak"}, {"d", kProbe, "weak"}};
    const Observation strong[] = {{"f", kContent, "strong"}, {"d", kList, "strong"}};
    for (int i = 0; i < 2; ++i) {
      const bool now_strong = strong_first == (i == 0);
      builder.add(now_strong ? strong[0] : weak[0], &file);
      builder.add(now_strong ? strong[1] : weak[1], &dir);
    }
    const Trace trace = builder.finish();
    EXPECT_EQ(paths_of(trace), (Paths{"list d", "content f"}));
    for (const Observation& item : trace.observations) EXPECT_EQ(item.value, "strong");
  }
}

TEST(TraceBuilder, AbsenceUnderAListedDirectoryIsImplied) {
  const View::Node dir = node_of(EntryKind::kDirectory);
  const View::Node file = node_of(EntryKind::kFile);
  const auto names = std::make_shared<const Listing>(
      Listing{{"sub", EntryKind::kDirectory}, {"there", EntryKind::kFile}});
  TraceBuilder builder;
  builder.add({"", kProbe, "dir"}, &dir);
  builder.add({"listed", kList, "dir"}, &dir, names);
  builder.add({"listed/absent", kProbe, "absent"}, nullptr);
  builder.add({"listed/there", kProbe, "file"}, &file);
  builder.add({"listed/sub", kProbe, "dir"}, &dir);
  builder.add({"listed/sub/absent", kProbe, "absent"}, nullptr);
  builder.add({"absent", kProbe, "absent"}, nullptr);
  EXPECT_EQ(paths_of(builder.finish()),
            (Paths{"probe ", "probe absent", "list listed", "probe listed/sub",
                   "probe listed/sub/absent", "probe listed/there"}));
}

TEST(TraceBuilder, AbsenceThatContradictsTheListingIsKept) {
  const View::Node dir = node_of(EntryKind::kDirectory);
  const auto names = std::make_shared<const Listing>(Listing{{"there", EntryKind::kFile}});
  TraceBuilder builder;
  builder.add({"d", kList, "dir"}, &dir, names);
  builder.add({"d/there", kProbe, "absent"}, nullptr);
  builder.add({"d/none", kProbe, "absent"}, nullptr);
  EXPECT_EQ(paths_of(builder.finish()), (Paths{"list d", "probe d/there"}));
}

TEST(TraceBuilder, AbsenceAtTheRootIsImpliedByItsListing) {
  const View::Node dir = node_of(EntryKind::kDirectory);
  TraceBuilder builder;
  builder.add({"", kList, "dir"}, &dir, std::make_shared<const Listing>());
  builder.add({"absent", kProbe, "absent"}, nullptr);
  EXPECT_EQ(paths_of(builder.finish()), Paths{"list "});
}

std::string order_of(const std::vector<std::pair<std::string, std::int64_t>>& files) {
  TraceBuilder builder;
  for (const auto& [path, moment] : files) {
    const View::Node node = node_of(EntryKind::kFile, moment);
    builder.add({path, kProbe, "v"}, &node);
  }
  return builder.finish().order;
}

TEST(TraceOrder, SaysOnlyTheDenseRanks) {
  const std::string order = order_of({{"a", 0}, {"b", 1}, {"c", 2}});
  EXPECT_EQ(order, order_of({{"a", 1}, {"b", 4}, {"c", 9}})) << "gaps say nothing";
  EXPECT_NE(order, order_of({{"a", 1}, {"b", 0}, {"c", 2}})) << "another order";
  EXPECT_NE(order, order_of({{"a", 0}, {"b", 0}, {"c", 2}})) << "two of one moment";
  EXPECT_NE(order, order_of({{"a", 0}, {"b", 1}, {"d", 2}})) << "other paths";
}

TEST(TraceOrder, OneMomentIsOneValue) {
  EXPECT_EQ(order_of({{"a", 0}, {"b", 0}}), order_of({{"x", 5}}));
  EXPECT_EQ(order_of({}), order_of({{"a", 3}}));
  EXPECT_NE(order_of({{"a", 0}, {"b", 1}}), order_of({{"a", 0}, {"b", 0}}));
}

TEST(TraceOrder, DirectoriesAndAbsentPathsHaveNoTime) {
  const View::Node file = node_of(EntryKind::kFile, 3);
  const View::Node dir = node_of(EntryKind::kDirectory, 0);
  TraceBuilder builder;
  builder.add({"a", kProbe, "v"}, &file);
  builder.add({"d", kProbe, "v"}, &dir);
  builder.add({"none", kProbe, "absent"}, nullptr);
  EXPECT_EQ(builder.finish().order, order_of({{"a", 3}}));
}

// --- encoding

Trace sample() {
  return {{{"", kList, "dir"},
           {"a", kProbe, "absent"},
           {"a-b", kContent, "file \xff"},
           {"z", kProbe, ""}},
          "the order"};
}

TEST(TraceEncoding, RoundTrip) {
  const Trace trace = sample();
  const Trace again = must(Trace::decode(trace.encode()));
  EXPECT_EQ(again.observations, trace.observations);
  EXPECT_EQ(again.order, trace.order);
  EXPECT_EQ(again.encode(), trace.encode());
  const Trace empty = must(Trace::decode(Trace{}.encode()));
  EXPECT_TRUE(empty.observations.empty());
}

TEST(TraceEncoding, PathSetHasNoValues) {
  Trace trace = sample();
  const std::string before = trace.encode_path_set();
  for (Observation& item : trace.observations) item.value += " changed";
  trace.order = "changed";
  EXPECT_EQ(trace.encode_path_set(), before);
  const Trace path_set = must(Trace::decode(before));
  EXPECT_EQ(paths_of(path_set), paths_of(trace));
  for (const Observation& item : path_set.observations) EXPECT_EQ(item.value, "");
  trace.observations[1].kind = kContent;
  EXPECT_NE(trace.encode_path_set(), before);
}

TEST(TraceEncoding, IsFixed) {
  Writer out;
  out.raw("hmtrace1");
  out.number(1);
  out.byte(1);
  out.text("a/b");
  out.text("value");
  out.text("order");
  EXPECT_EQ((Trace{{{"a/b", kContent, "value"}}, "order"}).encode(), out.take());
}

TEST(TraceDecode, RefusesTruncationAtEveryByte) {
  const std::string blob = sample().encode();
  for (std::size_t size = 0; size < blob.size(); ++size) {
    const auto trace = Trace::decode(std::string_view(blob).substr(0, size));
    ASSERT_FALSE(trace) << size;
    EXPECT_EQ(trace.error().code, ErrorCode::kCorrupt);
  }
  EXPECT_FALSE(Trace::decode(blob + '\0'));
}

TEST(TraceDecode, RefusesMalformed) {
  const auto refused = [](const Trace& trace) { return !Trace::decode(trace.encode()); };
  EXPECT_TRUE(refused({{{"b", kProbe, ""}, {"a", kProbe, ""}}, ""})) << "unsorted";
  EXPECT_TRUE(refused({{{"a", kProbe, ""}, {"a", kProbe, ""}}, ""})) << "duplicate";
  EXPECT_TRUE(refused({{{"a-", kProbe, ""}, {"a/b", kProbe, ""}}, ""})) << "bytewise order";
  for (const char* path : {"..", "/a", "a/", "a//b", "a/../b", "."}) {
    EXPECT_TRUE(refused({{{path, kProbe, ""}}, ""})) << path;
  }
  EXPECT_TRUE(refused({{{"a", static_cast<Kind>(3), ""}}, ""})) << "unknown kind";
  std::string blob = sample().encode();
  blob[7] = '2';
  EXPECT_FALSE(Trace::decode(blob)) << "unknown format";
  for (const std::uint64_t count : {3ULL, 5ULL, 1ULL << 40, ~0ULL}) {
    std::string wrong = sample().encode();
    for (std::size_t i = 0; i < 8; ++i) wrong[8 + i] = static_cast<char>(count >> (8 * i));
    EXPECT_FALSE(Trace::decode(wrong)) << count;
  }
}

TEST(StrongKey, DependsOnEveryPart) {
  const Digest key = digest_of("static");
  const Digest set = digest_of("set");
  const Trace trace = sample();
  const Digest strong = strong_key(key, set, trace);
  EXPECT_EQ(strong_key(key, set, sample()), strong);
  EXPECT_NE(strong_key(digest_of("other"), set, trace), strong);
  EXPECT_NE(strong_key(key, digest_of("other"), trace), strong);
  for (std::size_t i = 0; i < trace.observations.size(); ++i) {
    Trace changed = trace;
    changed.observations[i].value += "x";
    EXPECT_NE(strong_key(key, set, changed), strong) << i;
  }
  Trace changed = trace;
  changed.order = "other";
  EXPECT_NE(strong_key(key, set, changed), strong);
  changed = trace;
  std::swap(changed.observations[0].value, changed.observations[1].value);
  EXPECT_NE(strong_key(key, set, changed), strong);
}

// --- evaluation

class Evaluate : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(trees_.image("bin/tool"), "tool");
    write_file(trees_.workspace("src/main.c"), "main");
    std::filesystem::create_symlink("main.c", trees_.workspace("src/link"));
  }
  static Trace path_set(std::vector<std::pair<std::string, Kind>> items) {
    Trace out;
    for (auto& [path, kind] : items) out.observations.push_back({path, kind, ""});
    std::sort(out.observations.begin(), out.observations.end(),
              [](const auto& a, const auto& b) { return PathLess{}(a.path, b.path); });
    return out;
  }
  Trees trees_;
};

TEST_F(Evaluate, GivesTheValuesOfObserve) {
  const View view = trees_.view(
      {view_layer({dir_entry("bin"), file_entry("bin/new", "n"), whiteout_entry("tmp")})});
  const Trace wanted = path_set({{"", kList},
                                 {"bin", kList},
                                 {"bin/new", kContent},
                                 {"bin/none", kProbe},
                                 {"bin/tool", kContent},
                                 {"tmp", kProbe},
                                 {"tmp/x", kProbe},
                                 {"workspace/src", kList},
                                 {"workspace/src/link", kProbe},
                                 {"workspace/src/main.c", kProbe},
                                 {"workspace/src/main.c/below", kProbe}});
  const Trace trace = must(evaluate(view, wanted));
  ASSERT_EQ(trace.encode_path_set(), wanted.encode_path_set())
      << "a value for every path that was asked";
  for (const Observation& item : trace.observations) {
    const auto node = must(view.resolve(item.path));
    EXPECT_EQ(item.value, node ? must(observe(view, *node, item.kind)) : probe_text(std::nullopt))
        << item.path;
  }
}

TEST_F(Evaluate, AbsentUnderAListedDirectoryStillHasAValue) {
  const Trace trace =
      must(evaluate(trees_.view(), path_set({{"bin", kList}, {"bin/none", kProbe}})));
  ASSERT_EQ(trace.observations.size(), 2U);
  EXPECT_EQ(trace.observations[1].value, "absent");
}

TEST_F(Evaluate, KindThatDoesNotFitYieldsTheEntry) {
  must_be_zero(::mkfifo(trees_.image("fifo").c_str(), 0644), "mkfifo");
  const View view = trees_.view();
  const Trace trace = must(evaluate(view, path_set({{"bin", kContent},
                                                    {"bin/tool", kList},
                                                    {"fifo", kContent},
                                                    {"workspace/src/link", kContent}})));
  for (const Observation& item : trace.observations) {
    EXPECT_EQ(item.value, probe_text(must(view.resolve(item.path))->entry)) << item.path;
  }
}

TEST_F(Evaluate, EqualViewsGiveEqualStrongKeys) {
  const Trace wanted = path_set(
      {{"bin/tool", kContent}, {"workspace/src/main.c", kContent}, {"workspace/src", kList}});
  const auto key = [&] { return strong_key({}, {}, must(evaluate(trees_.view(), wanted))); };
  const Digest before = key();
  set_mtime(trees_.image("bin/tool"), 1000);
  write_file(trees_.workspace("src/main.c"), "main");
  write_file(trees_.workspace("elsewhere"), "x");
  EXPECT_EQ(key(), before) << "nothing of it was observed";
  write_file(trees_.workspace("src/main.c"), "mAin");
  EXPECT_NE(key(), before);
  write_file(trees_.workspace("src/main.c"), "main");
  EXPECT_EQ(key(), before) << "and back";
  write_file(trees_.workspace("src/new.c"), "");
  EXPECT_NE(key(), before) << "the listing";
}

TEST_F(Evaluate, OrderFollowsTheOrigins) {
  const Trace wanted = path_set({{"bin/tool", kContent}, {"workspace/src/main.c", kContent}});
  const Trace plain = must(evaluate(trees_.view(), wanted));
  // The same bytes, but now a layer wrote main.c: make would see another "newer than".
  const auto layer = view_layer({dir_entry("workspace"), dir_entry("workspace/src"),
                                 file_entry("workspace/src/main.c", "main")},
                                now_ns() - 2000, now_ns() - 1000);
  const Trace built = must(evaluate(trees_.view({layer}), wanted));
  EXPECT_EQ(plain.observations, built.observations);
  EXPECT_NE(plain.order, built.order);
  // A layer below that touches nothing observed moves the origin, not the rank.
  const Trace shifted =
      must(evaluate(trees_.view({view_layer({file_entry("other", "")}), layer}), wanted));
  EXPECT_EQ(shifted.order, built.order);
}

// --- first_change

std::string change_of(std::vector<Observation> before, std::vector<Observation> now) {
  const auto change = first_change({std::move(before), ""}, {std::move(now), ""});
  return change ? change->path.value_or("") + ": " + change->change : "";
}

const char* const kFile = "file mode=0644 owner=0:0 size=3";
std::string with_sha(const std::string& text, char digit) {
  return text + " sha256=" + std::string(64, digit);
}

TEST(FirstChange, Texts) {
  EXPECT_EQ(change_of({{"p", kProbe, kFile}}, {{"p", kProbe, kFile}}), "");
  EXPECT_EQ(change_of({{"p", kProbe, "absent"}}, {{"p", kProbe, kFile}}), "p: exists now");
  EXPECT_EQ(change_of({{"p", kProbe, kFile}}, {{"p", kProbe, "absent"}}), "p: is gone");
  EXPECT_EQ(change_of({{"p", kProbe, kFile}}, {{"p", kProbe, "dir mode=0755 owner=0:0"}}),
            "p: was a file, is a dir");
  EXPECT_EQ(
      change_of({{"p", kContent, with_sha(kFile, '1')}}, {{"p", kContent, with_sha(kFile, '2')}}),
      "p: content changed");
  EXPECT_EQ(change_of({{"p", kContent, with_sha(kFile, '1')}},
                      {{"p", kContent, with_sha("file mode=0644 owner=0:0 size=44", '2')}}),
            "p: content changed");
  EXPECT_EQ(change_of({{"p", kList, "dir mode=0755 owner=0:0 names=1:aa"}},
                      {{"p", kList, "dir mode=0755 owner=0:0 names=2:bb"}}),
            "p: names in it changed");
  EXPECT_EQ(change_of({{"p", kProbe, "symlink mode=0777 owner=0:0 target=a"}},
                      {{"p", kProbe, "symlink mode=0777 owner=0:0 target=b"}}),
            "p: points elsewhere");
  EXPECT_EQ(change_of({{"p", kProbe, kFile}}, {{"p", kProbe, "file mode=0755 owner=0:0 size=3"}}),
            "p: file mode=0644 owner=0:0 size=3 became file mode=0755 owner=0:0 size=3");
  EXPECT_EQ(change_of({{"p", kContent, with_sha(kFile, '1')}},
                      {{"p", kContent, with_sha("file mode=0755 owner=0:0 size=3", '1')}})
                .find("p: file mode=0644"),
            0U)
      << "a mode is no content";
}

TEST(FirstChange, IsOneLine) {
  const std::string change = change_of({{"p", kProbe, "symlink mode=0777 owner=0:0 target=a"}},
                                       {{"p", kProbe, "symlink mode=0777 owner=1:0 target=a\nb"}});
  EXPECT_EQ(change.find('\n'), std::string::npos) << change;
}

TEST(FirstChange, CountsTheOthers) {
  EXPECT_EQ(change_of({{"a", kProbe, kFile}, {"b", kProbe, kFile}, {"c", kProbe, kFile}},
                      {{"a", kProbe, "absent"}, {"b", kProbe, kFile}, {"c", kProbe, "absent"}}),
            "a: is gone (and 1 more)");
}

TEST(FirstChange, PrefersAFileToTheListingItAppearedIn) {
  EXPECT_EQ(change_of({{"d", kList, "dir names=1:a"}, {"d/f", kProbe, "absent"}},
                      {{"d", kList, "dir names=2:b"}, {"d/f", kProbe, kFile}}),
            "d/f: exists now (and 1 more)");
}

TEST(FirstChange, NamesTheOrder) {
  const auto change = first_change({{}, "one"}, {{}, "two"});
  ASSERT_TRUE(change);
  EXPECT_EQ(change->path, std::nullopt);
  EXPECT_NE(change->change.find("order"), std::string::npos);
}

}  // namespace
}  // namespace hm::fs
