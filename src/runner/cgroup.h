// Cgroup: the control group that holds one step's processes to its limits.
//
// Version 2 where its memory and pids controllers are enabled for us or for our parent, else
// version
// 1. Made only for a step that has limits, since making one can take the kernel a tenth of a
// second. Removed when the object goes; those of an hm that was killed, when the next is made. One
// thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runner/step_limits.h"
#include "store/util/fd.h"

namespace hm::runner {

class Cgroup {
 public:
  // kRefused with the reason when this machine or user has no cgroup to enforce a limit with.
  static Result<Cgroup> create(const Limits& limits);
  Cgroup(Cgroup&&) noexcept = default;
  Cgroup& operator=(Cgroup&&) = delete;
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;
  ~Cgroup();  // nobody may be in it any more

  // A process that writes "0" to each of these is in it, with all its children to come.
  const std::vector<Fd>& entrances() const { return entrances_; }
  // What happened so far: the kernel ended a process for want of memory; a fork was refused.
  bool over_memory() const;
  bool over_pids() const;

 private:
  Cgroup() = default;
  Status make_below(const std::string& parent);
  Status set(const std::string& file, std::uint64_t value) const;

  std::vector<std::string> dirs_;  // version 1: one for each controller
  std::vector<Fd> entrances_;
};

// Where this process's cgroup of `controller` is ("" = version 2), given /proc/self/cgroup and
// /proc/self/mountinfo; "" where it is not mounted.
std::string cgroup_directory(std::string_view cgroups, std::string_view mounts,
                             std::string_view controller);

}  // namespace hm::runner
