// Limits as people write them, and where the kernel keeps a cgroup.
#include "runner/step_limits.h"

#include <gtest/gtest.h>

#include "runner/cgroup.h"

namespace hm::runner {
namespace {

TEST(StepLimits, MemoryIsReadInUnitsOf1024) {
  EXPECT_EQ(parse_memory("512M").value_or(0), std::uint64_t{512} << 20);
  EXPECT_EQ(parse_memory("8192k").value_or(0), std::uint64_t{8} << 20);
  EXPECT_EQ(parse_memory("2g").value_or(0), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_memory("1024T").value_or(0), kMostMemory);
  for (const char* text : {"", "M", "64", "64MB", "6 4M", "-64M", "0x4M", "1.5G", "3M", "0G",
                           "1025T", "99999999999999999999999M", "18446744073709551617K"}) {
    EXPECT_FALSE(parse_memory(text)) << text;
  }
}

TEST(StepLimits, MemoryIsShownAsItWasWritten) {
  EXPECT_EQ(memory_text(std::uint64_t{64} << 20), "64M");
  EXPECT_EQ(memory_text((std::uint64_t{64} << 20) + 1024), "65537K");
  EXPECT_EQ(memory_text(4194305), "4194305");
  EXPECT_EQ(memory_text(kMostMemory), "1024T");
}

// Lines of a systemd machine, a machine with version 1, a container.
TEST(Cgroup, DirectoryIsFoundInWhatTheKernelLists) {
  const std::string two = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
  EXPECT_EQ(cgroup_directory("0::/user.slice/a.scope\n", two, ""),
            "/sys/fs/cgroup/user.slice/a.scope");
  EXPECT_EQ(cgroup_directory("0::/\n", two, ""), "/sys/fs/cgroup");
  EXPECT_EQ(cgroup_directory("0::/a\n", two, "memory"), "");
  const std::string one =
      "35 31 0:32 / /sys/fs/cgroup/cpu,memory rw - cgroup cgroup rw,cpu,memory\n"
      "39 31 0:36 /docker/1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
  const std::string groups = "8:pids:/docker/1/x\n4:cpu,memory:/a\n1:name=systemd:/b\n0::/\n";
  EXPECT_EQ(cgroup_directory(groups, one, "memory"), "/sys/fs/cgroup/cpu,memory/a");
  EXPECT_EQ(cgroup_directory(groups, one, "pids"), "/sys/fs/cgroup/pids/x");
  EXPECT_EQ(cgroup_directory("8:pids:/other\n", one, "pids"), "");
  EXPECT_EQ(cgroup_directory("8:pids:/docker/12\n", one, "pids"), "");
  EXPECT_EQ(cgroup_directory("", "", "pids"), "");
}

}  // namespace
}  // namespace hm::runner
