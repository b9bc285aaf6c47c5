// Capture of uppers made by hand, as overlayfs would leave them. Needs root: whiteouts are devices.
#include "fs/capture.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

class CaptureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: whiteouts are devices";
    std::filesystem::create_directories(upper());
    must_be_zero(::chmod(upper().c_str(), 0755), "chmod");
    must_be_zero(::chmod(trees_.image().c_str(), 0755), "chmod");
    if (::mknod(upper("probe").c_str(), S_IFCHR, 0) != 0)
      GTEST_SKIP() << "mknod is not allowed here";
    std::filesystem::remove(upper("probe"));
  }
  std::string upper() const { return trees_.path("upper"); }
  std::string upper(const std::string& path) const { return upper() + "/" + path; }
  void directory(const std::string& path, mode_t mode = 0755) const {
    std::filesystem::create_directories(upper(path));
    must_be_zero(::chmod(upper(path).c_str(), mode), path);
  }
  void whiteout(const std::string& path) const {
    must_be_zero(::mknod(upper(path).c_str(), S_IFCHR, 0), path);
  }
  void xattr(const std::string& path, const char* name, std::string_view value) const {
    must_be_zero(::lsetxattr(upper(path).c_str(), name, value.data(), value.size(), 0), name);
  }
  std::shared_ptr<const Layer> capture(std::vector<ViewLayer> below = {}) {
    const View view(ViewBase{trees_.image_source(), nullptr}, std::move(below), now_ns());
    return must(
        capture_upper(upper(), view, {started_ns_, SeenTimes(seen_)}, trees_.store().blobs()));
  }
  static std::vector<std::string> paths(const Layer& layer) {
    std::vector<std::string> out;
    for (const LayerEntry& item : layer.entries()) out.push_back(item.path);
    return out;
  }
  std::string stored(const LayerEntry& item) {
    return must(trees_.store().blobs().read(item.content));
  }

  Trees trees_;
  std::int64_t started_ns_ = now_ns() - 1'000'000'000;  // of the step
  std::vector<SeenTime> seen_;                          // by it
};

using Paths = std::vector<std::string>;

TEST_F(CaptureTest, NothingWrittenIsAnEmptyLayer) { EXPECT_EQ(paths(*capture()), Paths{}); }

TEST_F(CaptureTest, FilesBecomeBlobsAndLeaveTheUpper) {
  write_file(upper("d/f"), "text", 04755);
  must_be_zero(::chown(upper("d/f").c_str(), 12, 34), "chown");
  must_be_zero(::chmod(upper("d/f").c_str(), 04755), "chmod");
  set_mtime(upper("d/f"), 1'600'000'000);
  directory("d", 0711);
  const auto layer = capture();
  ASSERT_EQ(paths(*layer), (Paths{"", "d", "d/f"}));
  EXPECT_EQ(probe_text(layer->find("d")->entry), "dir mode=0711 owner=0:0");
  const LayerEntry& file = *layer->find("d/f");
  EXPECT_EQ(probe_text(file.entry), "file mode=4755 owner=12:34 size=4");
  EXPECT_EQ(file.mtime_ns, 1'600'000'000LL * 1'000'000'000);
  EXPECT_EQ(stored(file), "text");
  EXPECT_FALSE(exists(upper("d/f"))) << "adopted, not copied";
}

// More than one group of files, on more than one thread.
TEST_F(CaptureTest, ManyFilesAreEachTheirOwn) {
  const auto text_of = [](int i) {
    return std::string(static_cast<std::size_t>(i) * 7, 'x') + "end";
  };
  for (int i = 0; i < 500; ++i) {
    const std::string path = upper("d" + std::to_string(i % 7) + "/" + std::to_string(i));
    write_file(path, text_of(i % 400));  // some are equal
    if (i % 5 == 0) std::filesystem::create_hard_link(path, path + "-linked");
  }
  xattr("d1/1", "user.mine", "value");
  const auto layer = capture();
  ASSERT_EQ(layer->entries().size(), 1U + 7U + 500U + 100U);
  for (int i = 0; i < 500; ++i) {
    const std::string path = "d" + std::to_string(i % 7) + "/" + std::to_string(i);
    const LayerEntry* file = layer->find(path);
    ASSERT_NE(file, nullptr) << path;
    EXPECT_EQ(file->content, Digest::of(text_of(i % 400))) << path;
    EXPECT_EQ(file->entry.size, text_of(i % 400).size()) << path;
    EXPECT_EQ(file->entry.nlink, i % 5 == 0 ? 2U : 1U) << path;
    EXPECT_EQ(file->entry.xattrs.size(), path == "d1/1" ? 1U : 0U) << path;
    EXPECT_FALSE(exists(upper(path))) << path;
    EXPECT_EQ(stored(*file), text_of(i % 400)) << path;
    if (i % 5 == 0) {
      const LayerEntry* other = layer->find(path + "-linked");
      ASSERT_NE(other, nullptr) << path;
      EXPECT_EQ(other->content, file->content) << path;
      EXPECT_EQ(other->entry, file->entry) << path;
    }
  }
}

TEST_F(CaptureTest, FileAmongManyThatCannotBeStoredIsNamed) {
  for (int i = 0; i < 200; ++i) write_file(upper("d/" + std::to_string(i)), std::to_string(i));
  const std::string hex = Digest::of("150").hex();
  const std::string in_the_way = trees_.path("store/blobs/" + hex.substr(0, 2) + "/" + hex);
  std::filesystem::create_directories(in_the_way + "/full");
  const View view(ViewBase{trees_.image_source(), nullptr}, {}, now_ns());
  const auto layer =
      capture_upper(upper(), view, {started_ns_, SeenTimes(seen_)}, trees_.store().blobs());
  ASSERT_FALSE(layer);
  EXPECT_TRUE(layer.error().message.starts_with("/d/150: ")) << layer.error().message;
}

TEST_F(CaptureTest, ModeZeroFile) {
  write_file(upper("f"), "closed", 0000);
  const auto layer = capture();
  EXPECT_EQ(layer->find("f")->entry.mode, 0U);
  EXPECT_EQ(stored(*layer->find("f")), "closed");
}

TEST_F(CaptureTest, WhiteoutsAreNeverHardLinks) {
  // overlayfs links its whiteouts to each other.
  whiteout("a");
  must_be_zero(::link(upper("a").c_str(), upper("b").c_str()), "link");
  must_be_zero(::chmod(upper("a").c_str(), 0600), "chmod");
  const auto layer = capture();
  ASSERT_EQ(paths(*layer), (Paths{"", "a", "b"}));
  for (const char* path : {"a", "b"}) {
    const LayerEntry& item = *layer->find(path);
    EXPECT_TRUE(item.whiteout);
    EXPECT_TRUE(item.entry == Entry{}) << "nothing of the device is the step's";
    EXPECT_EQ(item.mtime_ns, 0);
  }
}

TEST_F(CaptureTest, DevicesAreNotWhiteouts) {
  must_be_zero(::mknod(upper("null").c_str(), S_IFCHR | 0666, makedev(1, 3)), "mknod");
  const auto layer = capture();
  EXPECT_FALSE(layer->find("null")->whiteout);
  EXPECT_EQ(layer->find("null")->entry.rdev, makedev(1, 3));
}

TEST_F(CaptureTest, OpaqueDirectories) {
  directory("yes");
  directory("no");
  directory("other");
  xattr("yes", "user.overlay.opaque", "y");
  xattr("other", "user.overlay.opaque", "x");
  const auto layer = capture();
  EXPECT_TRUE(layer->find("yes")->opaque);
  EXPECT_FALSE(layer->find("no")->opaque);
  EXPECT_FALSE(layer->find("other")->opaque);
  EXPECT_TRUE(layer->find("yes")->entry.xattrs.empty());
}

TEST_F(CaptureTest, OverlaysOwnXattrsAreDroppedAndTheStepsUnescaped) {
  write_file(upper("f"), "x");
  xattr("f", "user.mine", "1");
  xattr("f", "user.overlay.origin", "o");
  xattr("f", "user.overlay.impure", "y");
  xattr("f", "user.overlay.overlay.opaque", "y");
  const auto layer = capture();
  EXPECT_EQ(layer->find("f")->entry.xattrs,
            (Xattrs{{"user.mine", "1"}, {"user.overlay.opaque", "y"}}));
  EXPECT_FALSE(layer->find("f")->opaque);
}

TEST_F(CaptureTest, HardLinks) {
  write_file(upper("d/one"), "linked");
  must_be_zero(::link(upper("d/one").c_str(), upper("two").c_str()), "link");
  write_file(upper("alone"), "linked");
  must_be_zero(::mkfifo(upper("fifo").c_str(), 0600), "mkfifo");
  must_be_zero(::link(upper("fifo").c_str(), upper("fifo2").c_str()), "link");
  const auto layer = capture();
  EXPECT_EQ(layer->find("d/one")->entry.link_group, "d/one");
  EXPECT_EQ(layer->find("two")->entry.link_group, "d/one");
  EXPECT_EQ(layer->find("two")->entry.nlink, 2U);
  EXPECT_EQ(stored(*layer->find("two")), "linked");
  EXPECT_EQ(layer->find("alone")->entry.nlink, 1U) << "equal bytes are no link";
  EXPECT_EQ(layer->find("fifo2")->entry.link_group, "fifo");
  EXPECT_FALSE(exists(upper("d/one")));
}

TEST_F(CaptureTest, EveryNameOfALinkHasItsModeAndTime) {
  // Adopting the first name changes the inode that the others share.
  write_file(upper("a"), "linked", 04755);
  must_be_zero(::link(upper("a").c_str(), upper("b").c_str()), "link");
  set_mtime(upper("a"), 1'600'000'000);
  const auto layer = capture();
  ASSERT_EQ(paths(*layer), (Paths{"", "a", "b"}));
  EXPECT_TRUE(layer->find("a")->entry == layer->find("b")->entry);
  EXPECT_EQ(layer->find("b")->entry.mode, 04755U);
  EXPECT_EQ(layer->find("b")->mtime_ns, layer->find("a")->mtime_ns);
  EXPECT_TRUE(Layer::decode(layer->encode(), layer->encode_mtimes()));
}

TEST_F(CaptureTest, LinksWhoseBytesAreKnownStayLinks) {
  must(trees_.store().blobs().put("linked"));
  write_file(upper("a"), "linked");
  must_be_zero(::link(upper("a").c_str(), upper("b").c_str()), "link");
  const auto layer = capture();
  EXPECT_EQ(layer->find("a")->entry.nlink, 2U);
  EXPECT_EQ(layer->find("b")->entry.link_group, "a");
}

TEST_F(CaptureTest, TimesThatTheStepSetAreKept) {
  const std::int64_t now = now_ns() / 1'000'000'000;
  write_file(upper("written"), "");
  write_file(upper("old"), "");
  write_file(upper("future"), "");
  set_mtime(upper("old"), 499'162'500);
  set_mtime(upper("future"), now + 100'000);
  const auto layer = capture();
  EXPECT_EQ(layer->find("written")->time_of, TimeOf::kRun);
  EXPECT_EQ(layer->find("old")->time_of, TimeOf::kKept);
  EXPECT_EQ(layer->find("future")->time_of, TimeOf::kKept);
  EXPECT_EQ(layer->find("old")->mtime_ns, 499'162'500LL * 1'000'000'000);
}

TEST_F(CaptureTest, DeeperThanAPathCanName) {
  Fd dir = must(open_file(upper(), O_RDONLY | O_DIRECTORY));
  const std::string name(200, 'n');
  for (int i = 0; i < 30; ++i) {
    must_be_zero(::mkdirat(dir.get(), name.c_str(), 0755), "mkdirat");
    dir = must(open_at(dir.get(), name, O_RDONLY | O_DIRECTORY));
  }
  {
    const Fd file = must(open_at(dir.get(), "file", O_WRONLY | O_CREAT, 0644));
    must(write_all(file.get(), "deep"));
  }
  const auto layer = capture();
  ASSERT_EQ(layer->entries().size(), 32U);
  EXPECT_EQ(stored(layer->entries().back()), "deep");
  must(remove_tree(AT_FDCWD, upper()));
}

TEST_F(CaptureTest, FifosAndSymlinksAreNotOpened) {
  must_be_zero(::mkfifo(upper("fifo").c_str(), 0640), "mkfifo");
  must_be_zero(::chmod(upper("fifo").c_str(), 0640), "chmod");
  write_file(trees_.path("outside"), "x");
  std::filesystem::create_symlink(trees_.path("outside"), upper("link"));
  const auto layer = capture();
  EXPECT_EQ(probe_text(layer->find("fifo")->entry), "fifo mode=0640 owner=0:0");
  EXPECT_EQ(layer->find("link")->entry.target, trees_.path("outside"));
  EXPECT_EQ(slurp(trees_.path("outside")), "x");
}

TEST_F(CaptureTest, DirectoriesThatOnlyRepeatTheViewAreDropped) {
  std::filesystem::create_directories(trees_.image("same/deep"));
  std::filesystem::create_directories(trees_.image("moded"));
  std::filesystem::create_directories(trees_.image("parent"));
  for (const char* path : {"same", "same/deep", "moded", "parent"}) {
    must_be_zero(::chmod(trees_.image(path).c_str(), 0755), path);
  }
  directory("same");
  directory("same/deep");
  directory("moded", 0700);
  directory("parent");
  write_file(upper("parent/new"), "");
  directory("fresh");
  EXPECT_EQ(paths(*capture()), (Paths{"", "fresh", "moded", "parent", "parent/new"}));
}

TEST_F(CaptureTest, EmptyOpaqueDirectoryCountsOnlyIfItHidesSomething) {
  write_file(trees_.image("full/x"), "");
  std::filesystem::create_directories(trees_.image("empty"));
  for (const char* path : {"full", "empty"}) {
    must_be_zero(::chmod(trees_.image(path).c_str(), 0755), path);
    directory(path);
    xattr(path, "user.overlay.opaque", "y");
  }
  const auto layer = capture();
  EXPECT_NE(layer->find("full"), nullptr);
  EXPECT_EQ(layer->find("empty"), nullptr);
}

TEST_F(CaptureTest, TheSandboxsOwnPathsAreDropped) {
  write_file(upper("dev/null"), "x");
  directory("proc");
  write_file(upper("run/pid"), "1");
  write_file(upper("etc/resolv.conf"), "nameserver");
  write_file(upper("etc/mine"), "m");
  const auto layer = capture();
  EXPECT_EQ(paths(*layer), (Paths{"", "etc", "etc/mine"}));
}

TEST_F(CaptureTest, WhatIsCapturedCanBeStoredAndLoaded) {
  write_file(upper("d/f"), "text", 0600);
  whiteout("w");
  std::filesystem::create_symlink("d", upper("l"));
  set_mtime(upper("d/f"), 77);
  const auto layer = capture();
  const StoredLayer stored = must(store_layer(*layer, trees_.store().blobs()));
  EXPECT_EQ(stored.digest, Digest::of(layer->encode()));
  const auto again = must(load_layer({stored.digest, stored.mtimes, 0, 0}, trees_.store().blobs()));
  EXPECT_EQ(again->encode(), layer->encode());
  EXPECT_EQ(again->find("d/f")->mtime_ns, 77LL * 1'000'000'000);
  const View view({}, {ViewLayer{stored.digest, again, 0, 0, {}}}, now_ns());
  EXPECT_EQ(must(view.digest(*must(view.resolve("d/f")))), Digest::of("text"));
  EXPECT_FALSE(load_layer({digest_of("none"), stored.mtimes, 0, 0}, trees_.store().blobs()));
}

TEST_F(CaptureTest, TimesOfOtherFilesAreTakenFromThere) {
  const std::int64_t second = 1'000'000'000;
  seen_ = {{600 * second + 5, "dir/copied", Digest::of("x").hex(), true},
           {600 * second + 5, "aaa", Digest::of("other").hex(), true},
           {700 * second, "link", "target", false},
           {800 * second, "image", Digest::of("not it").hex(), false},
           {kFixedTimeNs, "workspace/a", Digest::of("w").hex(), false}};
  const auto with_time = [&](const std::string& path, const std::string& text, std::int64_t ns) {
    write_file(upper(path), text);
    const timespec times[2] = {{0, UTIME_NOW}, {ns / second, ns % second}};
    must_be_zero(::utimensat(AT_FDCWD, upper(path).c_str(), times, 0), "utimensat");
  };
  with_time("copy", "x", 600 * second + 5);
  with_time("touched", "unlike", 600 * second + 5);
  with_time("round", "z", 800 * second);
  with_time("of-workspace", "w", kFixedTimeNs);
  const auto layer = capture();
  EXPECT_EQ(layer->find("copy")->time_of, TimeOf::kTaken);
  EXPECT_EQ(layer->find("copy")->time_path, "dir/copied") << "the one with its bytes";
  EXPECT_EQ(layer->find("copy")->mtime_ns, 0);
  EXPECT_EQ(layer->find("touched")->time_path, "aaa") << "the first that a step wrote";
  EXPECT_EQ(layer->find("round")->time_of, TimeOf::kKept) << "a round number by chance";
  EXPECT_EQ(layer->find("of-workspace")->time_of, TimeOf::kKept);
}

TEST_F(CaptureTest, CopiedUpFilesTakeTheTimeBelow) {
  LayerEntry item = file_entry("f", "old");
  item.mtime_ns = now_ns() - 5'000'000'000;
  const auto below = view_layer({item}, item.mtime_ns - 1, item.mtime_ns + 1);
  write_file(upper("f"), "new");
  const timespec times[2] = {{0, UTIME_NOW},
                             {item.mtime_ns / 1'000'000'000, item.mtime_ns % 1'000'000'000}};
  must_be_zero(::utimensat(AT_FDCWD, upper("f").c_str(), times, 0), "utimensat");
  const auto layer = capture({below});
  EXPECT_EQ(layer->find("f")->time_of, TimeOf::kTaken);
  EXPECT_EQ(layer->find("f")->time_path, "f");
}

TEST_F(CaptureTest, EqualWorkGivesEqualLayers) {
  const time_t now = ::time(nullptr);
  const auto work = [&](time_t when) {
    std::filesystem::remove_all(upper());
    std::filesystem::create_directories(upper());
    must_be_zero(::chmod(upper().c_str(), 0755), "chmod");
    write_file(upper("b/f"), "x");
    write_file(upper("a/g"), "y");
    must_be_zero(::link(upper("a/g").c_str(), upper("z").c_str()), "link");
    started_ns_ = (when - 1) * 1'000'000'000;
    for (const char* path : {"b/f", "z"}) set_mtime(upper(path), when);
    return capture();
  };
  const auto first = work(now - 20);
  const auto second = work(now - 10);
  EXPECT_EQ(first->encode(), second->encode());
  EXPECT_NE(first->encode_mtimes(), second->encode_mtimes());
}

}  // namespace
}  // namespace hm::fs
