// main of the tests that mount.
#include "fuse_main.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "runner/isolation.h"
#include "store/util/fd.h"

namespace {
bool mounts = false;  // set once, before the tests
}

bool hm::test::can_mount() { return mounts; }

int main(int argc, char** argv) {
  // Before gtest or anything else has threads.
  const bool isolated = hm::runner::enter_private_namespaces().has_value();
  mounts = isolated && hm::open_file("/dev/fuse", O_RDWR).has_value();
  if (!mounts) std::printf("skipped: %s\n", hm::test::kCannotMount);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
