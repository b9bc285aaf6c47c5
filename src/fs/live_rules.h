// LiveRules: what of a live directory is visible, and how its entries look in a view.
//
// Three kinds: the workspace (git's ignore rules, owners and modes normalised as git would), the
// host's root (a few directories, only what everybody may read), and a plain directory used as an
// image. Thread-safe.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fs/entry.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::fs {

// One time for everything that must not depend on a checkout: 1980-01-02 00:00 UTC. Zip and other
// tools refuse years before 1980.
inline constexpr std::int64_t kFixedTimeNs = 315'619'200LL * 1'000'000'000;

// How owners appear: as they are, or all as root where a user namespace has a single id.
enum class Owners { kReal, kSquashed };

struct LiveStat {
  EntryKind kind = EntryKind::kFile;
  std::uint32_t mode = 0;  // permission bits
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  store::FileStamp stamp;               // as stat(2) says; its device is st_dev
  std::optional<std::uint64_t> device;  // what stands for it in the store; see live_look.cc
  std::uint64_t rdev = 0;
  std::string target;
  Xattrs xattrs;
  bool foreign = false;  // the mount point of something else: shown as an empty directory

  // Both are files or directories without attributes, and of one mode, owner and size.
  bool is_plain_same(const LiveStat& other) const {
    const auto plain = [](const LiveStat& stat) {
      return (stat.kind == EntryKind::kFile || stat.kind == EntryKind::kDirectory) &&
             stat.xattrs.empty() && !stat.foreign;
    };
    return plain(*this) && plain(other) && kind == other.kind && mode == other.mode &&
           uid == other.uid && gid == other.gid && stamp.size == other.stamp.size;
  }
};

// Where a path of the source really is: relative to an open directory.
struct LiveLocation {
  int dir_fd = -1;
  std::string path;  // "" is the directory itself
};

class LiveRules {
 public:
  virtual ~LiveRules() = default;
  // nullopt: the source has no such place.
  virtual std::optional<LiveLocation> locate(const std::string& path) const = 0;
  // Names of a directory that exists by rule only; nullopt: read the real one.
  virtual std::optional<Listing> fixed_listing(const std::string& path) const;
  // `mode` are permission bits, 0 when only the kind is known (see needs_mode).
  virtual Result<bool> visible(const std::string& path, EntryKind kind, std::uint32_t mode) = 0;
  virtual bool needs_mode() const { return false; }
  // Whether `visible` would say yes to every file, directory and symlink in `dir` but .git.
  virtual Result<bool> shows_plain(const std::string& dir) {
    (void)dir;
    return false;
  }
  virtual Entry entry(const LiveStat& stat) const = 0;
  virtual std::int64_t mtime(const LiveStat& stat) const = 0;
  virtual bool wants_xattrs() const { return false; }
  virtual bool crosses_mounts() const { return true; }
  // A file that decided what is visible and has changed, or the root if it is another by now.
  virtual Result<std::optional<std::string>> moved_file() { return std::optional<std::string>{}; }
  // The path as a step would name it, for messages.
  virtual std::string display(const std::string& path) const = 0;
};

// Whether `path` still names the directory that `dir_fd` was opened as.
bool is_still_at(int dir_fd, const std::string& path);

// `hidden` are absolute host paths that never appear (the store).
Result<std::unique_ptr<LiveRules>> workspace_rules(const std::string& root,
                                                   const std::vector<std::string>& hidden,
                                                   store::Store& store);
Result<std::unique_ptr<LiveRules>> directory_rules(const std::string& root, Owners owners,
                                                   const std::vector<std::string>& hidden);
Result<std::unique_ptr<LiveRules>> host_rules(Owners owners,
                                              const std::vector<std::string>& hidden);

}  // namespace hm::fs
