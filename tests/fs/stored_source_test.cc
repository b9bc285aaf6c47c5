// An image of the store below the layers of a view.
#include "fs/stored_source.h"

#include <gtest/gtest.h>

#include "fs/view.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

LayerEntry owned(LayerEntry item, std::uint32_t id) {
  item.entry.uid = item.entry.gid = id;
  item.mtime_ns = 5;
  return item;
}

std::shared_ptr<const Layer> tree() {
  return build_layer({dir_entry(""), dir_entry("d"), owned(file_entry("d/a", "text"), 33),
                      grouped(file_entry("g1", "x"), "g"), grouped(file_entry("g2", "x"), "g")});
}

TEST(StoredSource, ShowsWhatIsInTheTree) {
  StoredSource source(tree(), Owners::kReal);
  const auto file = must(source.lookup("d/a"));
  ASSERT_TRUE(file);
  EXPECT_EQ(file->entry.uid, 33U);
  EXPECT_EQ(file->mtime_ns, 5);
  EXPECT_EQ(must(source.digest("d/a")), Digest::of("text"));
  EXPECT_FALSE(must(source.lookup("d/b")));
  EXPECT_FALSE(must(source.lookup("d/a/b")));
  const Listing names = must(source.list(""));
  ASSERT_EQ(names.size(), 3U);
  EXPECT_EQ(names[0].name, "d");
  EXPECT_TRUE(must(source.list("d/a")).empty());
  EXPECT_FALSE(source.digest("d"));
}

TEST(StoredSource, SquashedOwnersAreRoot) {
  StoredSource source(tree(), Owners::kSquashed);
  const auto file = must(source.lookup("d/a"));
  ASSERT_TRUE(file);
  EXPECT_EQ(file->entry.uid, 0U);
  EXPECT_EQ(file->entry.gid, 0U);
}

TEST(StoredSource, HardLinksOfTheImageAndOfALayerAreToldApart) {
  const ViewBase base{std::make_shared<StoredSource>(tree(), Owners::kReal), nullptr};
  // A step gave the first name to another file, and that file a second name.
  const View view(
      base, {view_layer({grouped(file_entry("g1", "y"), "g"), grouped(file_entry("h", "y"), "g")})},
      now_ns());
  const auto of_layer = must(view.resolve("g1"));
  const auto of_image = must(view.resolve("g2"));
  ASSERT_TRUE(of_layer && of_image);
  EXPECT_EQ(of_layer->entry.link_group, of_image->entry.link_group);
  EXPECT_NE(view.link_rank(*of_layer), view.link_rank(*of_image));
}

TEST(StoredSource, WhatHidesSomethingIsNoTree) {
  EXPECT_TRUE(is_whole_tree(*tree()));
  EXPECT_FALSE(is_whole_tree(*build_layer({dir_entry("d")})));
  EXPECT_FALSE(is_whole_tree(*build_layer({dir_entry(""), whiteout_entry("a")})));
  EXPECT_FALSE(is_whole_tree(*build_layer({dir_entry(""), opaque_entry("a")})));
}

}  // namespace
}  // namespace hm::fs
