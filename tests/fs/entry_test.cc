// Entries: golden texts (they are stored in traces and must never change), paths and their order.
#include "fs/entry.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>

#include "test_support.h"

namespace hm::fs {
namespace {

using test::Random;

Entry entry_of(EntryKind kind, std::uint32_t mode) {
  Entry entry;
  entry.kind = kind;
  entry.mode = mode;
  return entry;
}

TEST(ProbeText, Golden) {
  EXPECT_EQ(probe_text(std::nullopt), "absent");

  Entry file = entry_of(EntryKind::kFile, 0644);
  file.size = 12;
  EXPECT_EQ(probe_text(file), "file mode=0644 owner=0:0 size=12");
  file.mode = 04755;
  file.uid = 1000;
  file.gid = 100;
  file.nlink = 2;
  file.link_group = "usr/bin/a";
  EXPECT_EQ(probe_text(file),
            "file mode=4755 owner=1000:100 size=12 links=2:" + Digest::of("usr/bin/a").hex());

  EXPECT_EQ(probe_text(entry_of(EntryKind::kDirectory, 01777)), "dir mode=1777 owner=0:0");
  EXPECT_EQ(probe_text(entry_of(EntryKind::kFifo, 0)), "fifo mode=0000 owner=0:0");
  EXPECT_EQ(probe_text(entry_of(EntryKind::kSocket, 0600)), "socket mode=0600 owner=0:0");

  Entry link = entry_of(EntryKind::kSymlink, 0777);
  link.target = "../a b";
  EXPECT_EQ(probe_text(link), "symlink mode=0777 owner=0:0 target=../a b");

  Entry device = entry_of(EntryKind::kCharDevice, 0666);
  device.rdev = makedev(1, 3);
  EXPECT_EQ(probe_text(device), "char mode=0666 owner=0:0 rdev=1:3");
  device.kind = EntryKind::kBlockDevice;
  EXPECT_EQ(probe_text(device), "block mode=0666 owner=0:0 rdev=1:3");
}

TEST(ProbeText, XattrsStandAsADigest) {
  Entry file = entry_of(EntryKind::kFile, 0644);
  file.xattrs = {{"user.a", "1"}, {"user.b", ""}};
  Hasher hasher;
  for (const char* field : {"user.a", "1", "user.b", ""}) hasher.field(std::string_view(field));
  EXPECT_EQ(probe_text(file), "file mode=0644 owner=0:0 size=0 xattrs=" + hasher.finish().hex());
  Entry other = file;
  other.xattrs = {{"user.a", ""}, {"user.b", "1"}};
  EXPECT_NE(probe_text(file), probe_text(other));
}

TEST(ContentText, AddsTheDigest) {
  Entry file = entry_of(EntryKind::kFile, 0644);
  file.size = 3;
  EXPECT_EQ(content_text(file, Digest::of("abc")),
            "file mode=0644 owner=0:0 size=3 "
            "sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ListText, AddsTheNames) {
  const Entry dir = entry_of(EntryKind::kDirectory, 0755);
  EXPECT_EQ(list_text(dir, {}),
            "dir mode=0755 owner=0:0 names=0:"
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const Listing one = {{"a", EntryKind::kFile}};
  const Listing other_kind = {{"a", EntryKind::kDirectory}};
  const Listing two = {{"a", EntryKind::kFile}, {"b", EntryKind::kFile}};
  EXPECT_TRUE(list_text(dir, two).starts_with("dir mode=0755 owner=0:0 names=2:"));
  EXPECT_NE(list_text(dir, one), list_text(dir, other_kind));
  EXPECT_NE(list_text(dir, one), list_text(dir, two));
}

// Nasty on purpose: pieces of the text format itself.
const std::vector<std::string> kTargets = {
    "x",          "x sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "x target=x", "x links=2:a",
    " ",          "",
    "x xattrs=0", "absent",
    "x\n",        "\\x0a",
    "x\xff"};

Entry random_entry(Random& random) {
  Entry entry;
  entry.kind = static_cast<EntryKind>(random.below(7));
  entry.mode = random.pick<std::uint32_t>({0644, 0755, 04755, 0, 07777});
  entry.uid = random.pick<std::uint32_t>({0, 1, 10});
  entry.gid = random.pick<std::uint32_t>({0, 1, 10});
  if (entry.kind == EntryKind::kFile)
    entry.size = random.pick<std::uint64_t>({0, 1, 11, 1ULL << 40});
  if (entry.kind == EntryKind::kSymlink) entry.target = random.pick(kTargets);
  if (entry.kind == EntryKind::kCharDevice || entry.kind == EntryKind::kBlockDevice) {
    entry.rdev = random.pick<std::uint64_t>({makedev(1, 3), makedev(13, 1), makedev(1, 31)});
  }
  if (random.chance(30)) entry.xattrs = {{"user.a", random.pick(kTargets)}};
  if (random.chance(10)) entry.xattrs.emplace_back("user.b", random.pick(kTargets));
  // A link group is named by a path, which may hold anything.
  if (entry.kind != EntryKind::kDirectory && random.chance(30)) {
    entry.nlink = random.pick<std::uint32_t>({2, 12});
    entry.link_group =
        random.pick<std::string>({"a", "a/b", "a target=x", "a links=2:a", "a xattrs=0"});
  }
  return entry;
}

TEST(ProbeText, DifferentEntriesNeverLookEqual) {
  Random random(7);
  std::map<std::string, Entry> seen;
  for (int i = 0; i < 20'000; ++i) {
    const Entry entry = random_entry(random);
    const std::string text = probe_text(entry);
    EXPECT_NE(text, "absent");
    const auto [it, fresh] = seen.emplace(text, entry);
    ASSERT_TRUE(fresh || it->second == entry) << text;
  }
  EXPECT_GT(seen.size(), 1000U) << "the property was tried on too few entries";
}

TEST(ProbeText, EqualEntriesGiveEqualTexts) {
  Random first(3);
  Random second(3);
  for (int i = 0; i < 500; ++i)
    EXPECT_EQ(probe_text(random_entry(first)), probe_text(random_entry(second)));
}

TEST(Kinds, AgreeWithTheSystem) {
  for (int i = 0; i < 7; ++i) {
    const auto kind = static_cast<EntryKind>(i);
    EXPECT_EQ(kind_of_mode(type_bits(kind) | 0644U), kind);
    EXPECT_EQ(kind_of_dirent(static_cast<unsigned char>(type_bits(kind) >> 12)), kind);
  }
  EXPECT_FALSE(kind_of_mode(0));
  EXPECT_FALSE(kind_of_dirent(0)) << "DT_UNKNOWN";
}

TEST(Paths, IsValidPath) {
  for (const char* good : {"", "a", "a/b", "a b/\xff", "...", ".a", "a..", "a/..b", "-"}) {
    EXPECT_TRUE(is_valid_path(good)) << good;
  }
  for (const char* bad :
       {"/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "a/../b", "./a"}) {
    EXPECT_FALSE(is_valid_path(bad)) << bad;
  }
  EXPECT_FALSE(is_valid_path(std::string_view("a\0b", 3)));
  EXPECT_TRUE(is_valid_path(std::string(255, 'a')));
  EXPECT_FALSE(is_valid_path(std::string(256, 'a')));
  std::string longest;
  while (longest.size() + 2 <= kLongestPath) longest += "a/";
  longest += "b";
  ASSERT_EQ(longest.size(), kLongestPath);
  EXPECT_TRUE(is_valid_path(longest));
  EXPECT_FALSE(is_valid_path(longest + "c"));
}

TEST(Paths, Parts) {
  EXPECT_EQ(join_path("", "a"), "a");
  EXPECT_EQ(join_path("a/b", "c"), "a/b/c");
  EXPECT_EQ(parent_path("a"), "");
  EXPECT_EQ(parent_path("a/b/c"), "a/b");
  EXPECT_EQ(base_name("a"), "a");
  EXPECT_EQ(base_name("a/b/c"), "c");
}

TEST(Paths, IsWithin) {
  EXPECT_TRUE(is_within("a", "a"));
  EXPECT_TRUE(is_within("a/b", "a"));
  EXPECT_TRUE(is_within("a", ""));
  EXPECT_TRUE(is_within("", ""));
  EXPECT_FALSE(is_within("ab", "a"));
  EXPECT_FALSE(is_within("a", "a/b"));
  EXPECT_FALSE(is_within("", "a"));
}

TEST(PathLess, DirectoryThenItsChildrenThenSiblings) {
  const std::vector<std::string> sorted = {"",    "a",   "a/b", "a/b/c", "a/z", "a\x01", "a b",
                                           "a-b", "a.b", "a0",  "aa",    "b",   "\xff"};
  std::vector<std::string> shuffled = sorted;
  std::reverse(shuffled.begin(), shuffled.end());
  std::sort(shuffled.begin(), shuffled.end(), PathLess{});
  EXPECT_EQ(shuffled, sorted);
}

TEST(PathLess, IsAStrictOrderThatKeepsSubtreesTogether) {
  Random random(5);
  const std::vector<std::string> names = {"a", "b", "a-", "a.", "\x01", "\xff", "aa"};
  std::vector<std::string> paths;
  for (int i = 0; i < 60; ++i) {
    std::string path = random.pick(names);
    while (random.chance(60)) path += "/" + random.pick(names);
    paths.push_back(path);
  }
  std::sort(paths.begin(), paths.end(), PathLess{});
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  for (std::size_t i = 0; i < paths.size(); ++i) {
    EXPECT_FALSE(PathLess{}(paths[i], paths[i]));
    bool left = false;
    for (std::size_t j = i + 1; j < paths.size(); ++j) {
      EXPECT_TRUE(PathLess{}(paths[i], paths[j]));
      EXPECT_FALSE(PathLess{}(paths[j], paths[i]));
      EXPECT_FALSE(is_within(paths[i], paths[j])) << "a child stands before its directory";
      left = left || !is_within(paths[j], paths[i]);
      EXPECT_FALSE(left && is_within(paths[j], paths[i])) << "a subtree is torn apart";
    }
  }
}

TEST(Printable, KeepsTextAndEscapesTheRest) {
  EXPECT_EQ(printable("plain text"), "plain text");
  EXPECT_EQ(printable("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"),
            "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(printable("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b") << "a terminal's control";
  EXPECT_EQ(printable("a\\x0a"), "a\\\\x0a") << "an escape cannot be forged";
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

}  // namespace
}  // namespace hm::fs
