// on_change: globs on the step's own view become ordinary observations.
#include <gtest/gtest.h>

#include <cstdio>

#include "fuse_main.h"
#include "runner/backend.h"
#include "test_support.h"

namespace hm::runner {
namespace {

using namespace test;  // NOLINT: a test file
using Lines = std::vector<std::string>;

class DeclaredInputs : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_mount()) GTEST_SKIP() << kCannotMount;
    for (const char* path : {"a.c", "b.c", "b.h", ".hidden.c", "src/x.c", "src/deep/y.c",
                             "src/deep/z.h", "docs/readme"}) {
      write_file(trees_.workspace(path), path);
    }
  }
  // The observations below /workspace, and the warnings with "! " in front.
  Lines observe(const std::vector<std::string>& patterns) {
    const fs::View view = trees_.view();
    std::filesystem::create_directories(trees_.path("mnt"));
    const auto session = must(fs::Session::start(view, trees_.store(), trees_.path("mnt"), {}));
    const auto warnings = must(observe_declared(*session, view, patterns));
    session->stop();
    Lines out;
    for (const fs::Observation& item : session->trace().observations) {
      if (!item.path.starts_with("workspace/")) continue;
      out.push_back(std::string(to_string(item.kind)) + " " + item.path.substr(10) +
                    (item.value == "absent" ? " (absent)" : ""));
    }
    for (const std::string& warning : warnings) out.push_back("! " + warning);
    return out;
  }
  Trees trees_;
};

TEST_F(DeclaredInputs, LiteralFileIsItsContent) {
  EXPECT_EQ(observe({"a.c"}), Lines{"content a.c"});
  EXPECT_EQ(observe({"src/./deep//y.c"}),
            (Lines{"probe src", "probe src/deep", "content src/deep/y.c"}));
}

TEST_F(DeclaredInputs, LiteralDirectoryIsItsListing) {
  EXPECT_EQ(observe({"src/deep"}), (Lines{"probe src", "list src/deep"}));
}

TEST_F(DeclaredInputs, MissingPathIsObservedAbsentWithAWarning) {
  EXPECT_EQ(observe({"none"}), (Lines{"probe none (absent)", "! on_change: no such path: none"}));
  EXPECT_EQ(observe({"none/below"}),
            (Lines{"probe none (absent)", "! on_change: no such path: none/below"}));
}

TEST_F(DeclaredInputs, StarsStayWithinANameAndSkipHiddenOnes) {
  EXPECT_EQ(observe({"*.c"}), (Lines{"content a.c", "content b.c"}));
  EXPECT_EQ(observe({"[b-z].?"}), (Lines{"content b.c", "content b.h"}));
  EXPECT_EQ(observe({"src/*/y.c"}),
            (Lines{"list src", "probe src/deep", "content src/deep/y.c", "probe src/x.c"}));
}

TEST_F(DeclaredInputs, DoubleStarIsAnyNumberOfDirectories) {
  const Lines seen = observe({"src/**/*.c"});
  EXPECT_EQ(seen, (Lines{"list src", "list src/deep", "content src/deep/y.c", "content src/x.c"}));
}

TEST_F(DeclaredInputs, TrailingDoubleStarIsEverythingBelow) {
  EXPECT_EQ(observe({"src/**"}), (Lines{"list src", "list src/deep", "content src/deep/y.c",
                                        "content src/deep/z.h", "content src/x.c"}));
}

TEST_F(DeclaredInputs, GlobWithoutAMatchWarnsAndStillSeesTheListing) {
  EXPECT_EQ(observe({"docs/*.c"}), (Lines{"list docs", "! on_change: nothing matches docs/*.c"}));
}

}  // namespace
}  // namespace hm::runner
