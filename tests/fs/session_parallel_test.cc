// Two sessions that share their live sources, as parallel steps do, under many readers and an
// editor: what is observed is what one reader alone would observe. Built under sanitizers, too.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "fs/session.h"
#include "fs/trace.h"
#include "fuse_main.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

constexpr std::size_t kReaders = 8;
constexpr std::size_t kLooks = 1500;  // by each reader
constexpr std::size_t kFiles = 40;    // in each directory
constexpr const char* kEdited = "workspace/edited";

// Every way of looking at a name. What comes back is not judged: the trace is.
using Look = void (*)(const std::string&);
void look_stat(const std::string& path) {
  struct stat st {};
  (void)::lstat(path.c_str(), &st);
}
void look_read(const std::string& path) { (void)read_file(path); }
void look_list(const std::string& path) {
  if (DIR* dir = ::opendir(path.c_str())) {
    while (::readdir(dir) != nullptr) {
    }
    ::closedir(dir);
  }
}
void look_link(const std::string& path) { (void)read_link_at(AT_FDCWD, path); }
void look_xattr(const std::string& path) {
  char value[64];
  (void)::lgetxattr(path.c_str(), "user.note", value, sizeof value);
  (void)::llistxattr(path.c_str(), value, sizeof value);
}
constexpr Look kLookKinds[] = {look_stat, look_read, look_list, look_link, look_xattr};

struct Seen {
  std::size_t kind;
  std::string path;
  auto operator<=>(const Seen&) const = default;
};
using Looks = std::set<Seen>;

class SessionParallelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_mount()) GTEST_SKIP() << kCannotMount;
    for (const char* dir : {"usr", "usr/lib"}) fill(trees_.image(dir), dir);
    for (const char* dir : {"src", "edited"}) {
      fill(trees_.workspace(dir), std::string("workspace/") + dir);
    }
    (void)::setxattr(trees_.image("usr/f1").c_str(), "user.note", "x", 1, 0);
    for (const char* path : {"", "usr/none", "none", "workspace/src/none", "workspace/out",
                             "workspace/out/new", "workspace/src/f2", "usr/lib/made"}) {
      names_.emplace_back(path);
    }
  }
  // kFiles files and links, an empty file, a file of several READs.
  void fill(const std::string& dir, const std::string& as) {
    names_.push_back(as);
    for (std::size_t i = 0; i < kFiles; ++i) {
      const std::string name = "/f" + std::to_string(i);
      write_file(dir + name, std::string(i * 37, 'x'));
      std::filesystem::create_symlink("f" + std::to_string(i), dir + "/l" + std::to_string(i));
      names_.push_back(as + name);
      names_.push_back(as + "/l" + std::to_string(i));
    }
    write_file(dir + "/big", std::string(std::size_t{3} << 20, 'b'));
    names_.push_back(as + "/big");
  }
  // A file of its own, one over the workspace's, one removed, an opaque directory.
  std::vector<ViewLayer> layers() {
    must(trees_.store().blobs().put("made"));
    std::vector<ViewLayer> out;
    out.push_back(view_layer({dir_entry("usr"), dir_entry("usr/lib"),
                              file_entry("usr/lib/made", "made"), whiteout_entry("usr/lib/f3")}));
    out.push_back(view_layer({dir_entry("workspace"), opaque_entry("workspace/out"),
                              file_entry("workspace/out/new", "made"), dir_entry("workspace/src"),
                              file_entry("workspace/src/f2", "made")}));
    return out;
  }
  std::unique_ptr<Session> mounted(const View& view, const std::string& at) {
    std::filesystem::create_directories(trees_.path(at));
    return must(Session::start(view, trees_.store(), trees_.path(at), {}));
  }

  // Random looks of one reader below `root`, and which.
  Looks read_at_random(const std::string& root, std::uint64_t seed) const {
    Random random(seed);
    Looks seen;
    for (std::size_t i = 0; i < kLooks; ++i) {
      const Seen look{random.below(std::size(kLookKinds)), random.pick(names_)};
      kLookKinds[look.kind](root + "/" + look.path);
      seen.insert(look);
    }
    return seen;
  }
  // Writes, replaces, removes and makes the files of the edited directory until told to stop.
  void edit(const std::atomic<bool>& over) const {
    Random random(7);
    while (!over) {
      const std::string path = trees_.workspace("edited/f" + std::to_string(random.below(kFiles)));
      if (random.chance(30)) {
        std::filesystem::remove(path);
      } else if (random.chance(50)) {
        write_file(path, std::string(random.below(5000), 'e'));
      } else {
        write_file(trees_.workspace("edited/new"), "replaced");
        std::filesystem::rename(trees_.workspace("edited/new"), path);
      }
    }
  }

  // The observations outside of the edited directory, as text.
  static std::map<std::string, std::string> steady(Trace trace) {
    std::map<std::string, std::string> out;
    for (const Observation& item : trace.observations) {
      if (is_within(item.path, kEdited)) continue;
      out[item.path] = std::string(to_string(item.kind)) + " " + item.value;
    }
    return out;
  }
  std::map<std::string, std::string> alone(const Looks& looks) {
    const View view = trees_.view(layers());
    const auto session = mounted(view, "alone");
    for (const Seen& look : looks) kLookKinds[look.kind](trees_.path("alone/") + look.path);
    session->stop();
    return steady(session->trace());
  }

  Trees trees_;
  std::vector<std::string> names_;  // as a step names them
};

TEST_F(SessionParallelTest, ManyReadersObserveWhatOneWould) {
  const ViewBase base{trees_.image_source(), trees_.workspace_source()};
  const View views[] = {{base, layers(), now_ns()}, {base, layers(), now_ns()}};
  const std::unique_ptr<Session> sessions[] = {mounted(views[0], "mnt0"),
                                               mounted(views[1], "mnt1")};
  std::vector<Looks> seen(kReaders);
  std::atomic<bool> over{false};
  std::thread editor([&] { edit(over); });
  std::vector<std::thread> readers;
  for (std::size_t i = 0; i < kReaders; ++i) {
    readers.emplace_back(
        [&, i] { seen[i] = read_at_random(trees_.path("mnt" + std::to_string(i % 2)), 1000 + i); });
  }
  for (std::thread& reader : readers) reader.join();
  over = true;
  editor.join();
  for (std::size_t i = 0; i < std::size(sessions); ++i) {
    sessions[i]->stop();
    if (const auto failure = sessions[i]->failure()) {
      EXPECT_EQ(failure->kind, SessionFailure::Kind::kMoved) << failure->path << failure->reason;
      EXPECT_TRUE(failure->path.starts_with(std::string("/") + kEdited)) << failure->path;
    }
    Looks all;
    for (std::size_t reader = i; reader < kReaders; reader += 2) all.merge(seen[reader]);
    const Trace trace = sessions[i]->trace();
    EXPECT_EQ(steady(trace), alone(all));
    // And the view's own function says the same of every path.
    EXPECT_EQ(steady(must(evaluate(views[i], trace))), steady(trace));
  }
}

}  // namespace
}  // namespace hm::fs
