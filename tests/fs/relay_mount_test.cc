// A guest's kernel and this machine's ask the same: both sessions record the same.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/xattr.h>

#include "fake_guest.h"
#include "fs/session.h"
#include "fuse_main.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> out;
  DIR* dir = ::opendir(path.c_str());
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(name);
  }
  ::closedir(dir);
  return out;
}

std::string text_of(const Trace& trace) {
  std::string out;
  for (const Observation& item : trace.observations) {
    out += std::string(to_string(item.kind)) + " /" + item.path + " " + item.value + "\n";
  }
  return out;
}

TEST(RelayMountTest, SameAccessesSameTrace) {
  if (!can_mount()) GTEST_SKIP() << kCannotMount;
  Trees trees;
  write_file(trees.image("d/one"), "1");
  write_file(trees.image("d/two"), std::string(300000, '2'));
  write_file(trees.image("e/xattr"), "x");
  const bool has_xattrs =
      ::setxattr(trees.image("e/xattr").c_str(), "user.mine", "value", 5, 0) == 0;
  std::filesystem::create_symlink("d/one", trees.image("link"));
  write_file(trees.workspace("src/main"), "main");
  LayerEntry made = file_entry("made", "by a step");
  must(trees.store().blobs().put("by a step"));
  made.entry.xattrs = {{"user.of", "a layer"}};
  const std::vector<ViewLayer> layers = {view_layer({made, whiteout_entry("e/gone")})};

  const View mounted_view = trees.view(layers);
  const std::string root = trees.path("mnt");
  std::filesystem::create_directories(root);
  const auto mounted = must(Session::start(mounted_view, trees.store(), root, {}));
  const auto at = [&](const std::string& path) { return root + "/" + path; };
  EXPECT_EQ(lstat_of(at("d/one")).st_size, 1);
  EXPECT_FALSE(exists(at("d/none")));
  EXPECT_FALSE(exists(at("none")));
  const auto names = list_directory(at("d"));
  EXPECT_EQ(slurp(at("d/two")).size(), 300000U);
  EXPECT_EQ(std::filesystem::read_symlink(at("link")).string(), "d/one");
  EXPECT_EQ(slurp(at("workspace/src/main")), "main");
  char value[64];
  const ssize_t size = ::getxattr(at("made").c_str(), "user.of", value, sizeof value);
  EXPECT_EQ(std::string(value, static_cast<std::size_t>(std::max<ssize_t>(size, 0))), "a layer");
  (void)::getxattr(at("e/xattr").c_str(), "user.mine", value, sizeof value);
  mounted->stop();

  const View relayed_view = trees.view(layers);
  FakeGuest guest;
  const auto relayed =
      must(Session::start_relay(relayed_view, trees.store(), guest.take_host_end(), {}));
  EXPECT_EQ(guest.init().error, 0);
  const std::uint64_t dir = guest.walk("d");
  const std::uint64_t one = guest.lookup(dir, "one");
  EXPECT_EQ(guest.getattr(one).size, 1U);
  EXPECT_EQ(guest.lookup(dir, "none"), 0U);
  EXPECT_EQ(guest.walk("none"), 0U);
  EXPECT_EQ(guest.readdir(dir), names);
  const std::uint64_t two = guest.lookup(dir, "two");
  EXPECT_EQ(guest.read(two, 0, 1 << 20).size(), 300000U);
  EXPECT_EQ(guest.readlink(guest.walk("link")), "d/one");
  EXPECT_EQ(guest.read(guest.walk("workspace/src/main")), "main");
  const std::uint64_t of_layer = guest.walk("made");
  EXPECT_EQ(guest.getxattr(of_layer, "user.of"), "a layer");
  const std::string mine = guest.getxattr(guest.walk("e/xattr"), "user.mine");
  EXPECT_EQ(mine, has_xattrs ? "value" : "");
  guest.forget(one);
  EXPECT_EQ(guest.call(FUSE_DESTROY, 0, "").error, 0);
  relayed->stop();

  EXPECT_FALSE(mounted->failure());
  EXPECT_FALSE(relayed->failure());
  EXPECT_EQ(text_of(mounted->trace()), text_of(relayed->trace()));
  EXPECT_EQ(mounted->trace().encode(), relayed->trace().encode());
  EXPECT_EQ(mounted->seen_times().size(), relayed->seen_times().size());
}

}  // namespace
}  // namespace hm::fs
