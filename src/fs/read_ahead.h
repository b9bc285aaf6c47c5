// ReadAhead: lets a disk work on what a step is about to look at.
//
// One that looks at some entries of a directory and waits for a disk at each mostly goes on to the
// others of it. So a thread asks the kernel for entries that nobody has looked at yet, in the order
// in which the disk has them, beginning behind the first that was: as many again as have been
// looked at, and never far ahead. That only warms the kernel's caches of the host: nothing is
// observed or pinned, and whatever goes wrong shows when the entry is really looked at.
//
// One of these for files that are read, another for directories that are listed. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "fs/view.h"

namespace hm::fs {

class ReadAhead {
 public:
  using Entries = std::function<OnDisk(const View::Node& dir)>;
  // `most_ahead` entries at a time.
  ReadAhead(Entries entries, std::size_t most_ahead)
      : entries_(std::move(entries)), most_ahead_(most_ahead) {}
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // The entry `name` of a directory was looked at, or is about to be. True: the disk was asked for
  // it before.
  bool looked_at(const View::Node& dir, std::string_view name);

 private:
  // A directory in which entries are looked at.
  struct Walk {
    View::Node dir;
    std::string first;       // what was looked at first
    std::size_t looked = 0;  // how many were looked at
    bool listed = false;     // the rest is known; written by the thread only
    OnDisk entries;
    std::unordered_map<std::string_view, std::size_t> places;  // name → place in entries.names
    std::size_t begin = 0;                                     // the place of `first`
    std::size_t asked = 0;                                     // how many behind it
  };

  std::size_t wanted(const Walk& walk) const;
  Walk& walk_of(const View::Node& dir, std::string_view name);
  std::shared_ptr<Walk> next();
  void work();
  void list(Walk& walk, std::unique_lock<std::mutex>& lock);

  const Entries entries_;
  const std::size_t most_ahead_;
  std::mutex mutex_;  // guards the rest, but what `listed` says of a walk
  std::condition_variable changed_;
  std::list<std::shared_ptr<Walk>> walks_;  // the last used first
  bool finished_ = false;
  std::thread thread_;  // started when there is something to do
};

}  // namespace hm::fs
