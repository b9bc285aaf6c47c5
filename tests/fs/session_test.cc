// Sessions on a real /dev/fuse: system calls go in, exactly these observations come out.
#include "fs/session.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "fs/file_age.h"
#include "fuse_main.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

// A session on a view, its mount point, and the observations as they were reported.
class Mounted {
 public:
  Mounted(Trees& trees, View view, LookupProfile profile = {},
          PassthroughMode passthrough = PassthroughMode::kOff,
          const std::stop_source& abandon = Session::never_abandoned())
      : view_(std::move(view)), root_(trees.path("mnt")) {
    std::filesystem::create_directories(root_);
    const auto watcher = [this](const Observation& item) {
      const std::lock_guard lock(mutex_);
      watched_.push_back(std::string(to_string(item.kind)) + " " + item.path);
    };
    session_ = must(Session::start(view_, trees.store(), root_, watcher, std::move(profile),
                                   passthrough, abandon));
  }
  ~Mounted() { session_->stop(); }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;

  std::string operator/(const std::string& path) const { return root_ + "/" + path; }
  const std::string& root() const { return root_; }
  Session& session() { return *session_; }
  const View& view() const { return view_; }

  // "KIND PATH" of the trace, without the root's own probe, which every mount causes.
  std::vector<std::string> observations() {
    session_->stop();
    std::vector<std::string> out;
    for (const Observation& item : session_->trace().observations) {
      if (item.path.empty() && item.kind == ObservationKind::kProbe) continue;
      std::string text = std::string(to_string(item.kind)) + " " + item.path;
      if (item.value == "absent") text += " (absent)";
      out.push_back(std::move(text));
    }
    return out;
  }
  std::vector<std::string> watched() {
    const std::lock_guard lock(mutex_);
    return watched_;
  }

 private:
  View view_;
  std::string root_;
  std::mutex mutex_;  // guards watched_
  std::vector<std::string> watched_;
  std::unique_ptr<Session> session_;
};

using Lines = std::vector<std::string>;

Lines list_directory(const std::string& path) {
  Lines out;
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return {"error"};
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(name);
  }
  ::closedir(dir);
  return out;
}

int stat_errno(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0 ? 0 : errno;
}

class SessionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_mount()) GTEST_SKIP() << kCannotMount;
    write_file(trees_.image("d/one"), "1");
    write_file(trees_.image("d/two"), "22");
    write_file(trees_.image("d/sub/deep"), "deep");
    write_file(trees_.workspace("README"), "readme");
  }
  // A layer's file needs its blob.
  LayerEntry stored_file(const std::string& path, const std::string& text) {
    must(trees_.store().blobs().put(text));
    return file_entry(path, text);
  }
  Trees trees_;
};

TEST_F(SessionTest, NothingTouchedIsNothingObserved) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(mounted.observations(), Lines{});
}

TEST_F(SessionTest, StatIsAProbe) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(lstat_of(mounted / "d/one").st_size, 1);
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "probe d/one"}));
}

TEST_F(SessionTest, OpenWithoutReadIsAProbe) {
  Mounted mounted(trees_, trees_.view());
  must(open_file(mounted / "d/one", O_RDONLY));
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "probe d/one"}));
}

TEST_F(SessionTest, ReadIsContent) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(slurp(mounted / "d/two"), "22");
  EXPECT_EQ(slurp(mounted / "workspace/README"), "readme");
  EXPECT_EQ(mounted.observations(),
            (Lines{"probe d", "content d/two", "probe workspace", "content workspace/README"}));
}

TEST_F(SessionTest, ReaddirIsAListAndNothingMore) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(list_directory(mounted / "d"), (Lines{"one", "sub", "two"}));
  EXPECT_EQ(mounted.observations(), Lines{"list d"});
}

// A profile of these observations.
LookupProfile profile_of(std::initializer_list<std::pair<const char*, ObservationKind>> items) {
  Trace path_set;
  for (const auto& [path, kind] : items) path_set.observations.push_back({path, kind, ""});
  return LookupProfile(path_set);
}

TEST_F(SessionTest, ProfileOfAListedDirectoryIsServedAndRecorded) {
  Mounted mounted(trees_, trees_.view(),
                  profile_of({{"d", ObservationKind::kList},
                              {"d/none", ObservationKind::kProbe},
                              {"d/one", ObservationKind::kProbe},
                              {"d/sub", ObservationKind::kProbe},
                              {"workspace/README", ObservationKind::kContent}}));
  const Fd dir = must(open_file(mounted / "d", O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(list_directory(mounted / "d"), (Lines{"one", "sub", "two"}));
  EXPECT_EQ(list_directory(mounted / "workspace"), Lines{"README"});
  EXPECT_EQ(list_directory(mounted / "d"), (Lines{"one", "sub", "two"})) << "from the cache";
  EXPECT_EQ(mounted.observations(),
            (Lines{"list d", "probe d/one", "probe d/sub", "list workspace"}));
  EXPECT_EQ(mounted.watched(), (Lines{"probe d", "list d", "probe d/one", "probe d/sub",
                                      "probe workspace", "list workspace"}));
  struct stat st {};
  EXPECT_EQ(::fstatat(dir.get(), "one", &st, 0), 0) << "the kernel has it, without a server";
  EXPECT_EQ(st.st_size, 1);
  EXPECT_EQ(::fstatat(dir.get(), "sub", &st, 0), 0);
  EXPECT_TRUE(S_ISDIR(st.st_mode));
  EXPECT_NE(::fstatat(dir.get(), "two", &st, 0), 0) << "not pushed";
}

TEST_F(SessionTest, ProfileIsNotLookedAtWithoutAListing) {
  Mounted mounted(trees_, trees_.view(),
                  profile_of({{"d", ObservationKind::kList},
                              {"d/one", ObservationKind::kProbe},
                              {"d/two", ObservationKind::kProbe}}));
  EXPECT_EQ(slurp(mounted / "d/two"), "22");
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "content d/two"}));
}

TEST_F(SessionTest, LongDirectoriesWithAProfileAreListedWhole) {
  std::vector<LayerEntry> entries = {dir_entry("big")};
  Trace path_set;
  path_set.observations.push_back({"big", ObservationKind::kList, ""});
  Lines expected;
  Lines seen = {"list big"};
  for (int i = 0; i < 3000; ++i) {
    const std::string name = "name-" + std::to_string(10'000 + i);
    entries.push_back(dir_entry("big/" + name, 0700));
    expected.push_back(name);
    if (i % 3 != 0) continue;
    path_set.observations.push_back({"big/" + name, ObservationKind::kProbe, ""});
    seen.push_back("probe big/" + name);
  }
  Mounted mounted(trees_, trees_.view({view_layer(std::move(entries))}), LookupProfile(path_set));
  EXPECT_EQ(list_directory(mounted / "big"), expected);
  EXPECT_EQ(lstat_of(mounted / "big/name-10000").st_mode, static_cast<mode_t>(S_IFDIR | 0700));
  EXPECT_EQ(mounted.observations(), seen);
}

TEST_F(SessionTest, MissingNameIsAnAbsentProbe) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(stat_errno(mounted / "none"), ENOENT);
  EXPECT_EQ(stat_errno(mounted / "d/none"), ENOENT);
  EXPECT_EQ(stat_errno(mounted / "d/one/below"), ENOTDIR);
  EXPECT_EQ(stat_errno(mounted / ("d/" + std::string(256, 'x'))), ENAMETOOLONG);
  EXPECT_EQ(mounted.observations(),
            (Lines{"probe d", "probe d/none (absent)", "probe d/one", "probe none (absent)"}));
}

TEST_F(SessionTest, MissingNameInAListedDirectoryIsImplied) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(stat_errno(mounted / "d/none"), ENOENT);
  list_directory(mounted / "d");
  EXPECT_EQ(mounted.observations(), Lines{"list d"});
}

TEST_F(SessionTest, ValuesAreThoseOfTheView) {
  Mounted mounted(trees_,
                  trees_.view({view_layer({stored_file("f", "layer"), link_entry("l", "f")})}));
  slurp(mounted / "f");
  slurp(mounted / "d/one");
  list_directory(mounted / "d");
  stat_errno(mounted / "l");
  stat_errno(mounted / "none");
  mounted.session().stop();
  EXPECT_FALSE(mounted.session().failure());
  const Trace trace = mounted.session().trace();
  const Trace path_set = must(Trace::decode(trace.encode_path_set()));
  const Trace again = must(evaluate(mounted.view(), path_set));
  EXPECT_EQ(again.observations, trace.observations);
  EXPECT_EQ(again.order, trace.order);
}

TEST_F(SessionTest, ReadlinkAddsNothingToTheProbe) {
  std::filesystem::create_symlink("one", trees_.image("d/link"));
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(must(read_link_at(AT_FDCWD, mounted / "d/link")), "one");
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "probe d/link"}));
}

TEST_F(SessionTest, FollowedSymlinkObservesItsTarget) {
  std::filesystem::create_symlink("one", trees_.image("d/link"));
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(slurp(mounted / "d/link"), "1");
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "probe d/link", "content d/one"}));
}

TEST_F(SessionTest, TwoHardLinkedNamesAreTwoReads) {
  must(trees_.store().blobs().put("linked"));
  Mounted mounted(trees_, trees_.view({view_layer({grouped(file_entry("a", "linked"), "g"),
                                                   grouped(file_entry("b", "linked"), "g")})}));
  EXPECT_EQ(slurp(mounted / "a"), "linked");
  EXPECT_EQ(slurp(mounted / "b"), "linked");
  const struct stat a = lstat_of(mounted / "a");
  const struct stat b = lstat_of(mounted / "b");
  EXPECT_EQ(a.st_ino, b.st_ino);
  EXPECT_EQ(a.st_nlink, 2U);
  EXPECT_EQ(mounted.observations(), (Lines{"content a", "content b"}));
}

TEST_F(SessionTest, ImagesHardLinksAreFilesOfTheirOwn) {
  must_be_zero(::link(trees_.image("d/one").c_str(), trees_.image("d/three").c_str()), "link");
  Mounted mounted(trees_, trees_.view());
  EXPECT_NE(lstat_of(mounted / "d/one").st_ino, lstat_of(mounted / "d/three").st_ino);
  EXPECT_EQ(lstat_of(mounted / "d/one").st_nlink, 1U);
}

// What is in the kernel's caches stays readable when there is no server any more; anything that
// would have been a request fails.
TEST_F(SessionTest, RepeatsCostNoRequest) {
  Mounted mounted(trees_, trees_.view());
  const Fd dir = must(open_file(mounted / "d", O_RDONLY | O_DIRECTORY));
  const Fd file = must(open_at(dir.get(), "two", O_RDONLY));
  EXPECT_EQ(must(read_all(file.get())), "22");
  struct stat st {};
  EXPECT_NE(::fstatat(dir.get(), "none", &st, 0), 0);
  mounted.session().stop();
  char buffer[8];
  EXPECT_EQ(::pread(file.get(), buffer, sizeof buffer, 0), 2) << "page cache";
  EXPECT_EQ(::fstatat(dir.get(), "two", &st, 0), 0) << "entry and attributes";
  EXPECT_NE(::fstatat(dir.get(), "none", &st, 0), 0);
  EXPECT_EQ(errno, ENOENT) << "negative entry";
  const auto again = open_at(dir.get(), "two", O_RDONLY);
  ASSERT_TRUE(again) << "open is free";
  EXPECT_EQ(::pread(again->get(), buffer, sizeof buffer, 0), 2);
  EXPECT_NE(::fstatat(dir.get(), "one", &st, 0), 0) << "the server is really gone";
  EXPECT_NE(errno, ENOENT);
}

TEST_F(SessionTest, EveryObservationIsReportedOnce) {
  Mounted mounted(trees_, trees_.view());
  for (int i = 0; i < 3; ++i) {
    slurp(mounted / "d/two");
    list_directory(mounted / "d");
    stat_errno(mounted / "none");
  }
  mounted.session().stop();
  EXPECT_EQ(mounted.watched(),
            (Lines{"probe d", "probe d/two", "content d/two", "list d", "probe none"}));
}

TEST_F(SessionTest, AttributesAreServed) {
  LayerEntry item = stored_file("f", "12345");
  item.entry.mode = 04751;
  item.entry.uid = 12;
  item.entry.gid = 34;
  item.mtime_ns = 1'600'000'000'123'456'789;
  Mounted mounted(trees_,
                  trees_.view({view_layer({item, dir_entry("dd", 0711), link_entry("l", "abc")})}));
  const struct stat st = lstat_of(mounted / "f");
  EXPECT_EQ(st.st_mode, static_cast<mode_t>(S_IFREG | 04751));
  EXPECT_EQ(st.st_size, 5);
  EXPECT_EQ(st.st_nlink, 1U);
  EXPECT_EQ(to_ns(st.st_mtim), 1'600'000'000'123'456'789);
  if (::geteuid() == 0 && ::access("/proc/1/root", R_OK) == 0) {
    EXPECT_EQ(st.st_uid, 12U);
    EXPECT_EQ(st.st_gid, 34U);
  }
  EXPECT_EQ(lstat_of(mounted / "dd").st_mode, static_cast<mode_t>(S_IFDIR | 0711));
  EXPECT_EQ(to_ns(lstat_of(mounted / "dd").st_mtim), kFixedTimeNs);
  EXPECT_EQ(lstat_of(mounted / "dd").st_nlink, 1U);
  EXPECT_EQ(lstat_of(mounted / "l").st_size, 3);
}

TEST_F(SessionTest, IsReadOnly) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_FALSE(open_file(mounted / "d/new", O_WRONLY | O_CREAT, 0600));
  EXPECT_FALSE(open_file(mounted / "d/one", O_WRONLY));
  EXPECT_NE(::unlink((mounted / "d/one").c_str()), 0);
  EXPECT_EQ(slurp(trees_.image("d/one")), "1");
}

TEST_F(SessionTest, Xattrs) {
  LayerEntry item = stored_file("f", "x");
  item.entry.xattrs = {
      {"user.a", "value"}, {"user.empty", ""}, {"user.overlay.mine", "step's own"}};
  Mounted mounted(trees_, trees_.view({view_layer({item, stored_file("plain", "y")})}));
  char buffer[256] = {};
  const auto get = [&](const char* file, const char* name) -> std::string {
    const ssize_t n = ::getxattr((mounted / file).c_str(), name, buffer, sizeof buffer);
    return n < 0 ? "errno " + std::to_string(errno)
                 : std::string(buffer, static_cast<std::size_t>(n));
  };
  EXPECT_EQ(get("f", "user.a"), "value");
  EXPECT_EQ(get("f", "user.empty"), "");
  EXPECT_EQ(get("f", "user.none"), "errno " + std::to_string(ENODATA));
  EXPECT_EQ(get("plain", "user.a"), "errno " + std::to_string(EOPNOTSUPP));
  EXPECT_EQ(get("plain", "system.posix_acl_access"), "errno " + std::to_string(ENODATA));
  EXPECT_EQ(get("f", "user.overlay.mine"), "errno " + std::to_string(ENODATA))
      << "overlayfs would obey it";
  EXPECT_EQ(get("f", "user.overlay.overlay.mine"), "step's own");
  EXPECT_EQ(::getxattr((mounted / "f").c_str(), "user.a", buffer, 2), -1);
  EXPECT_EQ(errno, ERANGE);
  const ssize_t size = ::listxattr((mounted / "f").c_str(), buffer, sizeof buffer);
  ASSERT_GT(size, 0);
  EXPECT_EQ(
      std::string(buffer, static_cast<std::size_t>(size)),
      std::string("user.a\0user.empty\0user.overlay.overlay.mine", 43) + std::string(1, char{0}));
  EXPECT_EQ(mounted.observations(), (Lines{"probe f", "probe plain"}));
}

// What the last execution saw: none of it had attributes.
LookupProfile plain_profile() {
  Trace trace;
  trace.observations = {{"f", ObservationKind::kProbe, "file mode=644 owner=0:0 size=1"}};
  return LookupProfile(trace);
}

LayerEntry file_with_xattr(const std::string& path) {
  LayerEntry item = file_entry(path, "x");
  item.entry.xattrs = {{"user.a", "value"}};
  return item;
}

int getxattr_errno(const std::string& path, const char* name) {
  char buffer[64];
  return ::getxattr(path.c_str(), name, buffer, sizeof buffer) < 0 ? errno : 0;
}

TEST_F(SessionTest, ProfilesSayWhetherXattrsWereMet) {
  EXPECT_TRUE(plain_profile().expects_no_xattrs());
  EXPECT_FALSE(LookupProfile().expects_no_xattrs());
  Trace trace;
  trace.observations = {{"f", ObservationKind::kProbe, ""}};
  EXPECT_FALSE(LookupProfile(trace).expects_no_xattrs()) << "a path set has no values";
  trace.observations = {{"f", ObservationKind::kProbe, probe_text(file_with_xattr("f").entry)},
                        {"g", ObservationKind::kProbe, "absent"}};
  EXPECT_FALSE(LookupProfile(trace).expects_no_xattrs());
}

TEST_F(SessionTest, XattrsAgainstTheProfileAbandonTheStep) {
  std::stop_source abandon;
  Mounted mounted(trees_,
                  trees_.view({view_layer({file_with_xattr("f"), file_entry("plain", "y")})}),
                  plain_profile(), PassthroughMode::kOff, abandon);
  EXPECT_EQ(getxattr_errno(mounted / "plain", "user.a"), EOPNOTSUPP);
  EXPECT_FALSE(mounted.session().failure());
  EXPECT_FALSE(abandon.stop_requested());
  EXPECT_EQ(stat_errno(mounted / "f"), EIO) << "not one without its attributes";
  EXPECT_TRUE(abandon.stop_requested());
  const auto failure = mounted.session().failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, SessionFailure::Kind::kAttributes);
  EXPECT_EQ(failure->path, "/f");
}

TEST_F(SessionTest, XattrsThatAreMetFirstAreServedInSpiteOfTheProfile) {
  Mounted mounted(trees_,
                  trees_.view({view_layer({file_with_xattr("f"), file_entry("plain", "y")})}),
                  plain_profile());
  EXPECT_EQ(getxattr_errno(mounted / "f", "user.a"), 0);
  EXPECT_EQ(getxattr_errno(mounted / "plain", "user.a"), EOPNOTSUPP);
  EXPECT_EQ(getxattr_errno(mounted / "f", "user.none"), ENODATA);
  EXPECT_FALSE(mounted.session().failure());
}

// The kernel stops asking in a view without attributes. A file's answers must not tell.
TEST_F(SessionTest, FilesWithoutXattrsAnswerAlikeInEveryView) {
  LayerEntry other = stored_file("other", "x");
  other.entry.xattrs = {{"user.a", "value"}};
  const LayerEntry plain = stored_file("plain", "y");
  const auto answers = [](const std::string& file) {
    std::vector<int> out;
    for (const char* name : {"user.a", "security.capability", "system.posix_acl_access"}) {
      for (int again = 0; again < 2; ++again) {
        out.push_back(::getxattr(file.c_str(), name, nullptr, 0) < 0 ? errno : 0);
      }
    }
    out.push_back(::listxattr(file.c_str(), nullptr, 0) < 0 ? errno : 0);
    return out;
  };
  ViewBase no_xattrs = {nullptr, trees_.workspace_source()};
  Mounted without(trees_, View(no_xattrs, {view_layer({plain})}, 0));
  const auto expected = answers(without / "plain");
  EXPECT_FALSE(without.view().may_have_xattrs());
  without.session().stop();
  Mounted with(trees_, View(no_xattrs, {view_layer({plain, other})}, 0));
  EXPECT_EQ(answers(with / "plain"), expected);
}

TEST_F(SessionTest, LargeFilesAreReadRightAnywhere) {
  Random random(9);
  std::string text(3'500'000, '\0');
  for (char& c : text) c = static_cast<char>(random.number());
  write_file(trees_.image("large"), text);
  Mounted mounted(trees_, trees_.view({view_layer({stored_file("layered", text)})}));
  for (const char* name : {"large", "layered"}) {
    const Fd fd = must(open_file(mounted / name, O_RDONLY));
    std::string buffer(200'000, '\0');
    for (int i = 0; i < 60; ++i) {
      const std::size_t offset = random.below(text.size() + 1000);
      const std::size_t wanted = random.below(buffer.size());
      const ssize_t n = ::pread(fd.get(), buffer.data(), wanted, static_cast<off_t>(offset));
      const std::string_view expected = offset >= text.size()
                                            ? std::string_view{}
                                            : std::string_view(text).substr(offset, wanted);
      ASSERT_EQ(n, static_cast<ssize_t>(expected.size()));
      ASSERT_EQ(std::string_view(buffer).substr(0, expected.size()), expected) << offset;
    }
    EXPECT_EQ(slurp(mounted / name), text);
  }
}

TEST_F(SessionTest, MmapIsARead) {
  const std::string text(300'000, 'm');
  write_file(trees_.image("mapped"), text);
  Mounted mounted(trees_, trees_.view());
  const Fd fd = must(open_file(mounted / "mapped", O_RDONLY));
  void* map = ::mmap(nullptr, text.size(), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(std::string_view(static_cast<const char*>(map), text.size()), text);
  ::munmap(map, text.size());
  EXPECT_EQ(mounted.observations(), Lines{"content mapped"});
}

TEST_F(SessionTest, EmptyFilesReadEmpty) {
  write_file(trees_.image("empty"), "");
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(slurp(mounted / "empty"), "");
  const Lines seen = mounted.observations();
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_TRUE(seen[0] == "probe empty" || seen[0] == "content empty") << "the size says it all";
}

TEST_F(SessionTest, LongDirectoriesAreListedWhole) {
  std::vector<LayerEntry> entries = {dir_entry("big")};
  Lines expected;
  for (int i = 0; i < 5000; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "a-rather-long-name-%05d", i);
    entries.push_back(dir_entry("big/" + std::string(name)));
    expected.emplace_back(name);
  }
  Mounted mounted(trees_, trees_.view({view_layer(std::move(entries))}));
  EXPECT_EQ(list_directory(mounted / "big"), expected) << "sorted, each once";
  EXPECT_EQ(mounted.observations(), Lines{"list big"});
}

TEST_F(SessionTest, ParallelReaders) {
  for (int i = 0; i < 100; ++i)
    write_file(trees_.image("p/" + std::to_string(i)),
               std::string(5000, static_cast<char>('a' + i % 26)));
  Mounted mounted(trees_, trees_.view());
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const int n = (i * 7 + t * 13) % 100;
        const auto text = read_file(mounted / ("p/" + std::to_string(n)));
        if (!text || *text != std::string(5000, static_cast<char>('a' + n % 26))) ++failures;
        if (stat_errno(mounted / ("p/none" + std::to_string(n))) != ENOENT) ++failures;
        if (i % 25 == 0 && list_directory(mounted / "p").size() != 100) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(mounted.observations().size(), 101U) << "list p and 100 contents";
  EXPECT_FALSE(mounted.session().failure());
}

TEST_F(SessionTest, ObserveRecordsWithoutTheKernel) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_TRUE(must(mounted.session().observe("d/one", ObservationKind::kContent)));
  EXPECT_FALSE(must(mounted.session().observe("d/none", ObservationKind::kContent)));
  EXPECT_FALSE(must(mounted.session().observe("none/below", ObservationKind::kProbe)));
  EXPECT_TRUE(must(mounted.session().observe("d/sub", ObservationKind::kList)));
  EXPECT_TRUE(must(mounted.session().observe("d/two", ObservationKind::kList)))
      << "a kind that does not fit: a probe";
  EXPECT_EQ(mounted.observations(), (Lines{"probe d", "probe d/none (absent)", "content d/one",
                                           "list d/sub", "probe d/two", "probe none (absent)"}));
}

TEST_F(SessionTest, MissingBlobIsAFailureOfTheStore) {
  Mounted mounted(trees_, trees_.view({view_layer({file_entry("gone", "never stored")})}));
  EXPECT_EQ(stat_errno(mounted / "gone"), 0);
  EXPECT_FALSE(mounted.session().failure());
  EXPECT_FALSE(read_file(mounted / "gone"));
  const auto failure = mounted.session().failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, SessionFailure::Kind::kStore);
  EXPECT_EQ(failure->path, "/gone");
}

TEST_F(SessionTest, BlobOfTheWrongSizeIsAFailureOfTheStore) {
  LayerEntry item = stored_file("short", "12345");
  item.entry.size = 6;
  Mounted mounted(trees_, trees_.view({view_layer({item})}));
  EXPECT_FALSE(read_file(mounted / "short"));
  ASSERT_TRUE(mounted.session().failure());
  EXPECT_EQ(mounted.session().failure()->kind, SessionFailure::Kind::kStore);
}

TEST_F(SessionTest, FileThatChangesUnderTheCaptureHasMoved) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(stat_errno(mounted / "workspace/README"), 0);
  write_file(trees_.workspace("README"), "rEadme");
  EXPECT_FALSE(read_file(mounted / "workspace/README"));
  const auto failure = mounted.session().failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, SessionFailure::Kind::kMoved);
  EXPECT_EQ(failure->path, "/workspace/README");
}

TEST_F(SessionTest, ReadFileStaysAsItWas) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(slurp(mounted / "workspace/README"), "readme");
  write_file(trees_.workspace("README"), "something else");
  std::filesystem::remove(trees_.image("d/two"));
  EXPECT_EQ(slurp(mounted / "workspace/README"), "readme");
  EXPECT_FALSE(mounted.session().failure());
}

// The kernel asks again for what it dropped from its cache.
TEST_F(SessionTest, SmallLiveFileIsReadAgainOnlyAsItWas) {
  write_file(trees_.workspace("other"), "other");
  Mounted mounted(trees_, trees_.view());
  const Fd fd = must(open_file(mounted / "workspace/README", O_RDONLY));
  const Fd other = must(open_file(mounted / "workspace/other", O_RDONLY));
  const auto read_uncached = [](const Fd& file) {
    must_be_zero(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    char buffer[64];
    return ::pread(file.get(), buffer, sizeof buffer, 0);
  };
  // The session holds the small file that it read last.
  const auto read_again = [&] {
    EXPECT_GT(read_uncached(other), 0);
    return read_uncached(fd);
  };
  EXPECT_EQ(read_uncached(fd), 6);
  EXPECT_FALSE(trees_.store().blobs().has(Digest::of("readme"), 6)) << "no copy";
  set_mtime(trees_.workspace("README"), 12345);
  EXPECT_EQ(read_again(), 6) << "only touched";
  write_file(trees_.workspace("README"), "rEadme");
  EXPECT_EQ(read_uncached(fd), 6) << "as it was read";
  EXPECT_EQ(read_again(), -1);
  const auto failure = mounted.session().failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, SessionFailure::Kind::kMoved);
  EXPECT_EQ(mounted.observations(),
            (Lines{"probe workspace", "content workspace/README", "content workspace/other"}));
}

TEST_F(SessionTest, StopUnmountsAndMayBeCalledAgain) {
  Mounted mounted(trees_, trees_.view());
  EXPECT_EQ(stat_errno(mounted / "d"), 0);
  mounted.session().stop();
  EXPECT_EQ(stat_errno(mounted / "d"), ENOENT) << "the empty directory beneath";
  mounted.session().stop();
}

TEST_F(SessionTest, RemoveTreeStopsAtAMountPoint) {
  const test::TempDir dir;
  test::write_file(dir / "volume/precious", "kept");
  test::write_file(dir / "tree/mnt/.keep", "");
  ASSERT_EQ(
      ::mount((dir / "volume").c_str(), (dir / "tree/mnt").c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_FALSE(remove_tree(AT_FDCWD, dir / "tree"));
  ::umount2((dir / "tree/mnt").c_str(), MNT_DETACH);
  EXPECT_TRUE(std::filesystem::exists(dir / "volume/precious"));
}

// A link group showed where its layer is in the chain: more than any observation says.
TEST_F(SessionTest, InodeNumberDoesNotDependOnLayersBelow) {
  const auto pair =
      view_layer({grouped(file_entry("x", "x"), "g"), grouped(file_entry("y", "x"), "g")});
  const auto inode = [&](std::vector<ViewLayer> layers) {
    Mounted mounted(trees_, trees_.view(std::move(layers)));
    EXPECT_EQ(lstat_of(mounted / "x").st_ino, lstat_of(mounted / "y").st_ino);
    return lstat_of(mounted / "x").st_ino;
  };
  EXPECT_EQ(inode({pair}), inode({view_layer({file_entry("z", "z")}), pair}));
}

TEST_F(SessionTest, LinkGroupsOfOneNameInTwoLayersAreTwoFiles) {
  Mounted mounted(
      trees_,
      trees_.view(
          {view_layer({grouped(file_entry("x", "1"), "g"), grouped(file_entry("y", "1"), "g")}),
           view_layer({grouped(file_entry("x", "1"), "g"), grouped(file_entry("z", "1"), "g")})}));
  EXPECT_EQ(lstat_of(mounted / "x").st_ino, lstat_of(mounted / "z").st_ino);
  EXPECT_NE(lstat_of(mounted / "x").st_ino, lstat_of(mounted / "y").st_ino);
}

// The kernel fills a page that comes short with zeros, and the step would go on.
TEST_F(SessionTest, BlobThatIsCutShortWhileReadIsAFailure) {
  const std::string text(std::size_t{8} << 20, 'b');
  Mounted mounted(trees_, trees_.view({view_layer({stored_file("big", text)})}));
  const Fd fd = must(open_file(mounted / "big", O_RDONLY));
  char byte = 0;
  ASSERT_EQ(::pread(fd.get(), &byte, 1, 0), 1);
  const std::string hex = Digest::of(text).hex();
  const std::string blob = trees_.path("store/blobs/" + hex.substr(0, 2) + "/" + hex);
  must_be_zero(::chmod(blob.c_str(), 0600), "chmod");
  must_be_zero(::truncate(blob.c_str(), 1000), "truncate");
  EXPECT_EQ(::pread(fd.get(), &byte, 1, off_t{6} << 20), -1);
  mounted.session().stop();
  const auto failure = mounted.session().failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, SessionFailure::Kind::kStore);
}

bool has_blob(Trees& trees, std::string_view text) {
  return trees.store().blobs().size(Digest::of(text)).has_value();
}

// Has the store remember other bytes of a file than there are.
void remember_wrong_digest(Trees& trees, const std::string& path) {
  const auto source = trees.image_source();
  must(source->digest(path));
  store::Batch batch;
  batch.files = source->take_learned();
  ASSERT_EQ(batch.files.size(), 1U);
  batch.files[0].digest = Digest::of("other bytes");
  trees.store().submit(std::move(batch));
  must(trees.store().flush());
  ASSERT_EQ(must(trees.image_source()->digest(path)), Digest::of("other bytes"));
}

// Files that have rested are served from where they are, others from a copy.
TEST_F(SessionTest, LargeLiveFiles) {
  std::string large(6'000'000, 'l');
  std::string middle(400'000, 'm');
  for (const char* name : {"large", "changed", "known"}) write_file(trees_.image(name), large);
  write_file(trees_.image("middle"), middle);
  std::this_thread::sleep_for(std::chrono::nanoseconds(kTrustedAgeNs) + std::chrono::seconds(1));
  const std::string young(500'000, 'y');
  write_file(trees_.image("young"), young);
  if (!must(trees_.image_source()->open_resting("large"))) {
    GTEST_SKIP() << "stamps prove nothing on this filesystem (it takes ext4, xfs, btrfs or f2fs)";
  }
  {
    Mounted mounted(trees_, trees_.view());
    EXPECT_EQ(slurp(mounted / "large"), large);
    EXPECT_EQ(slurp(mounted / "middle"), middle);
    EXPECT_EQ(slurp(mounted / "young"), young);
    EXPECT_EQ(mounted.observations(), (Lines{"content large", "content middle", "content young"}));
    EXPECT_FALSE(mounted.session().failure());
    const Trace trace = mounted.session().trace();
    for (const auto& file : {std::pair("large", large), std::pair("middle", middle)}) {
      const std::string wanted = " sha256=" + Digest::of(file.second).hex();
      EXPECT_TRUE(std::any_of(trace.observations.begin(), trace.observations.end(),
                              [&](const Observation& item) {
                                return item.path == file.first && item.value.ends_with(wanted);
                              }))
          << file.first;
      EXPECT_FALSE(has_blob(trees_, file.second)) << file.first << " was copied";
    }
    EXPECT_TRUE(has_blob(trees_, young));
  }
  // The digest on record is that of the bytes served, whatever was known of the file.
  for (const char* name : {"middle", "known"}) {
    remember_wrong_digest(trees_, name);
    Mounted mounted(trees_, trees_.view());
    std::ifstream(mounted / name).get();
    mounted.session().stop();
    ASSERT_TRUE(mounted.session().failure()) << name;
    EXPECT_EQ(mounted.session().failure()->kind, SessionFailure::Kind::kMoved);
    EXPECT_NE(must(trees_.image_source()->digest(name)), Digest::of("other bytes"))
        << "it is remembered no longer";
  }
  Mounted mounted(trees_, trees_.view());
  const Fd fd = must(open_file(mounted / "changed", O_RDONLY));
  char byte = 0;
  ASSERT_EQ(::pread(fd.get(), &byte, 1, 0), 1);
  const Fd writer = must(open_file(trees_.image("changed"), O_WRONLY));
  ASSERT_EQ(::pwrite(writer.get(), "X", 1, 5'000'000), 1);
  EXPECT_EQ(::pread(fd.get(), &byte, 1, 5'000'000), -1) << "what was hashed is something else";
  mounted.session().stop();
  ASSERT_TRUE(mounted.session().failure());
  EXPECT_EQ(mounted.session().failure()->kind, SessionFailure::Kind::kMoved);
}

// Why this machine can't pass reads through, or "".
std::string no_passthrough(Trees& trees) {
  const View view({}, {}, 0);
  const std::string mnt = trees.path("probe");
  std::filesystem::create_directories(mnt);
  const auto session = Session::start(view, trees.store(), mnt, {}, {}, PassthroughMode::kRequire);
  return session ? "" : session.error().message;
}

TEST_F(SessionTest, PassthroughReadsTheBlobItself) {
  if (const std::string why = no_passthrough(trees_); !why.empty()) GTEST_SKIP() << why;
  std::string text(3'000'000, 'p');
  text.replace(2'000'000, 4, "here");
  write_file(trees_.image("live"), text);
  const std::string other(2'000'000, 'o');
  Mounted mounted(trees_,
                  trees_.view({view_layer({stored_file("stored", other), stored_file("s", "small"),
                                           stored_file("t", "tiny")})}),
                  {}, PassthroughMode::kRequire);
  EXPECT_EQ(slurp(mounted / "live"), text);
  const Fd first = must(open_file(mounted / "stored", O_RDONLY));
  const Fd second = must(open_file(mounted / "stored", O_RDONLY));
  EXPECT_EQ(slurp(mounted / "stored"), other);
  EXPECT_EQ(slurp(mounted / "s"), "small");
  must(open_file(mounted / "t", O_RDONLY));

  // Nobody but the kernel could know what the blob says now.
  const std::string hex = Digest::of(other).hex();
  const std::string blob = trees_.path("store/blobs/" + hex.substr(0, 2) + "/" + hex);
  must_be_zero(::chmod(blob.c_str(), 0600), "chmod");
  const Fd behind = must(open_file(blob, O_WRONLY));
  ASSERT_EQ(::pwrite(behind.get(), "X", 1, 1'500'000), 1);
  for (const Fd* fd : {&first, &second}) {
    char byte = 0;
    ASSERT_EQ(::pread(fd->get(), &byte, 1, 1'500'000), 1);
    EXPECT_EQ(byte, 'X');
  }
  void* map = ::mmap(nullptr, other.size(), PROT_READ, MAP_PRIVATE, first.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(static_cast<const char*>(map)[1'500'000], 'X');
  ::munmap(map, other.size());
  EXPECT_EQ(mounted.observations(),
            (Lines{"content live", "content s", "content stored", "probe t"}))
      << "the OPEN of a large file is its observation";
}

TEST_F(SessionTest, PassthroughOfAMissingBlobIsAFailureOfTheStore) {
  if (const std::string why = no_passthrough(trees_); !why.empty()) GTEST_SKIP() << why;
  LayerEntry item = file_entry("gone", std::string(2'000'000, 'g'));
  Mounted mounted(trees_, trees_.view({view_layer({item})}), {}, PassthroughMode::kAuto);
  EXPECT_FALSE(read_file(mounted / "gone"));
  ASSERT_TRUE(mounted.session().failure());
  EXPECT_EQ(mounted.session().failure()->kind, SessionFailure::Kind::kStore);
}

TEST(Passthrough, IsOffUntilItIsSettled) {
  Passthrough off(PassthroughMode::kOff);
  EXPECT_FALSE(off.answers_open());
  Passthrough wanted(PassthroughMode::kAuto);
  EXPECT_TRUE(wanted.answers_open());
  const Fd null = must(open_file("/dev/null", O_RDONLY));
  EXPECT_FALSE(wanted.backing(1, null.get(), null)) << "nothing was accepted yet";
  const auto settled = wanted.settle(null.get(), null);
  ASSERT_FALSE(settled) << "no INIT offered it";
  EXPECT_EQ(settled.error().code, ErrorCode::kRefused);
  EXPECT_FALSE(wanted.answers_open());
  EXPECT_FALSE(parse_passthrough("on"));
}

}  // namespace
}  // namespace hm::fs
