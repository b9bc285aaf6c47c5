// ReadAhead: lets a disk work on what a step is about to look at.
//
// One that looks at some files of a directory and waits for a disk at each mostly goes on to the
// others of it. So a thread asks the kernel for files that nobody has looked up yet, in the order
// in which the disk has them, beginning behind the first that was: as many again as have been
// looked up, and never far ahead. That only warms the kernel's caches of the host: nothing is
// observed or pinned, and whatever goes wrong shows when the file is really looked up.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "fs/view.h"
#include "store/blob_store.h"

namespace hm::fs {

class ReadAhead {
 public:
  // Both must outlive it.
  ReadAhead(const View& view, const store::BlobStore& blobs) : view_(view), blobs_(blobs) {}
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // The file `name` of a directory was looked up and will be read. True: the disk was asked for it
  // before.
  bool looked_up(const View::Node& dir, std::string_view name);

 private:
  // A directory in which files are looked up.
  struct Walk {
    View::Node dir;
    std::string first;       // what was looked up first
    std::size_t looked = 0;  // how many were looked up
    bool listed = false;     // the rest is known; written by the thread only
    FilesOnDisk files;
    std::unordered_map<std::string_view, std::size_t> places;  // name → place in files.names
    std::size_t begin = 0;                                     // the place of `first`
    std::size_t asked = 0;                                     // how many behind it
  };

  static std::size_t wanted(const Walk& walk);
  Walk& walk_of(const View::Node& dir, std::string_view name);
  std::shared_ptr<Walk> next();
  void work();
  void list(Walk& walk, std::unique_lock<std::mutex>& lock);

  const View& view_;
  const store::BlobStore& blobs_;
  std::mutex mutex_;  // guards the rest, but what `listed` says of a walk
  std::condition_variable changed_;
  std::list<std::shared_ptr<Walk>> walks_;  // the last used first
  bool finished_ = false;
  std::thread thread_;  // started when there is something to do
};

}  // namespace hm::fs
