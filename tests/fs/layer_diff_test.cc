#include "fs/layer_diff.h"

#include <gtest/gtest.h>

#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

std::string differences(std::vector<LayerEntry> before, std::vector<LayerEntry> after) {
  std::string out;
  for (const auto& [path, how] :
       layer_differences(*build_layer(std::move(before)), *build_layer(std::move(after)))) {
    out += path + ": " + how + "\n";
  }
  return out;
}

TEST(LayerDifferences, EqualLayersHaveNone) {
  EXPECT_EQ(differences({dir_entry("a"), file_entry("a/f", "x")},
                        {dir_entry("a"), file_entry("a/f", "x")}),
            "");
  EXPECT_EQ(differences({}, {}), "");
}

TEST(LayerDifferences, NamesEachPathAndWhatDiffers) {
  EXPECT_EQ(differences({dir_entry("a"), file_entry("a/content", "x"), file_entry("a/gone", ""),
                         link_entry("a/link", "1"), file_entry("a/mode", "m")},
                        {dir_entry("a"), file_entry("a/content", "y"), link_entry("a/link", "2"),
                         file_entry("a/mode", "m", 0600), file_entry("a/new", "")}),
            "a/content: content\na/gone: gone\na/link: target\na/mode: mode\na/new: appeared\n");
}

TEST(LayerDifferences, KindsAndWhiteouts) {
  EXPECT_EQ(differences({file_entry("f", "x"), file_entry("w", "x")},
                        {dir_entry("f"), whiteout_entry("w")}),
            "f: kind\nw: removed\n");
  EXPECT_EQ(differences({dir_entry("d")}, {opaque_entry("d")}), "d: replaced directory\n");
}

TEST(LayerDifferences, TimeOfWritingIsNone) {
  LayerEntry early = file_entry("f", "x");
  LayerEntry late = early;
  late.mtime_ns = 5;
  EXPECT_EQ(differences({early}, {late}), "");
  late.time_of = TimeOf::kKept;
  EXPECT_EQ(differences({early}, {late}), "f: time\n");
}

}  // namespace
}  // namespace hm::fs
