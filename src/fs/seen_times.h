// SeenTimes: the times of the files that a step was shown, to find where it took one from.
//
// A copy-up (chmod, link, rename), cp -p and touch -r give a file the time of another. That time
// belongs to the execution that wrote the other file: should that run again, a run from scratch
// would take the new one. So a layer names the path instead of the number. Values; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hm::fs {

struct SeenTime {
  std::int64_t mtime_ns = 0;
  std::string path;
  // Digest of a file that was read, target of a symlink: what a copy would be equal to.
  std::optional<std::string> identity;
  bool of_run = false;  // written by an execution, not a constant of an image
};

class SeenTimes {
 public:
  explicit SeenTimes(std::vector<SeenTime> items);
  // The path from which a file with this time and identity took its time; null when that is no
  // path's but the step's own doing. Of several the first: equal executions give equal layers.
  const std::string* source(std::int64_t mtime_ns, const std::string& identity) const;

 private:
  std::vector<SeenTime> items_;  // sorted by time, then path
};

}  // namespace hm::fs
