// LiveSource: a directory of the host as a read-only tree, pinned at first touch.
//
// A live directory moves while a run uses it. So the first lookup of a path pins what it found (or
// that it found nothing), the first listing the names, the first read the bytes: of a small file
// their digest, which every later read has to have; those of a larger one are copied into the store
// and served from there. One run never sees two states of one file. `moved` tells
// later whether a pinned path looks different by now. What is visible, and how it looks, is the
// matter of LiveRules (live_rules.h).
//
// Paths are relative to the source's root. Walks never follow symlinks and never leave the root
// (openat2(2), RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH). Thread-safe. Errors: kChanged with the
// displayed path when a pin no longer fits; EACCES and I/O errors as they are: the caller must not
// cache what it could not observe.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "fs/entry.h"
#include "fs/live_rules.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::fs {

// A file that one READ of the kernel fetches whole.
inline constexpr std::uint64_t kSmallFile = std::uint64_t{128} * 1024;

struct LiveEntry {
  Entry entry;
  std::int64_t mtime_ns = 0;
};

class LiveSource {
 public:
  // `store` must outlive the source.
  LiveSource(std::unique_ptr<LiveRules> rules, store::Store& store);
  ~LiveSource();

  Result<std::optional<LiveEntry>> lookup(const std::string& path);
  Result<Listing> list(const std::string& path);
  // Content digest of a file that lookup found; `capture` also puts the bytes into the store.
  Result<Digest> digest(const std::string& path);
  Result<Digest> capture(const std::string& path);
  // The bytes of a file of at most kSmallFile, and their digest: the first time those that are
  // pinned, later those that are there, if they still are the pinned ones. Nothing is written into
  // the store.
  Result<Digest> read_small(const std::string& path, std::string& bytes);

  // Whether a pinned path has another value now; false for a path that was never pinned.
  Result<bool> moved(const std::string& path);
  // LiveRules::moved_file.
  Result<std::optional<std::string>> moved_rule_file() { return rules_->moved_file(); }

  // Digests learned since the last call that the store may keep (old enough files only).
  std::vector<store::FileDigest> take_learned();
  bool may_have_xattrs() const { return rules_->wants_xattrs(); }

 private:
  struct Pin;
  Pin& pin(const std::string& path);
  Result<std::optional<LiveStat>> stat_now(const std::string& path);
  Result<Listing> list_now(const std::string& path);
  Status resolve(Pin& pin, const std::string& path);
  Result<Fd> open_now(const std::string& path);
  Result<Fd> open_pinned(const Pin& pin, const std::string& path);
  Status read_again(const Pin& pin, const std::string& path, std::string& bytes);
  Result<Digest> digest_locked(Pin& pin, const std::string& path);
  void learn(const LiveStat& stat, const Digest& digest);
  Result<std::optional<Digest>> known_digest(const LiveStat& stat);
  std::optional<std::uint64_t> device_of(int fd, dev_t device);
  Status agrees_with_listing(const std::string& path);
  Status agrees_with_lookups(const std::string& dir);
  Pin* find_pin(const std::string& path);

  std::unique_ptr<LiveRules> rules_;
  store::Store& store_;
  // Guards the containers. A Pin has its own lock; no two Pins are ever locked at once, and this
  // one may be taken while a Pin is locked.
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Pin>> pins_;
  std::unordered_map<std::string, std::vector<std::string>> children_;  // pinned, by directory
  std::unordered_map<dev_t, std::uint64_t> devices_;
  std::vector<store::FileDigest> learned_;
};

}  // namespace hm::fs
