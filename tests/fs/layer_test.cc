// Layers: what is encoded comes back, and nothing else is believed.
#include "fs/layer.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <functional>
#include <set>

#include "store/util/bytes.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

// One entry as bytes; each field may be made wrong.
struct Raw {
  std::string path;
  std::uint8_t type = 0;
  std::uint8_t opaque = 0;
  std::uint64_t mode = 0644, uid = 0, gid = 0, size = 0, rdev = 0;
  std::string content = std::string(32, 'c');  // files only
  std::string target;
  std::uint64_t xattr_count = 0;
  std::vector<std::string> xattrs;  // names and values
  std::uint64_t group = 0;
  std::uint8_t time_of = 0;
  std::uint64_t mtime = 0;  // kKept only
  std::string time_path;    // kTaken only
};

Raw raw_dir(const std::string& path) {
  Raw raw;
  raw.path = path;
  raw.type = 1;
  raw.mode = 0755;
  return raw;
}
Raw raw_file(const std::string& path) {
  Raw raw;
  raw.path = path;
  return raw;
}
Raw changed(Raw raw, const std::function<void(Raw&)>& change) {
  change(raw);
  return raw;
}

std::string encode_raw(const std::vector<Raw>& entries, std::optional<std::uint64_t> count = {}) {
  Writer out;
  out.raw("hmlayer2");
  out.number(count.value_or(entries.size()));
  for (const Raw& raw : entries) {
    out.text(raw.path);
    out.byte(raw.type);
    out.byte(raw.opaque);
    for (const std::uint64_t number : {raw.mode, raw.uid, raw.gid, raw.size, raw.rdev}) {
      out.number(number);
    }
    if (raw.type == 0) out.raw(raw.content);
    out.text(raw.target);
    out.number(raw.xattr_count);
    for (const std::string& text : raw.xattrs) out.text(text);
    out.number(raw.group);
    out.byte(raw.time_of);
    if (raw.time_of == 1) out.number(raw.mtime);
    if (raw.time_of == 2) out.text(raw.time_path);
  }
  return out.take();
}

void expect_refused(const std::string& blob, const std::string& why, std::string_view mtimes = "") {
  const auto layer = Layer::decode(blob, mtimes);
  ASSERT_FALSE(layer) << why;
  EXPECT_EQ(layer.error().code, ErrorCode::kCorrupt) << why;
}
void expect_refused(const std::vector<Raw>& entries, const std::string& why) {
  expect_refused(encode_raw(entries), why);
}

TEST(Layer, TheRawEncoderOfThisTestIsRight) {
  const std::vector<Raw> good = {raw_dir("d"), raw_file("d/f"), raw_file("e")};
  const auto layer = Layer::decode(encode_raw(good), "");
  ASSERT_TRUE(layer) << layer.error().message;
  EXPECT_EQ((*layer)->encode(), encode_raw(good));
  EXPECT_EQ((*layer)->entries().size(), 3U);
}

TEST(Layer, EncodingIsFixed) {
  // Format 1 must stay readable for ever: its bytes are pinned here.
  const auto layer = build_layer({dir_entry("d"), file_entry("d/f", "abc", 0755),
                                  link_entry("l", "d/f"), whiteout_entry("w")});
  EXPECT_EQ(Digest::of(layer->encode()).hex(),
            Digest::of(encode_raw({
                           raw_dir("d"),
                           changed(raw_file("d/f"),
                                   [](Raw& raw) {
                                     raw.mode = 0755;
                                     raw.size = 3;
                                     raw.content = std::string(Digest::of("abc").raw());
                                   }),
                           changed(raw_file("l"),
                                   [](Raw& raw) {
                                     raw.type = 2;
                                     raw.mode = 0777;
                                     raw.target = "d/f";
                                   }),
                           changed(raw_file("w"),
                                   [](Raw& raw) {
                                     raw.type = 7;
                                     raw.mode = 0;
                                   }),
                       }))
                .hex());
}

TEST(Layer, EmptyLayer) {
  const auto layer = build_layer({});
  const auto again = must(Layer::decode(layer->encode(), layer->encode_mtimes()));
  EXPECT_TRUE(again->entries().empty());
  EXPECT_EQ(again->find(""), nullptr);
  EXPECT_TRUE(again->children("").empty());
}

TEST(Layer, BuildSortsAndFindsPaths) {
  const auto layer = build_layer(
      {file_entry("b", "2"), file_entry("a/x", "1"), dir_entry("a"), file_entry("a-", "")});
  std::vector<std::string> paths;
  for (const LayerEntry& item : layer->entries()) paths.push_back(item.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"a", "a/x", "a-", "b"}));
  ASSERT_NE(layer->find("a/x"), nullptr);
  EXPECT_EQ(layer->find("a/x")->content, Digest::of("1"));
  EXPECT_EQ(layer->find("x"), nullptr);
  EXPECT_EQ(layer->children(""), (std::vector<std::uint32_t>{0, 2, 3}));
  EXPECT_EQ(layer->children("a"), (std::vector<std::uint32_t>{1}));
  EXPECT_TRUE(layer->children("b").empty());
}

TEST(Layer, LinkGroupsAreNamedByTheirFirstPath) {
  const auto layer =
      build_layer({grouped(file_entry("z", "x"), "8:1"), grouped(file_entry("m", "x"), "8:1"),
                   grouped(file_entry("alone", "y"), "8:2")});
  EXPECT_EQ(layer->find("m")->entry.nlink, 2U);
  EXPECT_EQ(layer->find("m")->entry.link_group, "m");
  EXPECT_EQ(layer->find("z")->entry.link_group, "m");
  EXPECT_EQ(layer->find("alone")->entry.nlink, 1U) << "its other names are gone";
  EXPECT_EQ(layer->find("alone")->entry.link_group, "");
}

std::vector<LayerEntry> random_entries(Random& random) {
  std::vector<LayerEntry> out;
  std::vector<std::string> dirs = {""};
  std::set<std::string> taken;
  const std::vector<std::string> names = {"a", "b", "a-", "\xff", "x y", "\x01", "zz"};
  if (random.chance(30)) out.push_back(dir_entry("", 0755));
  const std::size_t count = random.below(30);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string path = join_path(random.pick(dirs), random.pick(names));
    if (!taken.insert(path).second) continue;
    LayerEntry item;
    switch (random.below(6)) {
      case 0:
      case 1:
        item = dir_entry(path, 0700, random.chance(30));
        dirs.push_back(path);
        break;
      case 2:
        item = link_entry(path, "target " + std::to_string(random.below(3)));
        break;
      case 3:
        out.push_back(whiteout_entry(path));
        continue;
      case 4:
        item = file_entry(path, "", 0666);
        item.content = Digest{};
        item.entry.kind = EntryKind::kBlockDevice;
        item.entry.rdev = makedev(7, static_cast<unsigned>(1 + random.below(300)));
        break;
      default:
        item = file_entry(path, std::string(random.below(9), 'x'), 04755);
        // Members of a group are equal, of course.
        if (random.chance(40)) item = grouped(file_entry(path, "linked"), "group");
        break;
    }
    item.entry.uid =
        item.entry.link_group.empty() ? static_cast<std::uint32_t>(random.number()) : 0;
    if (item.entry.link_group.empty() && random.chance(20)) {
      item.entry.xattrs = {{"user.a", std::string("\0\xff", 2)}, {"user.b", ""}};
    }
    item.mtime_ns =
        item.entry.link_group.empty() ? static_cast<std::int64_t>(random.number()) : 4711;
    if (item.entry.link_group.empty() && random.chance(30)) item.time_of = TimeOf::kKept;
    if (item.entry.link_group.empty() && random.chance(20)) {
      item.time_of = TimeOf::kTaken;
      item.time_path = "some/path";
      item.mtime_ns = 0;
    }
    out.push_back(item);
  }
  return out;
}

void expect_equal(const Layer& a, const Layer& b) {
  ASSERT_EQ(a.entries().size(), b.entries().size());
  for (std::size_t i = 0; i < a.entries().size(); ++i) {
    const LayerEntry& x = a.entries()[i];
    const LayerEntry& y = b.entries()[i];
    ASSERT_EQ(x.path, y.path);
    EXPECT_EQ(x.whiteout, y.whiteout) << x.path;
    EXPECT_EQ(x.opaque, y.opaque) << x.path;
    EXPECT_TRUE(x.entry == y.entry)
        << x.path << ": " << probe_text(x.entry) << " / " << probe_text(y.entry);
    EXPECT_EQ(x.content, y.content) << x.path;
    EXPECT_EQ(x.mtime_ns, y.mtime_ns) << x.path;
    EXPECT_EQ(x.time_of, y.time_of) << x.path;
    EXPECT_EQ(x.time_path, y.time_path) << x.path;
    EXPECT_EQ(b.find(x.path), &y);
  }
}

TEST(Layer, RandomLayersComeBack) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const auto layer = build_layer(random_entries(random));
    const auto again = Layer::decode(layer->encode(), layer->encode_mtimes());
    ASSERT_TRUE(again) << again.error().message;
    expect_equal(*layer, **again);
    EXPECT_EQ((*again)->encode(), layer->encode());
    EXPECT_EQ((*again)->encode_mtimes(), layer->encode_mtimes());
    EXPECT_EQ((*again)->has_xattrs(), layer->has_xattrs());
    if (HasFailure()) return;
  }
}

TEST(Layer, TimesOfTheExecutionAreNotInTheDigest) {
  Random random(11);
  std::vector<LayerEntry> entries = random_entries(random);
  const auto before = build_layer(entries);
  for (LayerEntry& item : entries) item.mtime_ns += item.time_of == TimeOf::kRun ? 1'000'000 : 0;
  const auto after = build_layer(entries);
  EXPECT_EQ(before->encode(), after->encode());
  EXPECT_NE(before->encode_mtimes(), after->encode_mtimes());
}

TEST(Layer, TimesThatTheStepSetAreInTheDigest) {
  LayerEntry item = file_entry("f", "x");
  item.mtime_ns = 1000;
  const std::string written = build_layer({item})->encode();
  item.time_of = TimeOf::kKept;
  const std::string kept = build_layer({item})->encode();
  EXPECT_NE(kept, written);
  item.mtime_ns = 2000;
  const auto layer = build_layer({item});
  EXPECT_NE(layer->encode(), kept);
  const auto again = must(Layer::decode(layer->encode(), ""));
  EXPECT_EQ(again->find("f")->mtime_ns, 2000) << "known without the other blob";
}

TEST(LayerDecode, RefusesTimesThatContradictTheKeptOnes) {
  LayerEntry item = file_entry("f", "x");
  item.mtime_ns = 1000;
  item.time_of = TimeOf::kKept;
  const auto layer = build_layer({item});
  item.mtime_ns = 1001;
  EXPECT_TRUE(Layer::decode(layer->encode(), layer->encode_mtimes()));
  expect_refused(layer->encode(), "another time", build_layer({item})->encode_mtimes());
}

TEST(Layer, OrderOfConstructionIsNotInTheDigest) {
  const auto one = build_layer(
      {grouped(file_entry("a", "x"), "1"), dir_entry("d"), grouped(file_entry("b", "x"), "1")});
  const auto two = build_layer(
      {grouped(file_entry("b", "x"), "9"), grouped(file_entry("a", "x"), "9"), dir_entry("d")});
  EXPECT_EQ(one->encode(), two->encode());
}

TEST(Layer, EveryFieldIsInTheDigest) {
  LayerEntry base = file_entry("f", "x");
  const std::string before = build_layer({base})->encode();
  const std::vector<std::function<void(LayerEntry&)>> changes = {
      [](LayerEntry& item) { item.path = "g"; },
      [](LayerEntry& item) { item.entry.mode = 0600; },
      [](LayerEntry& item) { item.entry.uid = 1; },
      [](LayerEntry& item) { item.entry.gid = 1; },
      [](LayerEntry& item) { item.entry.size = 2; },
      [](LayerEntry& item) { item.content = Digest::of("y"); },
      [](LayerEntry& item) {
        item.entry.xattrs = {{"user.a", ""}};
      },
      [](LayerEntry& item) { item = whiteout_entry("f"); },
      [](LayerEntry& item) { item = dir_entry("f"); },
      [](LayerEntry& item) { item = link_entry("f", "x"); },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    LayerEntry item = base;
    changes[i](item);
    EXPECT_NE(build_layer({item})->encode(), before) << i;
  }
  EXPECT_NE(build_layer({dir_entry("d")})->encode(), build_layer({opaque_entry("d")})->encode());
}

TEST(LayerDecode, RefusesTruncationAtEveryByte) {
  Random random(4);
  std::vector<LayerEntry> entries;
  while (entries.size() < 8) entries = random_entries(random);
  const std::string blob = build_layer(entries)->encode();
  for (std::size_t size = 0; size < blob.size(); ++size) {
    EXPECT_FALSE(Layer::decode(std::string_view(blob).substr(0, size), "")) << size;
  }
  EXPECT_FALSE(Layer::decode(blob + '\0', "")) << "a byte too many";
}

TEST(LayerDecode, AnyBytesAreRefusedOrALayer) {
  // What is accepted must stand every use: encode, find, children.
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    std::string blob = build_layer(random_entries(random))->encode();
    for (std::size_t n = 1 + random.below(4); n > 0; --n) {
      blob[random.below(blob.size())] = static_cast<char>(random.number());
    }
    const auto layer = Layer::decode(blob, "");
    if (!layer) {
      EXPECT_EQ(layer.error().code, ErrorCode::kCorrupt);
      continue;
    }
    EXPECT_EQ((*layer)->encode(), blob) << "seed " << seed << ": two encodings of one layer";
  }
}

TEST(LayerDecode, RefusesOtherFormats) {
  std::string blob = build_layer({dir_entry("d")})->encode();
  blob[7] = '1';
  expect_refused(blob, "another version");
  expect_refused(std::string(), "nothing");
}

TEST(LayerDecode, RefusesBadPaths) {
  for (const char* path : {"..", "../x", "/etc", "/", "a/", ".", "./a", "a//b"}) {
    expect_refused({raw_file(path)}, path);
    expect_refused({raw_dir("a"), raw_file(std::string("a/") + path)}, path);
  }
  expect_refused({raw_dir("a"), raw_file("a/../b")}, "climbs");
  expect_refused({raw_file(std::string("a\0b", 3))}, "NUL");
  expect_refused({raw_file(std::string(256, 'x'))}, "long name");
}

TEST(LayerDecode, RefusesBadStructure) {
  expect_refused({raw_file("b"), raw_file("a")}, "unsorted");
  expect_refused({raw_file("a"), raw_file("a")}, "duplicate");
  expect_refused({raw_file("a-"), raw_dir("a")}, "sorted bytewise, not as paths");
  expect_refused({raw_file("d/f")}, "no parent");
  expect_refused({raw_dir("d"), raw_file("d/e/f")}, "no parent in between");
  expect_refused({raw_file("d"), raw_file("d/f")}, "child of a file");
  expect_refused({changed(raw_file("d"),
                          [](Raw& raw) {
                            raw.type = 7;
                            raw.mode = 0;
                          }),
                  raw_file("d/f")},
                 "child of a whiteout");
  expect_refused({changed(raw_file("d"),
                          [](Raw& raw) {
                            raw.type = 2;
                            raw.target = "x";
                          }),
                  raw_file("d/f")},
                 "child of a symlink");
  expect_refused({raw_file("")}, "the root is no directory");
  expect_refused({changed(raw_file(""),
                          [](Raw& raw) {
                            raw.type = 7;
                            raw.mode = 0;
                          })},
                 "the root is a whiteout");
}

TEST(LayerDecode, RefusesBadEntries) {
  const std::vector<std::pair<std::string, std::function<void(Raw&)>>> cases = {
      {"unknown type", [](Raw& raw) { raw.type = 8; }},
      {"opaque byte",
       [](Raw& raw) {
         raw.type = 1;
         raw.opaque = 2;
       }},
      {"opaque file", [](Raw& raw) { raw.opaque = 1; }},
      {"opaque whiteout",
       [](Raw& raw) {
         raw.type = 7;
         raw.mode = 0;
         raw.opaque = 1;
       }},
      {"type bits in the mode", [](Raw& raw) { raw.mode = 0100644; }},
      {"mode of 64 bits", [](Raw& raw) { raw.mode = (1ULL << 32) | 0644; }},
      {"uid of 64 bits", [](Raw& raw) { raw.uid = 1ULL << 32; }},
      {"gid of 64 bits", [](Raw& raw) { raw.gid = 1ULL << 32; }},
      {"negative size", [](Raw& raw) { raw.size = 1ULL << 63; }},
      {"size of a directory",
       [](Raw& raw) {
         raw.type = 1;
         raw.size = 1;
       }},
      {"symlink to nothing", [](Raw& raw) { raw.type = 2; }},
      {"symlink with NUL",
       [](Raw& raw) {
         raw.type = 2;
         raw.target = std::string("a\0b", 3);
       }},
      {"symlink too long",
       [](Raw& raw) {
         raw.type = 2;
         raw.target = std::string(4096, 'x');
       }},
      {"file with a target", [](Raw& raw) { raw.target = "x"; }},
      {"char device 0:0", [](Raw& raw) { raw.type = 5; }},
      {"block device 0:0", [](Raw& raw) { raw.type = 6; }},
      {"device number of a file", [](Raw& raw) { raw.rdev = 1; }},
      {"absurd number of xattrs", [](Raw& raw) { raw.xattr_count = ~0ULL; }},
      {"unsorted xattrs",
       [](Raw& raw) {
         raw.xattr_count = 2;
         raw.xattrs = {"user.b", "", "user.a", ""};
       }},
      {"TimeOf byte", [](Raw& raw) { raw.time_of = 3; }},
      {"path of a time that climbs",
       [](Raw& raw) {
         raw.time_of = 2;
         raw.time_path = "../x";
       }},
      {"short digest", [](Raw& raw) { raw.content.pop_back(); }},
  };
  for (const auto& [why, change] : cases) expect_refused({changed(raw_file("x"), change)}, why);
  EXPECT_TRUE(Layer::decode(encode_raw({raw_file("x")}), ""));
}

TEST(LayerDecode, RefusesTheSandboxsOwnPaths) {
  expect_refused({raw_dir("dev")}, "dev");
  expect_refused({raw_dir("proc")}, "proc");
  expect_refused({raw_dir("run"), raw_dir("run/x")}, "below run");
  expect_refused({raw_dir("etc"), raw_file("etc/resolv.conf")}, "etc/resolv.conf");
  EXPECT_TRUE(Layer::decode(encode_raw({raw_dir("etc"), raw_file("etc/resolv.conf.d")}), ""));
  EXPECT_TRUE(Layer::decode(encode_raw({raw_dir("devel"), raw_dir("runner")}), ""));
}

TEST(LayerDecode, RefusesAbsurdCounts) {
  for (const std::uint64_t count : {1ULL, 3ULL, 1ULL << 40, ~0ULL, ~0ULL / 8 + 1}) {
    expect_refused(encode_raw({raw_file("a"), raw_file("b")}, count), std::to_string(count));
  }
}

TEST(LayerDecode, RefusesBadLinkGroups) {
  const auto member = [](const std::string& path, std::uint64_t group) {
    return changed(raw_file(path), [&](Raw& raw) { raw.group = group; });
  };
  EXPECT_TRUE(Layer::decode(encode_raw({member("a", 1), member("b", 1)}), ""));
  expect_refused({member("a", 2), member("b", 2)}, "the first member is not itself");
  expect_refused({raw_file("a"), member("b", 1)}, "the head is not in the group");
  expect_refused({member("a", 1)}, "a group of one");
  expect_refused({member("a", 1), changed(member("b", 1), [](Raw& raw) { raw.mode = 0600; })},
                 "one inode with two modes");
  expect_refused({member("a", 9)}, "beyond the end");
  expect_refused({member("a", ~0ULL)}, "far beyond the end");
  expect_refused({member("a", 1),
                  changed(member("b", 1), [](Raw& raw) { raw.content = std::string(32, 'd'); })},
                 "other bytes under one inode");
  expect_refused({changed(raw_dir("a"), [](Raw& raw) { raw.group = 1; }),
                  changed(raw_dir("b"), [](Raw& raw) { raw.group = 1; })},
                 "hard-linked directories");
  expect_refused({changed(member("a", 1),
                          [](Raw& raw) {
                            raw.type = 7;
                            raw.mode = 0;
                          })},
                 "a linked whiteout");
}

TEST(LayerDecode, RefusesTimesThatDoNotFit) {
  const auto layer = build_layer({file_entry("a", ""), file_entry("b", "")});
  const std::string times = layer->encode_mtimes();
  EXPECT_TRUE(Layer::decode(layer->encode(), times));
  expect_refused(layer->encode(), "one short", std::string_view(times).substr(8));
  expect_refused(layer->encode(), "a byte short", std::string_view(times).substr(1));
  expect_refused(layer->encode(), "one too many", times + std::string(8, '\0'));
}

}  // namespace
}  // namespace hm::fs
