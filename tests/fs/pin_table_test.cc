// The table of pins: paths, what they keep, and how little it is.
#include "fs/pin_table.h"

#include <gtest/gtest.h>

#include "test_support.h"

namespace hm::fs {
namespace {

TEST(PinTable, PathsAreFoundByTheirParents) {
  PinTable table;
  EXPECT_EQ(table.find(""), PinTable::kRoot);
  EXPECT_FALSE(table.find("a/b"));
  const auto deep = table.at("a/b/c");
  EXPECT_EQ(table.at("a/b/c"), deep);
  EXPECT_EQ(table.find("a/b/c"), deep);
  EXPECT_TRUE(table.find("a/b")) << "parents are made";
  for (const char* other : {"a/b/", "a/bc", "ab/c", "b/c", "c", "a/c", "x/a/b/c", "a/b/cc"}) {
    EXPECT_FALSE(table.find(other)) << other;
  }
}

TEST(PinTable, ManyPathsStayApart) {
  PinTable table;
  std::vector<PinTable::Id> ids;
  const auto path = [](int i) { return "d" + std::to_string(i % 7) + "/n" + std::to_string(i); };
  for (int i = 0; i < 5000; ++i) ids.push_back(table.at(path(i)));
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(table.find(path(i)), ids[static_cast<std::size_t>(i)]);
  std::size_t children = 0;
  for (auto at = table[*table.find("d3")].first_child; at != 0; at = table[at].next_sibling) {
    children += 1;
  }
  EXPECT_EQ(children, 714U);
}

TEST(PinTable, KeepsTheWholeStat) {
  LiveStat stat;
  stat.kind = EntryKind::kCharDevice;
  stat.mode = 07755;
  stat.uid = 70000;
  stat.gid = 80000;
  stat.stamp = {9, 10, 11, 12, 13};
  stat.device = 14;
  stat.rdev = 15;
  stat.target = "to";
  stat.xattrs = {{"user.a", "b"}};
  stat.foreign = true;
  PinTable table;
  Pin& pin = table[table.at("f")];
  table.set_stat(pin, stat);
  const auto kept = table.stat_of(pin);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->kind, stat.kind);
  EXPECT_EQ(kept->mode, stat.mode);
  EXPECT_EQ(kept->uid, stat.uid);
  EXPECT_EQ(kept->gid, stat.gid);
  EXPECT_EQ(kept->stamp, stat.stamp);
  EXPECT_EQ(kept->device, stat.device);
  EXPECT_EQ(kept->rdev, stat.rdev);
  EXPECT_EQ(kept->target, stat.target);
  EXPECT_EQ(kept->xattrs, stat.xattrs);
  EXPECT_EQ(kept->foreign, stat.foreign);
}

TEST(PinTable, AbsenceIsKeptToo) {
  PinTable table;
  Pin& pin = table[table.at("none")];
  EXPECT_FALSE(pin.resolved);
  table.set_stat(pin, std::nullopt);
  EXPECT_TRUE(pin.resolved);
  EXPECT_FALSE(table.stat_of(pin));
}

TEST(PinTable, ContentMayBeSetAgain) {
  PinTable table;
  Pin& pin = table[table.at("f")];
  EXPECT_EQ(pin.content, nullptr);
  table.set_content(pin, Digest::of("a"));
  table.set_content(table[table.at("g")], Digest::of("g"));
  table.set_content(pin, Digest::of("b"));
  EXPECT_EQ(*pin.content, Digest::of("b"));
}

TEST(PinTable, APinIsSmall) { EXPECT_LE(sizeof(Pin), 88U); }

}  // namespace
}  // namespace hm::fs
