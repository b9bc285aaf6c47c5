// The table of served names: what goes in comes out, one id per name, whoever asks when.
#include "fs/node_table.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

View::Node directory_node(const std::string& path) {
  View::Node node;
  node.path = path;
  node.entry.kind = EntryKind::kDirectory;
  node.entry.mode = 0755;
  return node;
}

View::Node file_node(const std::string& path, std::uint64_t size) {
  View::Node node;
  node.path = path;
  node.entry.mode = 0644;
  node.entry.size = size;
  return node;
}

NodeTable::Id added(NodeTable& table, NodeTable::Id parent, const std::string& name,
                    std::optional<View::Node> node) {
  const auto [id, fresh] = must(table.insert(parent, name, std::move(node)));
  EXPECT_TRUE(fresh) << name;
  return id;
}

TEST(NodeTable, RootIsThere) {
  const NodeTable table(directory_node(""));
  EXPECT_EQ(table.last(), NodeTable::kRoot);
  EXPECT_EQ(table.node(NodeTable::kRoot), directory_node(""));
  EXPECT_EQ(table.path(NodeTable::kRoot), "");
  for (const NodeTable::Id id : {0U, 2U, UINT32_MAX}) {
    EXPECT_FALSE(table.node(id));
    EXPECT_EQ(table.directory(id), nullptr);
    EXPECT_EQ(table.path(id), "");
    EXPECT_FALSE(table.content(id));
    EXPECT_EQ(table.listing(id), nullptr);
  }
}

TEST(NodeTable, EveryFieldOfANodeComesBack) {
  View::Node plain = file_node("d/plain", 0);
  std::vector<View::Node> nodes = {plain};
  const auto with = [&](const std::string& name, auto change) {
    View::Node node = plain;
    node.path = "d/" + name;
    change(node);
    nodes.push_back(node);
  };
  with("size", [](View::Node& n) { n.entry.size = UINT64_MAX; });
  with("mode", [](View::Node& n) { n.entry.mode = 04751; });
  with("uid", [](View::Node& n) { n.entry.uid = 12; });
  with("gid", [](View::Node& n) { n.entry.gid = 34; });
  with("origin", [](View::Node& n) { n.origin = kOriginFirstLayer + 3; });
  with("mtime", [](View::Node& n) { n.mtime_ns = -5; });
  with("moment", [](View::Node& n) { n.moment_ns = 77; });
  with("both", [](View::Node& n) { n.mtime_ns = n.moment_ns = 99; });
  with("zero", [](View::Node& n) { n.mtime_ns = 99, n.moment_ns = 0; });
  with("of_run", [](View::Node& n) { n.of_run = true; });
  with("xattrs", [](View::Node& n) { n.entry.xattrs = {{"user.a", "1"}}; });
  with("others", [](View::Node& n) { n.entry.xattrs = {{"user.a", "2"}}; });
  with("group", [](View::Node& n) { n.entry.nlink = 2, n.entry.link_group = "d/group"; });
  with("fifo", [](View::Node& n) { n.entry.kind = EntryKind::kFifo; });
  with("device", [](View::Node& n) {
    n.entry.kind = EntryKind::kCharDevice;
    n.entry.rdev = 259;
  });
  for (const std::size_t length : {0U, 3U, 4095U, 70'000U}) {
    with("link" + std::to_string(length), [&](View::Node& n) {
      n.entry.kind = EntryKind::kSymlink;
      n.entry.target = std::string(length, 't');
    });
  }
  NodeTable table(directory_node(""));
  const NodeTable::Id dir = added(table, NodeTable::kRoot, "d", directory_node("d"));
  std::vector<NodeTable::Id> ids;
  ids.reserve(nodes.size());
  for (const View::Node& node : nodes) {
    ids.push_back(added(table, dir, std::string(base_name(node.path)), node));
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    EXPECT_EQ(table.node(ids[i]), nodes[i]) << nodes[i].path;
    EXPECT_EQ(table.path(ids[i]), nodes[i].path);
    EXPECT_EQ(table.find(dir, base_name(nodes[i].path)), ids[i]);
    EXPECT_EQ(table.directory(ids[i]), nullptr);
  }
  EXPECT_EQ(*table.directory(dir), directory_node("d"));
}

TEST(NodeTable, AbsentNamesAreRemembered) {
  NodeTable table(directory_node(""));
  EXPECT_FALSE(table.find(NodeTable::kRoot, "none"));
  const NodeTable::Id id = added(table, NodeTable::kRoot, "none", std::nullopt);
  EXPECT_EQ(table.find(NodeTable::kRoot, "none"), id);
  EXPECT_FALSE(table.node(id));
  EXPECT_EQ(table.path(id), "none");
}

TEST(NodeTable, FirstOfTwoWins) {
  NodeTable table(directory_node(""));
  const NodeTable::Id id = added(table, NodeTable::kRoot, "f", file_node("f", 1));
  EXPECT_EQ(must(table.insert(NodeTable::kRoot, "f", file_node("f", 2))), std::pair(id, false));
  EXPECT_EQ(table.node(id)->entry.size, 1U);
  EXPECT_TRUE(table.set_content(id, Digest::of("a")));
  EXPECT_FALSE(table.set_content(id, Digest::of("b")));
  EXPECT_EQ(table.content(id), Digest::of("a"));
  const auto names = std::make_shared<const PackedListing>(Listing{{"f", EntryKind::kFile}});
  EXPECT_FALSE(table.set_listing(id, names)) << "no directory";
  EXPECT_TRUE(table.set_listing(NodeTable::kRoot, names));
  EXPECT_FALSE(table.set_listing(NodeTable::kRoot, nullptr));
  EXPECT_EQ(table.listing(NodeTable::kRoot), names);
}

TEST(NodeTable, ManyNamesOfManyDirectories) {
  NodeTable table(directory_node(""));
  std::map<std::pair<NodeTable::Id, std::string>, NodeTable::Id> ids;
  for (int d = 0; d < 30; ++d) {
    const std::string dir = "d" + std::to_string(d);
    const NodeTable::Id parent = added(table, NodeTable::kRoot, dir, directory_node(dir));
    for (int f = 0; f < 1000; ++f) {
      const std::string name = f == 0 ? std::string(255, 'x') : std::to_string(f);
      const auto size = static_cast<std::uint64_t>(d * 1000 + f);
      ids[{parent, name}] = added(table, parent, name, file_node(dir + "/" + name, size));
    }
  }
  EXPECT_EQ(table.last(), 1 + 30 + 30 * 1000U);
  for (const auto& [key, id] : ids) {
    EXPECT_EQ(table.find(key.first, key.second), id);
    EXPECT_EQ(base_name(table.path(id)), key.second);
  }
  EXPECT_FALSE(table.find(NodeTable::kRoot, "1"));
}

TEST(NodeTable, ThreadsSeeOneNodePerName) {
  NodeTable table(directory_node(""));
  const NodeTable::Id dir = added(table, NodeTable::kRoot, "d", directory_node("d"));
  constexpr std::size_t kNames = 3000;
  std::vector<std::vector<NodeTable::Id>> ids(4, std::vector<NodeTable::Id>(kNames));
  std::atomic<std::size_t> fresh{0};
  std::atomic<std::size_t> read{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < kNames; ++i) {
        const std::size_t n = (i + t * 700) % kNames;
        const std::string name = std::to_string(n);
        const auto inserted = must(table.insert(dir, name, file_node("d/" + name, n)));
        ids[t][n] = inserted.first;
        if (inserted.second) ++fresh;
        if (table.set_content(inserted.first, Digest::of(name))) ++read;
        const auto node = table.node(inserted.first);
        EXPECT_TRUE(node && node->path == "d/" + name && node->entry.size == n);
        EXPECT_EQ(table.content(inserted.first), Digest::of(name));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fresh, kNames);
  EXPECT_EQ(read, kNames);
  for (const auto& other : ids) EXPECT_EQ(other, ids[0]);
}

TEST(PackedListing, ComesBack) {
  Listing names;
  EXPECT_FALSE(PackedListing(names).at(0));
  EXPECT_EQ(PackedListing(names).position_of(0), 0U);
  for (int i = 0; i < 500; ++i) {
    names.push_back({std::string(static_cast<std::size_t>(1 + i % 255), 'n') + std::to_string(i),
                     i % 2 == 0 ? EntryKind::kFile : EntryKind::kSocket});
    names.back().name.resize(std::min<std::size_t>(names.back().name.size(), 255));
  }
  const PackedListing packed(names);
  EXPECT_EQ(packed.unpack(), names);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto item = packed.at(packed.position_of(i));
    ASSERT_TRUE(item);
    EXPECT_EQ(item->name, names[i].name);
    EXPECT_EQ(item->kind, names[i].kind);
  }
  EXPECT_FALSE(packed.at(packed.position_of(500)));
  EXPECT_FALSE(packed.at(packed.position_of(SIZE_MAX - 1)));
}

}  // namespace
}  // namespace hm::fs
