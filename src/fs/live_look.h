// LiveLook: how a path of a live directory is at this moment. Only system calls; what a run
// remembers of them are the pins of LiveSource (live_source.h).
//
// Walks never follow symlinks and never leave the root (openat2(2), RESOLVE_NO_SYMLINKS |
// RESOLVE_BENEATH). Thread-safe. Errors as of LiveSource.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fs/entry.h"
#include "fs/live_rules.h"
#include "fs/source.h"
#include "store/util/brief_mutex.h"
#include "store/util/fd.h"

namespace hm::fs {

// The few directories that were opened last. A name in an open directory costs one statx(2), not a
// walk; it is a name in the directory that was there when it was opened, so a handle is used for
// `lifetime` only. Thread-safe.
class DirectoryHandles {
 public:
  explicit DirectoryHandles(std::chrono::milliseconds lifetime) : lifetime_(lifetime) {}

  std::shared_ptr<const Fd> find(std::string_view path);
  void keep(std::string_view path, std::shared_ptr<const Fd> fd);

 private:
  using Clock = std::chrono::steady_clock;
  struct Item {
    std::string path;
    std::shared_ptr<const Fd> fd;
    Clock::time_point opened;
  };

  const std::chrono::milliseconds lifetime_;
  BriefMutex mutex_;
  std::vector<Item> items_;  // the last used first
};

// The attributes of a file that are part of its entry; `path_fd` may be O_PATH.
Result<Xattrs> live_xattrs(int path_fd);

class LiveLook {
 public:
  explicit LiveLook(std::unique_ptr<LiveRules> rules) : rules_(std::move(rules)) {}

  // nullopt: absent or not visible.
  Result<std::optional<LiveStat>> stat(const std::string& path, DirectoryHandles& handles);
  // The same of a path that was visible as a `known`: as such it still is, by the same rules.
  Result<std::optional<LiveStat>> stat_again(const std::string& path, EntryKind known,
                                             DirectoryHandles& handles);
  Result<Listing> list(const std::string& path);
  // What there is, visible or not, in the order of inode numbers; none where it cannot be read, or
  // where there are very many.
  OnDisk files_on_disk(const std::string& path) const;
  // Likewise; fetching one reads its names and their inodes.
  OnDisk directories_on_disk(const std::string& path) const;
  // For reading. kChanged when there is nothing any more.
  Result<Fd> open(const std::string& path);
  // What fstat(2) says of an open file.
  Result<LiveStat> stat_of(int fd, const std::string& path) const;

  LiveRules& rules() { return *rules_; }
  std::string display(const std::string& path) const { return rules_->display(path); }

 private:
  std::optional<std::optional<LiveStat>> quick_stat(const std::string& path,
                                                    DirectoryHandles& handles);
  Result<std::optional<LiveStat>> walk(const std::string& path);
  std::shared_ptr<const Fd> directory(std::string_view path, DirectoryHandles& handles);
  std::optional<std::uint64_t> device_of(int fd, dev_t device);
  std::optional<std::optional<std::uint64_t>> known_device(dev_t device);

  const std::unique_ptr<LiveRules> rules_;
  BriefMutex mutex_;  // guards devices_
  std::unordered_map<dev_t, std::uint64_t> devices_;
};

}  // namespace hm::fs
