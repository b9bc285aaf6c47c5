// Composition of image, workspace and layers: tables, and a simple model as the oracle for random
// stacks.
#include "fs/view.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "fs/skeleton.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

constexpr std::int64_t kSecond = 1'000'000'000;

// What stands at a path, in one word: "-" absent, "f:TEXTDIGEST4" and so on.
std::string look(const View& view, const std::string& path) {
  const auto node = must(view.resolve(path));
  if (!node) return "-";
  switch (node->entry.kind) {
    case EntryKind::kFile:
      return "file " + must(view.digest(*node)).hex().substr(0, 8);
    case EntryKind::kDirectory:
      return "dir";
    case EntryKind::kSymlink:
      return "link " + node->entry.target;
    case EntryKind::kFifo:
    case EntryKind::kSocket:
    case EntryKind::kCharDevice:
    case EntryKind::kBlockDevice:
      return "special";
  }
  return "?";
}
std::string file_of(std::string_view text) { return "file " + Digest::of(text).hex().substr(0, 8); }

std::vector<std::string> names(const View& view, const std::string& path) {
  const auto node = must(view.resolve(path));
  std::vector<std::string> out;
  if (!node) return out;
  for (const DirEntry& item : must(view.list(*node))) out.push_back(item.name);
  return out;
}
using Names = std::vector<std::string>;

// Every listed name is found with the listed kind, and names that are not listed are absent.
void expect_listings_are_lookups(const View& view, const View::Node& dir,
                                 const std::set<std::string>& probes) {
  std::set<std::string> listed;
  for (const DirEntry& item : must(view.list(dir))) {
    EXPECT_TRUE(listed.insert(item.name).second) << dir.path << ": twice: " << item.name;
    const auto child = must(view.child(dir, item.name));
    ASSERT_TRUE(child) << dir.path << ": listed but absent: " << item.name;
    EXPECT_EQ(child->entry.kind, item.kind) << child->path;
    if (child->entry.kind == EntryKind::kDirectory) {
      expect_listings_are_lookups(view, *child, probes);
    }
  }
  for (const std::string& name : probes) {
    if (listed.contains(name)) continue;
    EXPECT_FALSE(must(view.child(dir, name))) << dir.path << ": there but not listed: " << name;
  }
}

class ViewTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(trees_.image("usr/bin/tool"), "tool");
    write_file(trees_.image("usr/lib/one"), "1");
    write_file(trees_.image("usr/lib/two"), "2");
    write_file(trees_.image("file"), "image file");
    write_file(trees_.workspace("src/main.c"), "main");
    write_file(trees_.workspace("README"), "readme");
  }
  Trees trees_;
};

TEST_F(ViewTest, SourcesAlone) {
  const View view = trees_.view();
  EXPECT_EQ(look(view, ""), "dir");
  EXPECT_EQ(look(view, "usr/bin/tool"), file_of("tool"));
  EXPECT_EQ(look(view, "workspace/src/main.c"), file_of("main"));
  EXPECT_EQ(look(view, "usr/none"), "-");
  EXPECT_EQ(look(view, "file/below"), "-");
  EXPECT_EQ(names(view, "workspace"), (Names{"README", "src"}));
  EXPECT_EQ(names(view, "usr"), (Names{"bin", "lib"}));
}

TEST_F(ViewTest, WithoutSourcesThereIsTheSkeleton) {
  const View view({}, {}, now_ns());
  EXPECT_EQ(names(view, ""),
            (Names{"dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var", "workspace"}));
  EXPECT_EQ(names(view, "etc"), (Names{"hostname", "hosts", "resolv.conf"}));
  EXPECT_EQ(names(view, "var"), (Names{"cache", "tmp"}));
  EXPECT_EQ(names(view, "workspace"), Names{});
  EXPECT_EQ(must(view.resolve("tmp"))->entry.mode, 01777U);
  EXPECT_EQ(must(view.resolve("root"))->entry.mode, 0700U);
}

TEST_F(ViewTest, WhiteoutHidesWhatIsBelow) {
  const View view = trees_.view({view_layer(
      {dir_entry("usr"), dir_entry("usr/lib"), whiteout_entry("usr/lib/one"),
       whiteout_entry("file"), dir_entry("workspace"), whiteout_entry("workspace/src")})});
  EXPECT_EQ(look(view, "usr/lib/one"), "-");
  EXPECT_EQ(look(view, "usr/lib/two"), file_of("2"));
  EXPECT_EQ(look(view, "file"), "-");
  EXPECT_EQ(look(view, "workspace/src"), "-");
  EXPECT_EQ(look(view, "workspace/src/main.c"), "-");
  EXPECT_EQ(names(view, "usr/lib"), Names{"two"});
  EXPECT_EQ(names(view, "workspace"), Names{"README"});
}

TEST_F(ViewTest, WhatAWhiteoutHidMayComeBackEmpty) {
  const View view = trees_.view({view_layer({whiteout_entry("usr")}),
                                 view_layer({dir_entry("usr"), file_entry("usr/new", "n")})});
  EXPECT_EQ(names(view, "usr"), Names{"new"});
  EXPECT_EQ(look(view, "usr/bin/tool"), "-");
}

TEST_F(ViewTest, OpaqueHidesTheChildrenOnly) {
  const View view = trees_.view({view_layer({opaque_entry("usr"), file_entry("usr/new", "n")})});
  EXPECT_EQ(names(view, "usr"), Names{"new"});
  EXPECT_EQ(look(view, "usr/bin"), "-");
  EXPECT_EQ(look(view, "file"), file_of("image file"));
  // A merging directory above the opaque one still sees nothing of what is below.
  const View above = trees_.view(
      {view_layer({opaque_entry("usr")}), view_layer({dir_entry("usr"), file_entry("usr/x", "")})});
  EXPECT_EQ(names(above, "usr"), Names{"x"});
}

TEST_F(ViewTest, OpaqueWorkspaceHidesTheCheckout) {
  const View view =
      trees_.view({view_layer({opaque_entry("workspace"), file_entry("workspace/built", "b")})});
  EXPECT_EQ(names(view, "workspace"), Names{"built"});
}

TEST_F(ViewTest, FileOverDirectoryAndBack) {
  const auto over = view_layer({file_entry("usr", "now a file")});
  EXPECT_EQ(look(trees_.view({over}), "usr"), file_of("now a file"));
  EXPECT_EQ(look(trees_.view({over}), "usr/bin"), "-");
  // A directory over that file does not let the old directory shine through.
  const View back = trees_.view({over, view_layer({dir_entry("usr"), file_entry("usr/a", "")})});
  EXPECT_EQ(names(back, "usr"), Names{"a"});
  const View dir_over_file =
      trees_.view({view_layer({dir_entry("file"), file_entry("file/a", "a")})});
  EXPECT_EQ(look(dir_over_file, "file"), "dir");
  EXPECT_EQ(names(dir_over_file, "file"), Names{"a"});
}

TEST_F(ViewTest, DirectoriesMergeOverAllLayers) {
  const View view = trees_.view(
      {view_layer({dir_entry("usr"), dir_entry("usr/lib"), file_entry("usr/lib/three", "3"),
                   file_entry("usr/lib/one", "first")}),
       view_layer({dir_entry("usr", 0711), dir_entry("usr/lib"), file_entry("usr/lib/four", "4"),
                   file_entry("usr/lib/one", "second")})});
  EXPECT_EQ(names(view, "usr/lib"), (Names{"four", "one", "three", "two"}));
  EXPECT_EQ(look(view, "usr/lib/one"), file_of("second"));
  EXPECT_EQ(look(view, "usr/lib/three"), file_of("3"));
  EXPECT_EQ(must(view.resolve("usr"))->entry.mode, 0711U) << "the newest layer's attributes";
}

TEST_F(ViewTest, SymlinksAreNotFollowed) {
  const View view = trees_.view({view_layer({link_entry("l", "usr")})});
  EXPECT_EQ(look(view, "l"), "link usr");
  EXPECT_EQ(look(view, "l/bin"), "-");
}

TEST_F(ViewTest, HardLinksOfALayerStayTogether) {
  const View view = trees_.view(
      {view_layer({grouped(file_entry("a", "x"), "1"), grouped(file_entry("b", "x"), "1")})});
  EXPECT_EQ(must(view.resolve("a"))->entry.nlink, 2U);
  EXPECT_EQ(must(view.resolve("b"))->entry.link_group, "a");
  EXPECT_EQ(must(view.resolve("file"))->entry.nlink, 1U);
}

TEST_F(ViewTest, OriginsGrowWithTheLayers) {
  const View view =
      trees_.view({view_layer({file_entry("l0", "")}), view_layer({file_entry("l1", "")})});
  EXPECT_EQ(must(view.resolve("workspace/README"))->origin, kOriginWorkspace);
  EXPECT_EQ(must(view.resolve("file"))->origin, kOriginImage);
  EXPECT_EQ(must(view.resolve("l0"))->origin, kOriginFirstLayer);
  EXPECT_EQ(must(view.resolve("l1"))->origin, kOriginFirstLayer + 1);
}

TEST_F(ViewTest, LayersAreNotFiltered) {
  write_file(trees_.workspace(".gitignore"), "ignored\n");
  write_file(trees_.workspace("ignored"), "host's");
  EXPECT_EQ(look(trees_.view(), "workspace/ignored"), "-");
  const View view = trees_.view(
      {view_layer({dir_entry("workspace"), file_entry("workspace/ignored", "layer's")})});
  EXPECT_EQ(look(view, "workspace/ignored"), file_of("layer's"));
}

TEST_F(ViewTest, MountedPathsAreAlwaysThereAndAlwaysTheSame) {
  write_file(trees_.image("etc/resolv.conf"), "the image's own, longer");
  write_file(trees_.image("dev/null"), "a file");
  write_file(trees_.image("proc"), "no directory");
  const View views[] = {
      trees_.view(),
      trees_.view({view_layer({opaque_entry("etc"), file_entry("etc/passwd", "p")})})};
  for (const View& view : views) {
    for (const SkeletonEntry& item : kSkeleton) {
      if (item.use != SkeletonUse::kMounted) continue;
      const auto node = must(view.resolve(item.path));
      ASSERT_TRUE(node) << item.path;
      EXPECT_EQ(node->entry.kind, item.kind) << item.path;
      EXPECT_EQ(node->entry.mode, item.mode) << item.path;
      EXPECT_EQ(node->entry.size, 0U) << item.path;
      if (item.kind == EntryKind::kFile) {
        EXPECT_EQ(must(view.digest(*node)), Digest::of(""));
      }
      if (item.kind == EntryKind::kDirectory) {
        EXPECT_EQ(must(view.list(*node)).size(), 0U);
      }
      const Names siblings = names(view, std::string(parent_path(item.path)));
      EXPECT_EQ(std::count(siblings.begin(), siblings.end(), base_name(item.path)), 1) << item.path;
    }
  }
  EXPECT_EQ(names(views[1], "etc"), (Names{"hostname", "hosts", "passwd", "resolv.conf"}));
  EXPECT_EQ(look(views[0], "dev/null"), "-");
}

TEST_F(ViewTest, DefaultsGiveWayToTheImageAndToLayers) {
  std::filesystem::create_directories(trees_.image("home"));
  must_be_zero(::chmod(trees_.image("home").c_str(), 0700), "chmod");
  const View view =
      trees_.view({view_layer({whiteout_entry("tmp"), file_entry("root", "a file")})});
  EXPECT_EQ(must(view.resolve("home"))->entry.mode, 0700U);
  EXPECT_EQ(look(view, "tmp"), "-");
  EXPECT_EQ(look(view, "root"), file_of("a file"));
}

TEST_F(ViewTest, TheImagesOwnWorkspaceIsNeverSeen) {
  write_file(trees_.image("workspace/stale"), "old");
  EXPECT_EQ(names(trees_.view(), "workspace"), (Names{"README", "src"}));
  EXPECT_EQ(look(trees_.view(), "workspace/stale"), "-");
  const View alone(ViewBase{trees_.image_source(), nullptr}, {}, now_ns());
  EXPECT_EQ(names(alone, "workspace"), Names{});
  EXPECT_EQ(look(alone, "workspace/stale"), "-");
}

TEST_F(ViewTest, WorkspaceLooksAlikeInEveryCheckout) {
  write_file(trees_.workspace("run.sh"), "x", 0700);
  set_mtime(trees_.workspace("run.sh"), 1'000'000);
  must_be_zero(::chmod(trees_.workspace("README").c_str(), 0600), "chmod");
  const View view = trees_.view();
  const auto script = must(view.resolve("workspace/run.sh"));
  EXPECT_EQ(script->entry.mode, 0755U);
  EXPECT_EQ(script->entry.uid, 0U);
  EXPECT_EQ(script->mtime_ns, kFixedTimeNs);
  EXPECT_EQ(must(view.resolve("workspace/README"))->entry.mode, 0644U);
  EXPECT_EQ(must(view.resolve("workspace/src"))->entry.mode, 0755U);
}

// --- times

LayerEntry at_time(LayerEntry item, std::int64_t seconds) {
  item.mtime_ns = seconds * kSecond;
  return item;
}
// A time that the step itself set.
LayerEntry kept(LayerEntry item) {
  item.time_of = TimeOf::kKept;
  return item;
}
std::int64_t shown(const View& view, const std::string& path) {
  return must(view.resolve(path))->mtime_ns / kSecond;
}

TEST_F(ViewTest, TimesOfLayersAreShownAsTheyAre) {
  const View view = trees_.view(
      {view_layer({at_time(file_entry("a", ""), 110)}, 100 * kSecond, 120 * kSecond),
       view_layer({at_time(file_entry("b", ""), 140), kept(at_time(file_entry("old", ""), 50))},
                  130 * kSecond, 150 * kSecond)},
      1000 * kSecond);
  EXPECT_EQ(shown(view, "a"), 110);
  EXPECT_EQ(shown(view, "b"), 140);
  EXPECT_EQ(shown(view, "old"), 50);
}

TEST_F(ViewTest, LayerOlderThanTheOneBelowIsShownLater) {
  // The parent was captured again at 500, the cached child dates from 130.
  const View view =
      trees_.view({view_layer({at_time(file_entry("a", ""), 490)}, 480 * kSecond, 500 * kSecond),
                   view_layer({at_time(file_entry("b", ""), 140), at_time(file_entry("c", ""), 145),
                               kept(at_time(file_entry("old", ""), 50))},
                              130 * kSecond, 150 * kSecond),
                   view_layer({at_time(file_entry("d", ""), 165)}, 160 * kSecond, 170 * kSecond)},
                  1000 * kSecond);
  EXPECT_EQ(shown(view, "a"), 490);
  EXPECT_EQ(shown(view, "b"), 140 + 370);
  EXPECT_EQ(shown(view, "c"), 145 + 370) << "one constant";
  EXPECT_EQ(shown(view, "old"), 50) << "a time that the step set stays";
  EXPECT_GE(shown(view, "d"), 520) << "the next layer moves along: captured is 150 + 370";
}

// The time that `path` has in the view below.
LayerEntry taken(LayerEntry item, const std::string& path) {
  item.time_of = TimeOf::kTaken;
  item.time_path = path;
  return item;
}
std::int64_t shown_ns(const View& view, const std::string& path) {
  return must(view.resolve(path))->mtime_ns;
}

TEST_F(ViewTest, TimesThatWouldBePastNowArePressedTogether) {
  const View view =
      trees_.view({view_layer({at_time(file_entry("a", ""), 490)}, 480 * kSecond, 500 * kSecond),
                   view_layer({at_time(file_entry("b", ""), 140), at_time(file_entry("c", ""), 145),
                               at_time(file_entry("b2", ""), 140),
                               kept(at_time(file_entry("future", ""), 9000))},
                              130 * kSecond, 150 * kSecond),
                   view_layer({at_time(file_entry("d", ""), 90)}, 80 * kSecond, 170 * kSecond)},
                  505 * kSecond);
  EXPECT_GT(shown_ns(view, "b"), 500 * kSecond);
  EXPECT_EQ(shown_ns(view, "b"), shown_ns(view, "b2"));
  EXPECT_GT(shown_ns(view, "c"), shown_ns(view, "b"));
  EXPECT_GT(shown_ns(view, "d"), shown_ns(view, "c"));
  EXPECT_LE(shown_ns(view, "d"), 505 * kSecond);
  EXPECT_EQ(shown(view, "future"), 9000) << "what the step itself set stays";
}

TEST_F(ViewTest, TimesStayApartWhereNoRoomIsLeft) {
  std::vector<LayerEntry> entries;
  for (int i = 0; i < 100; ++i) {
    LayerEntry item = file_entry("f" + std::to_string(i), "");
    item.mtime_ns = 140 * kSecond + i;
    entries.push_back(item);
  }
  const View view = trees_.view({view_layer({}, 0, 500 * kSecond),
                                 view_layer(std::move(entries), 130 * kSecond, 150 * kSecond)},
                                500 * kSecond);
  for (int i = 1; i < 100; ++i) {
    EXPECT_GT(shown_ns(view, "f" + std::to_string(i)), shown_ns(view, "f" + std::to_string(i - 1)));
  }
}

TEST_F(ViewTest, TakenTimesFollowTheirSource) {
  const auto child = [&] {
    return view_layer(
        {taken(file_entry("a", "chmod"), "a"), taken(file_entry("copy", ""), "a"),
         taken(file_entry("of-image", ""), "file"), taken(file_entry("of-nothing", ""), "nowhere"),
         at_time(file_entry("own", ""), 140)},
        130 * kSecond, 150 * kSecond);
  };
  const auto grandchild = [&] {
    return view_layer({taken(file_entry("a", "again"), "a")}, 160 * kSecond, 170 * kSecond);
  };
  for (const std::int64_t parent : {110, 700}) {
    const View view = trees_.view({view_layer({at_time(file_entry("a", ""), parent)},
                                              (parent - 1) * kSecond, (parent + 1) * kSecond),
                                   child(), grandchild()},
                                  1000 * kSecond);
    EXPECT_EQ(shown(view, "a"), parent) << "through two layers";
    EXPECT_EQ(shown_ns(view, "copy"), shown_ns(view, "a"));
    EXPECT_GT(shown_ns(view, "own"), shown_ns(view, "a"));
    EXPECT_EQ(shown_ns(view, "of-image"), shown_ns(view, "file"));
    EXPECT_EQ(must(view.resolve("copy"))->moment_ns, must(view.resolve("a"))->moment_ns);
    EXPECT_LT(must(view.resolve("copy"))->moment_ns, must(view.resolve("own"))->moment_ns);
    EXPECT_EQ(must(view.resolve("of-image"))->moment_ns, kImageMomentNs);
    EXPECT_TRUE(must(view.resolve("of-nothing"))) << "shown at some time";
  }
}

TEST_F(ViewTest, LayersKeepTheirTimesForAWholeRun) {
  std::vector<ViewLayer> layers = {
      view_layer({at_time(file_entry("a", ""), 490)}, 480 * kSecond, 500 * kSecond),
      view_layer({at_time(file_entry("b", ""), 140)}, 130 * kSecond, 150 * kSecond)};
  layers[0].times = View({}, {layers[0]}, 501 * kSecond).layers()[0].times;
  place_times(layers[1], std::span(layers).first(1), 501 * kSecond);
  const View now = trees_.view(layers, 501 * kSecond);
  const View later = trees_.view(layers, 900 * kSecond);
  EXPECT_EQ(shown_ns(now, "b"), shown_ns(later, "b"));
}

TEST_F(ViewTest, DirectoriesShowOneTime) {
  const View view = trees_.view({view_layer({at_time(dir_entry("d"), 777)})});
  EXPECT_EQ(must(view.resolve("d"))->mtime_ns, kFixedTimeNs);
  EXPECT_EQ(must(view.resolve("usr"))->mtime_ns, kFixedTimeNs);
}

TEST_F(ViewTest, MovedAsksTheRightSource) {
  const View view = trees_.view();
  EXPECT_EQ(look(view, "file"), file_of("image file"));
  EXPECT_EQ(look(view, "workspace/README"), file_of("readme"));
  EXPECT_FALSE(is_moved(view, "file"));
  write_file(trees_.workspace("README"), "changed");
  EXPECT_TRUE(is_moved(view, "workspace/README"));
  EXPECT_FALSE(is_moved(view, "file"));
  write_file(trees_.image("file"), "changed");
  EXPECT_TRUE(is_moved(view, "file"));
}

// --- a model as the oracle

// A whole tree, path → "dir", "file DIGEST" or "link TARGET", composed the slow way.
using Model = std::map<std::string, std::string>;

void erase_below(Model& model, const std::string& path, bool itself) {
  std::erase_if(model, [&](const auto& item) {
    return is_within(item.first, path) && (itself || item.first != path);
  });
}

void apply(Model& model, const Layer& layer) {
  for (const LayerEntry& item : layer.entries()) {
    const auto old = model.find(item.path);
    const bool was_dir = old != model.end() && old->second == "dir";
    if (item.whiteout) {
      erase_below(model, item.path, true);
    } else if (item.entry.kind == EntryKind::kDirectory) {
      if (item.opaque) erase_below(model, item.path, false);
      if (!was_dir) erase_below(model, item.path, true);
      model[item.path] = "dir";
    } else {
      erase_below(model, item.path, true);
      model[item.path] = item.entry.kind == EntryKind::kSymlink
                             ? "link " + item.entry.target
                             : "file " + item.content.hex().substr(0, 8);
    }
  }
}

const std::vector<std::string> kNames = {"a", "b", "c", "tmp"};

std::vector<LayerEntry> random_layer(Random& random) {
  std::map<std::string, LayerEntry, PathLess> out;
  // The first levels: in the image, in the workspace, and where the skeleton has defaults.
  const auto add_parents = [&](const std::string& path) {
    for (std::size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1)) {
      const std::string parent = path.substr(0, at);
      const auto it = out.find(parent);
      if (it == out.end()) {
        out.emplace(parent, dir_entry(parent, 0755, random.chance(10)));
      } else if (it->second.whiteout || it->second.entry.kind != EntryKind::kDirectory) {
        return false;
      }
    }
    return true;
  };
  for (std::size_t n = random.below(12); n > 0; --n) {
    std::string path = random.chance(40) ? "workspace" : random.pick(kNames);
    while (random.chance(65)) path = join_path(path, random.pick(kNames));
    if (path == "workspace" || out.contains(path) || !add_parents(path)) continue;
    switch (random.below(5)) {
      case 0:
        out.emplace(path, whiteout_entry(path));
        break;
      case 1:
        out.emplace(path, dir_entry(path, 0755, random.chance(50)));
        break;
      case 2:
        out.emplace(path, link_entry(path, random.pick(kNames)));
        break;
      default:
        out.emplace(path, file_entry(path, std::to_string(random.below(9))));
        break;
    }
  }
  std::vector<LayerEntry> entries;
  for (auto& [path, item] : out) entries.push_back(std::move(item));
  return entries;
}

// Fills a real directory at random and says what is in it, below `prefix` in the model.
void random_tree(Random& random, const std::string& host, const std::string& prefix, Model& model,
                 int depth) {
  for (const std::string& name : kNames) {
    const std::string path = join_path(prefix, name);
    if (random.chance(40)) continue;
    if (depth < 3 && random.chance(50)) {
      std::filesystem::create_directories(host + "/" + name);
      model[path] = "dir";
      random_tree(random, host + "/" + name, path, model, depth + 1);
    } else if (random.chance(20)) {
      std::filesystem::create_symlink("target", host + "/" + name);
      model[path] = "link target";
    } else {
      const std::string text = std::to_string(random.below(9));
      write_file(host + "/" + name, text);
      model[path] = file_of(text);
    }
  }
}

void walk(const View& view, const View::Node& dir, Model& out) {
  for (const DirEntry& item : must(view.list(dir))) {
    const auto child = must(view.child(dir, item.name));
    ASSERT_TRUE(child) << dir.path << " " << item.name;
    out[child->path] = look(view, child->path);
    if (child->entry.kind == EntryKind::kDirectory) walk(view, *child, out);
  }
}

TEST(ViewModel, RandomStacksComposeLikeTheModel) {
  Trees trees;  // one store for all: opening one costs a disk's sync
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    for (const std::string& dir : {trees.image(), trees.workspace()}) {
      std::filesystem::remove_all(dir);
      std::filesystem::create_directories(dir);
    }
    Model model;
    for (const SkeletonEntry& item : kSkeleton) {
      model[std::string(item.path)] = item.kind == EntryKind::kDirectory ? "dir" : file_of("");
    }
    {
      Model image;
      random_tree(random, trees.image(), "", image, 0);
      for (const auto& [path, text] : image) model[path] = text;
      random_tree(random, trees.workspace(), "workspace", model, 0);
    }
    std::vector<ViewLayer> layers;
    for (std::size_t n = random.below(5); n > 0; --n) {
      const auto entries = random_layer(random);
      layers.push_back(view_layer(entries));
      // Random layers must be layers: what build accepts decode would, too.
      ASSERT_TRUE(Layer::decode(layers.back().layer->encode(), ""));
      apply(model, *layers.back().layer);
    }
    const View view = trees.view(layers);
    Model seen;
    walk(view, must(view.root()), seen);
    EXPECT_EQ(seen, model);
    expect_listings_are_lookups(view, must(view.root()),
                                {"a", "b", "c", "tmp", "hosts", "workspace", "none"});
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_F(ViewTest, ListingsAreLookups) {
  const View view = trees_.view(
      {view_layer({opaque_entry("etc"), whiteout_entry("tmp"), dir_entry("var"),
                   whiteout_entry("var/tmp")}),
       view_layer({dir_entry("usr"), whiteout_entry("usr/lib"), whiteout_entry("usr/never")})});
  expect_listings_are_lookups(
      view, must(view.root()),
      {"a", "hosts", "hostname", "lib", "bin", "never", "tmp", "cache", "src", ".git", ".hm"});
}

}  // namespace
}  // namespace hm::fs
