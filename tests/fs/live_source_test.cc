// Live directories: pinned at first touch, and what counts as moved.
#include "fs/live_source.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#include <atomic>
#include <functional>
#include <thread>

#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

Listing sorted_names(std::initializer_list<std::pair<std::string, EntryKind>> items) {
  Listing out;
  for (const auto& [name, kind] : items) out.push_back({name, kind});
  return out;
}

class LiveSourceTest : public ::testing::Test {
 protected:
  std::string at(const std::string& path) const { return trees_.image(path); }
  std::string captured(LiveSource& source, const std::string& path) {
    return must(trees_.store().blobs().read(must(source.capture(path))));
  }
  Trees trees_;
};

TEST_F(LiveSourceTest, LooksAsItIs) {
  write_file(at("bin/tool"), "tool", 04755);
  std::filesystem::create_symlink("../x", at("bin/link"));
  must_be_zero(::mkfifo(at("fifo").c_str(), 0600), "mkfifo");
  set_mtime(at("bin/tool"), 12345);
  const auto source = trees_.image_source();
  const auto tool = must(source->lookup("bin/tool"));
  ASSERT_TRUE(tool);
  EXPECT_EQ(tool->entry.mode, 04755U);
  EXPECT_EQ(tool->entry.size, 4U);
  EXPECT_EQ(tool->entry.uid, ::getuid());
  EXPECT_EQ(tool->mtime_ns, 12345LL * 1'000'000'000);
  EXPECT_EQ(must(source->lookup("bin/link"))->entry.target, "../x");
  EXPECT_EQ(must(source->lookup("fifo"))->entry.kind, EntryKind::kFifo);
  EXPECT_EQ(must(source->lookup(""))->entry.kind, EntryKind::kDirectory);
  EXPECT_FALSE(must(source->lookup("none")));
  EXPECT_FALSE(must(source->lookup("bin/tool/below")));
  EXPECT_EQ(must(source->list("")),
            sorted_names({{"bin", EntryKind::kDirectory}, {"fifo", EntryKind::kFifo}}));
  EXPECT_EQ(must(source->digest("bin/tool")), Digest::of("tool"));
  EXPECT_FALSE(trees_.store().blobs().has(Digest::of("tool"), 4))
      << "a digest alone copies nothing";
  EXPECT_EQ(captured(*source, "bin/tool"), "tool");
}

TEST_F(LiveSourceTest, SquashedOwnersAreRoot) {
  write_file(at("f"), "x");
  if (::chown(at("f").c_str(), 1234, 1234) != 0) GTEST_SKIP() << "needs root";
  LiveSource source(must(directory_rules(trees_.image(), Owners::kSquashed, {})), trees_.store());
  EXPECT_EQ(must(source.lookup("f"))->entry.uid, 0U);
  EXPECT_EQ(must(trees_.image_source()->lookup("f"))->entry.uid, 1234U);
}

TEST_F(LiveSourceTest, HiddenHostPathsDoNotExist) {
  write_file(at("store/blob"), "x");
  write_file(at("store2"), "x");
  LiveSource source(must(directory_rules(trees_.image(), Owners::kReal, {at("store")})),
                    trees_.store());
  EXPECT_FALSE(must(source.lookup("store")));
  EXPECT_FALSE(must(source.lookup("store/blob")));
  EXPECT_EQ(must(source.list("")), sorted_names({{"store2", EntryKind::kFile}}));
}

TEST_F(LiveSourceTest, XattrsArePartOfAnEntry) {
  write_file(at("f"), "x");
  if (::setxattr(at("f").c_str(), "user.b", "2", 1, 0) != 0) GTEST_SKIP() << "no xattrs here";
  must_be_zero(::setxattr(at("f").c_str(), "user.a", "1", 1, 0), "setxattr");
  const auto source = trees_.image_source();
  EXPECT_EQ(must(source->lookup("f"))->entry.xattrs, (Xattrs{{"user.a", "1"}, {"user.b", "2"}}));
  EXPECT_FALSE(is_moved(*source, "f"));
  must_be_zero(::setxattr(at("f").c_str(), "user.a", "3", 1, 0), "setxattr");
  EXPECT_TRUE(is_moved(*source, "f"));
}

// --- pins

TEST_F(LiveSourceTest, PinsHoldAfterTheFileChanged) {
  write_file(at("f"), "before");
  write_file(at("d/one"), "");
  const auto source = trees_.image_source();
  EXPECT_EQ(must(source->lookup("f"))->entry.size, 6U);
  EXPECT_FALSE(must(source->lookup("later")));
  EXPECT_EQ(must(source->list("d")).size(), 1U);
  EXPECT_EQ(captured(*source, "f"), "before");
  write_file(at("f"), "after, and longer");
  write_file(at("later"), "x");
  write_file(at("d/two"), "");
  EXPECT_EQ(must(source->lookup("f"))->entry.size, 6U);
  EXPECT_FALSE(must(source->lookup("later")));
  EXPECT_EQ(must(source->list("d")).size(), 1U);
  EXPECT_EQ(captured(*source, "f"), "before");
  EXPECT_EQ(must(source->digest("f")), Digest::of("before"));
  const auto fresh = trees_.image_source();
  EXPECT_EQ(captured(*fresh, "f"), "after, and longer");
}

TEST_F(LiveSourceTest, SmallFilesAreReadWithoutACopy) {
  write_file(at("f"), "before");
  const auto source = trees_.image_source();
  std::string bytes;
  EXPECT_EQ(must(source->read_small("f", bytes)), Digest::of("before"));
  EXPECT_EQ(bytes, "before");
  EXPECT_FALSE(trees_.store().blobs().has(Digest::of("before"), 6));
  EXPECT_FALSE(is_moved(*source, "f"));
  set_mtime(at("f"), 12345);
  bytes = "something else";
  EXPECT_EQ(must(source->read_small("f", bytes)), Digest::of("before"));
  EXPECT_EQ(bytes, "before") << "only touched";
  std::filesystem::remove(at("f"));
  write_file(at("f"), "before");
  EXPECT_TRUE(source->read_small("f", bytes)) << "another file with the same bytes";
}

TEST_F(LiveSourceTest, SmallFileThatIsNotThePinnedOneIsChanged) {
  const std::function<void()> edits[] = {
      [&] { write_file(at("f"), "befOre"); },
      [&] { write_file(at("f"), "longer than before"); },
      [&] { write_file(at("f"), "short"); },
      [&] { std::filesystem::remove(at("f")); },
      [&] {
        std::filesystem::remove(at("f"));
        std::filesystem::create_directory(at("f"));
      },
      [&] {
        std::filesystem::remove(at("f"));
        must_be_zero(::mkfifo(at("f").c_str(), 0600), "mkfifo");
      },
      [&] {
        write_file(at("g"), "before");
        std::filesystem::remove(at("f"));
        std::filesystem::create_symlink("g", at("f"));
      },
  };
  for (const auto& edit : edits) {
    for (const bool was_read : {false, true}) {
      std::filesystem::remove_all(at("f"));
      write_file(at("f"), "before");
      const auto source = trees_.image_source();
      must(source->lookup("f"));
      std::string bytes;
      if (was_read) must(source->read_small("f", bytes));
      edit();
      const auto read = source->read_small("f", bytes);
      ASSERT_FALSE(read);
      EXPECT_EQ(read.error().code, ErrorCode::kChanged);
      if (was_read) {
        EXPECT_TRUE(is_moved(*source, "f"));
      }
    }
  }
}

TEST_F(LiveSourceTest, OnlySmallFilesAreReadSo) {
  write_file(at("small"), std::string(kSmallFile, 's'));
  write_file(at("large"), std::string(kSmallFile + 1, 'l'));
  write_file(at("empty"), "");
  std::filesystem::create_directory(at("d"));
  const auto source = trees_.image_source();
  std::string bytes;
  EXPECT_TRUE(source->read_small("small", bytes));
  EXPECT_EQ(bytes, std::string(kSmallFile, 's'));
  EXPECT_EQ(must(source->read_small("empty", bytes)), Digest::of(""));
  EXPECT_EQ(bytes, "");
  for (const char* path : {"large", "d", "none"}) {
    const auto read = source->read_small(path, bytes);
    ASSERT_FALSE(read) << path;
    EXPECT_EQ(read.error().code, ErrorCode::kNotFound) << path;
  }
}

TEST_F(LiveSourceTest, FirstReadOfAFileThatIsNoLongerThePinnedOneIsChanged) {
  const std::vector<std::pair<std::string, std::function<void()>>> edits = {
      {"written to", [&] { write_file(at("f"), "bEfore"); }},
      {"replaced",
       [&] {
         write_file(at("new"), "bEfore");
         std::filesystem::rename(at("new"), at("f"));
       }},
      {"deleted", [&] { std::filesystem::remove(at("f")); }},
      {"made a directory",
       [&] {
         std::filesystem::remove(at("f"));
         std::filesystem::create_directories(at("f"));
       }},
      {"made a symlink",
       [&] {
         std::filesystem::remove(at("f"));
         write_file(at("target"), "before");
         std::filesystem::create_symlink("target", at("f"));
       }},
      {"made a fifo", [&] {
         std::filesystem::remove(at("f"));
         must_be_zero(::mkfifo(at("f").c_str(), 0644), "mkfifo");
       }}};
  for (const auto& [what, edit] : edits) {
    SCOPED_TRACE(what);
    std::filesystem::remove_all(at("f"));
    write_file(at("f"), "before");
    for (const bool capture : {false, true}) {
      std::filesystem::remove_all(at("f"));
      write_file(at("f"), "before");
      const auto source = trees_.image_source();
      ASSERT_TRUE(must(source->lookup("f")));
      edit();
      const auto digest = capture ? source->capture("f") : source->digest("f");
      ASSERT_FALSE(digest);
      EXPECT_EQ(digest.error().code, ErrorCode::kChanged) << digest.error().message;
      EXPECT_EQ(digest.error().message, "/f");
    }
  }
}

TEST_F(LiveSourceTest, ReplacedParentSymlinkIsNotFollowed) {
  write_file(at("d/f"), "inside");
  write_file(at("other/f"), "elsewhere");
  write_file(trees_.path("outside/f"), "outside");
  for (const std::string& target :
       {std::string("other"), trees_.path("outside"), std::string("../outside")}) {
    SCOPED_TRACE(target);
    std::filesystem::remove_all(at("d"));
    write_file(at("d/f"), "inside");
    const auto source = trees_.image_source();
    ASSERT_TRUE(must(source->lookup("d/f")));
    std::filesystem::remove_all(at("d"));
    std::filesystem::create_symlink(target, at("d"));
    const auto digest = source->capture("d/f");
    ASSERT_FALSE(digest);
    EXPECT_EQ(digest.error().code, ErrorCode::kChanged);
    EXPECT_TRUE(is_moved(*source, "d/f"));
    const auto fresh = trees_.image_source();
    EXPECT_FALSE(must(fresh->lookup("d/f"))) << "a walk follows no symlink";
    EXPECT_EQ(must(fresh->lookup("d"))->entry.kind, EntryKind::kSymlink);
  }
}

TEST_F(LiveSourceTest, FifoIsNeverOpened) {
  must_be_zero(::mkfifo(at("fifo").c_str(), 0644), "mkfifo");
  const auto source = trees_.image_source();
  ASSERT_TRUE(must(source->lookup("fifo")));
  EXPECT_FALSE(source->digest("fifo"));
  EXPECT_FALSE(source->capture("fifo"));
  EXPECT_FALSE(is_moved(*source, "fifo"));
  must(source->list(""));
  // Without a reader a writer cannot open it, so nobody has it open for reading.
  EXPECT_FALSE(open_file(at("fifo"), O_WRONLY | O_NONBLOCK));
  EXPECT_EQ(errno, ENXIO);
}

// --- moved

TEST_F(LiveSourceTest, NothingPinnedNeverMoves) {
  const auto source = trees_.image_source();
  EXPECT_FALSE(is_moved(*source, "f"));
  write_file(at("f"), "x");
  EXPECT_FALSE(is_moved(*source, "f"));
}

TEST_F(LiveSourceTest, Moved) {
  struct Case {
    const char* what;
    bool read;  // the content is pinned, too
    bool moved;
    std::function<void()> edit;
  };
  const Case cases[] = {
      {"nothing", true, false, [] {}},
      {"touched only", true, false, [&] { set_mtime(at("f"), 5); }},
      {"touched only, never read", false, false, [&] { set_mtime(at("f"), 5); }},
      {"same bytes written again", true, false, [&] { write_file(at("f"), "before"); }},
      {"replaced by the same bytes", true, false,
       [&] {
         write_file(at("new"), "before");
         std::filesystem::rename(at("new"), at("f"));
       }},
      {"other bytes of the same size", true, true, [&] { write_file(at("f"), "bEfore"); }},
      {"replaced by other bytes of the same size", true, true,
       [&] {
         write_file(at("new"), "bEfore");
         std::filesystem::rename(at("new"), at("f"));
       }},
      {"other bytes that nobody read", false, false, [&] { write_file(at("f"), "bEfore"); }},
      {"longer", false, true, [&] { write_file(at("f"), "before and after"); }},
      {"another mode", false, true, [&] { must_be_zero(::chmod(at("f").c_str(), 0600), "chmod"); }},
      {"deleted", true, true, [&] { std::filesystem::remove(at("f")); }},
      {"now a directory", true, true,
       [&] {
         std::filesystem::remove(at("f"));
         std::filesystem::create_directories(at("f"));
       }},
      {"now a symlink to itself, as it were", true, true,
       [&] {
         write_file(at("g"), "before");
         std::filesystem::remove(at("f"));
         std::filesystem::create_symlink("g", at("f"));
       }},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.what);
    std::filesystem::remove_all(at("f"));
    write_file(at("f"), "before");
    const auto source = trees_.image_source();
    ASSERT_TRUE(must(source->lookup("f")));
    if (test.read) must(source->capture("f"));
    test.edit();
    EXPECT_EQ(is_moved(*source, "f"), test.moved);
  }
}

TEST_F(LiveSourceTest, AppearedIsMoved) {
  const auto source = trees_.image_source();
  EXPECT_FALSE(must(source->lookup("f")));
  EXPECT_FALSE(is_moved(*source, "f"));
  write_file(at("f"), "");
  EXPECT_TRUE(is_moved(*source, "f"));
  std::filesystem::remove(at("f"));
  EXPECT_FALSE(is_moved(*source, "f")) << "as it was";
}

TEST_F(LiveSourceTest, ListingThatChangedIsMoved) {
  write_file(at("d/one"), "x");
  const auto listed = trees_.image_source();
  const auto probed = trees_.image_source();
  must(listed->list("d"));
  must(probed->lookup("d"));
  write_file(at("d/one"), "other bytes");
  EXPECT_FALSE(is_moved(*listed, "d")) << "names only";
  write_file(at("d/two"), "");
  EXPECT_TRUE(is_moved(*listed, "d"));
  EXPECT_FALSE(is_moved(*probed, "d")) << "never listed";
  std::filesystem::remove(at("d/two"));
  EXPECT_FALSE(is_moved(*listed, "d"));
  std::filesystem::remove(at("d/one"));
  std::filesystem::create_directories(at("d/one"));
  EXPECT_TRUE(is_moved(*listed, "d")) << "another kind under the same name";
}

TEST_F(LiveSourceTest, RetargetedSymlinkIsMoved) {
  std::filesystem::create_symlink("a", at("l"));
  const auto source = trees_.image_source();
  must(source->lookup("l"));
  std::filesystem::remove(at("l"));
  std::filesystem::create_symlink("a", at("l"));
  EXPECT_FALSE(is_moved(*source, "l"));
  std::filesystem::remove(at("l"));
  std::filesystem::create_symlink("b", at("l"));
  EXPECT_TRUE(is_moved(*source, "l"));
}

// --- the stat cache

TEST_F(LiveSourceTest, YoungFileIsHashedEveryTime) {
  write_file(at("f"), "before");
  const struct stat before = lstat_of(at("f"));
  const auto first = trees_.image_source();
  EXPECT_EQ(must(first->digest("f")), Digest::of("before"));
  EXPECT_TRUE(first->take_learned().empty()) << "younger than 60 s: its identity says nothing";
  // Edited in place, same size, mtime put back.
  {
    const Fd fd = must(open_file(at("f"), O_WRONLY));
    must(write_all(fd.get(), "bEfore"));
  }
  const timespec times[2] = {before.st_atim, before.st_mtim};
  must_be_zero(::utimensat(AT_FDCWD, at("f").c_str(), times, 0), "utimensat");
  ASSERT_EQ(to_ns(lstat_of(at("f")).st_mtim), to_ns(before.st_mtim));
  EXPECT_EQ(must(trees_.image_source()->digest("f")), Digest::of("bEfore"));
  EXPECT_TRUE(is_moved(*first, "f"));
}

// Stores through a mapping into a page that is dirty already change bytes and no time.
TEST_F(LiveSourceTest, StoreThroughAMappingIsMoved) {
  write_file(at("f"), "before");
  const Fd fd = must(open_file(at("f"), O_RDWR));
  auto* bytes =
      static_cast<char*>(::mmap(nullptr, 6, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(bytes, MAP_FAILED);
  bytes[0] = 'B';
  const struct stat before = lstat_of(at("f"));
  const auto read = trees_.image_source();
  const auto probed = trees_.image_source();
  EXPECT_EQ(captured(*read, "f"), "Before");
  must(probed->lookup("f"));
  EXPECT_FALSE(is_moved(*read, "f"));
  bytes[1] = 'E';
  ASSERT_EQ(to_ns(lstat_of(at("f")).st_mtim), to_ns(before.st_mtim));
  EXPECT_TRUE(is_moved(*read, "f"));
  EXPECT_FALSE(is_moved(*probed, "f")) << "nobody read it";
  bytes[1] = 'e';
  EXPECT_FALSE(is_moved(*read, "f"));
  ::munmap(bytes, 6);
}

// … so a stamp vouches for bytes that were hashed when it had rested, not for those hashed before
// that, however old it has become meanwhile.
TEST_F(LiveSourceTest, BytesHashedYoungAreNotTrustedWhenTheFileIsOld) {
  write_file(at("f"), "before");
  const Fd fd = must(open_file(at("f"), O_RDWR));
  auto* bytes =
      static_cast<char*>(::mmap(nullptr, 6, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(bytes, MAP_FAILED);
  bytes[0] = 'B';
  const struct stat before = lstat_of(at("f"));
  const auto source = trees_.image_source();
  EXPECT_EQ(must(source->digest("f")), Digest::of("Before"));
  bytes[1] = 'E';
  must_be_zero(::munmap(bytes, 6), "munmap");
  std::this_thread::sleep_for(std::chrono::seconds(61));
  ASSERT_EQ(to_ns(lstat_of(at("f")).st_mtim), to_ns(before.st_mtim));
  ASSERT_EQ(to_ns(lstat_of(at("f")).st_ctim), to_ns(before.st_ctim));
  const std::string_view paths[] = {"f"};
  EXPECT_TRUE(source->lasting_digests(paths).empty());
  EXPECT_TRUE(is_moved(*source, "f"));
}

TEST_F(LiveSourceTest, OldMtimeAloneIsNotTrusted) {
  // ctime is young: tar or cp -p put the time there a moment ago.
  write_file(at("f"), "before");
  set_mtime(at("f"), 1000);
  const struct stat st = lstat_of(at("f"));
  store::Batch batch;
  batch.files.push_back(
      {{st.st_dev, st.st_ino, 6, to_ns(st.st_mtim), to_ns(st.st_ctim)}, digest_of("a lie")});
  trees_.store().submit(std::move(batch));
  must(trees_.store().flush());
  const auto source = trees_.image_source();
  EXPECT_EQ(must(source->digest("f")), Digest::of("before"));
  EXPECT_TRUE(source->take_learned().empty());
}

TEST_F(LiveSourceTest, OldFileIsKnownByItsIdentity) {
  // Only a file nobody touched for a minute will do: a program of the system's own.
  const std::string path = "/usr/bin/env";
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0 ||
      now_ns() - std::max(to_ns(st.st_ctim), to_ns(st.st_mtim)) < 61'000'000'000) {
    GTEST_SKIP() << path << " is missing or too young";
  }
  const auto source = [&] {
    return std::make_unique<LiveSource>(must(directory_rules("/usr/bin", Owners::kReal, {})),
                                        trees_.store());
  };
  const auto first = source();
  const Digest digest = must(first->digest("env"));
  const auto learned = first->take_learned();
  if (learned.empty()) GTEST_SKIP() << "a filesystem whose stamps prove nothing";
  ASSERT_EQ(learned.size(), 1U);
  EXPECT_EQ(learned[0].digest, digest);
  EXPECT_TRUE(first->take_learned().empty()) << "once";
  store::Batch batch;
  batch.files.push_back(
      {learned[0].stamp, digest_of("planted, to see where the answer comes from")});
  trees_.store().submit(std::move(batch));
  must(trees_.store().flush());
  EXPECT_EQ(must(source()->digest("env")),
            digest_of("planted, to see where the answer comes from"));
}

// --- the workspace

TEST_F(LiveSourceTest, WorkspaceHasNoSpecialFilesNoXattrsNoOwners) {
  must_be_zero(::mkfifo(trees_.workspace("fifo").c_str(), 0644), "mkfifo");
  write_file(trees_.workspace("f"), "x", 0600);
  (void)::setxattr(trees_.workspace("f").c_str(), "user.a", "1", 1, 0);
  write_file(trees_.workspace(".hm/ci.toml"), "");
  const auto source = trees_.workspace_source();
  EXPECT_EQ(must(source->list("")), sorted_names({{"f", EntryKind::kFile}}));
  EXPECT_FALSE(must(source->lookup("fifo")));
  EXPECT_FALSE(must(source->lookup(".hm")));
  const auto file = must(source->lookup("f"));
  EXPECT_EQ(probe_text(file->entry), "file mode=0644 owner=0:0 size=1");
  EXPECT_EQ(file->mtime_ns, kFixedTimeNs);
  must_be_zero(::chmod(trees_.workspace("f").c_str(), 0664), "chmod");
  EXPECT_FALSE(is_moved(*source, "f")) << "git would not see that";
  must_be_zero(::chmod(trees_.workspace("f").c_str(), 0764), "chmod");
  EXPECT_TRUE(is_moved(*source, "f"));
}

TEST_F(LiveSourceTest, ChangedIgnoreFileIsNamed) {
  write_file(trees_.workspace(".gitignore"), "ignored\n");
  write_file(trees_.workspace("ignored"), "");
  const auto source = trees_.workspace_source();
  EXPECT_FALSE(must(source->lookup("ignored")));
  EXPECT_FALSE(must(source->moved_rule_file()));
  write_file(trees_.workspace(".gitignore"), "");
  EXPECT_EQ(must(source->moved_rule_file()), "/workspace/.gitignore");
  EXPECT_FALSE(must(source->lookup("ignored"))) << "still what was pinned";
}

// --- the host's root

TEST_F(LiveSourceTest, HostShowsOnlyWhatEverybodyMayRead) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to put files under /opt";
  const std::string dir = "/opt/hm-test-" + std::to_string(::getpid());
  write_file(dir + "/public", "x", 0644);
  write_file(dir + "/secret", "x", 0600);
  write_file(dir + "/group", "x", 0640);
  write_file(dir + "/closed/file", "x", 0644);
  write_file(dir + "/hidden/file", "x", 0644);
  must_be_zero(::chmod((dir + "/closed").c_str(), 0700), "chmod");
  must_be_zero(::mkfifo((dir + "/fifo").c_str(), 0666), "mkfifo");
  std::filesystem::create_symlink("secret", dir + "/link");
  {
    LiveSource source(must(host_rules(Owners::kReal, {dir + "/hidden"})), trees_.store());
    const std::string path = dir.substr(1);
    EXPECT_EQ(must(source.list(path)),
              sorted_names({{"link", EntryKind::kSymlink}, {"public", EntryKind::kFile}}));
    for (const char* name : {"secret", "group", "closed", "hidden", "hidden/file", "fifo"}) {
      EXPECT_FALSE(must(source.lookup(path + "/" + name))) << name;
    }
    EXPECT_TRUE(must(source.lookup(path + "/public")));
    must_be_zero(::chmod((dir + "/public").c_str(), 0600), "chmod");
    EXPECT_TRUE(is_moved(source, path + "/public"));
  }
  std::filesystem::remove_all(dir);
}

TEST_F(LiveSourceTest, HostHidesWhatIsNotASystem) {
  LiveSource source(must(host_rules(Owners::kReal, {})), trees_.store());
  for (const char* path :
       {"root", "home", "tmp", "proc", "sys", "dev", "run", "var/tmp", "var/cache", "etc/shadow"}) {
    EXPECT_FALSE(must(source.lookup(path))) << path;
  }
  EXPECT_TRUE(must(source.lookup("usr/bin")));
  EXPECT_TRUE(must(source.lookup("etc/passwd")));
  for (const DirEntry& item : must(source.list(""))) {
    const auto entry = must(source.lookup(item.name));
    ASSERT_TRUE(entry) << item.name;
    EXPECT_EQ(entry->entry.kind, item.kind) << item.name;
  }
}

TEST_F(LiveSourceTest, ManyThreadsPinOneState) {
  for (int i = 0; i < 30; ++i) write_file(at("d/" + std::to_string(i)), std::to_string(i));
  const auto source = trees_.image_source();
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 30; ++i) {
        const int n = (i + 7 * t) % 30;
        const std::string path = "d/" + std::to_string(n);
        const auto entry = source->lookup(path);
        const auto digest = n % 2 == 0 ? source->capture(path) : source->digest(path);
        if (!entry || !*entry || !digest || *digest != Digest::of(std::to_string(n))) ++failures;
        if (is_moved(*source, path)) ++failures;
        if (const auto names = source->list("d"); !names || names->size() != 30) ++failures;
        (void)source->take_learned();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace hm::fs
