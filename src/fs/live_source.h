// LiveSource: a directory of the host as a read-only tree, pinned at first touch.
//
// A live directory moves while a run uses it. So the first lookup of a path pins what it found (or
// that it found nothing), the first listing the names, the first read the bytes: of a small file
// their digest, which every later read has to have. A larger one is served from where it is, and
// hashed, while its stamp would show every change; else its bytes are copied into the store and
// served from there. One run never sees two states of one file. `first_moved` tells
// later which pinned path looks different by now. What is visible, and how it looks, is the
// matter of LiveRules (live_rules.h).
//
// Paths are relative to the source's root. Thread-safe. Errors: kChanged with the displayed path
// when a pin no longer fits; EACCES and I/O errors as they are: the caller must not cache what it
// could not observe.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fs/entry.h"
#include "fs/live_look.h"
#include "fs/live_rules.h"
#include "fs/pin_table.h"
#include "fs/source.h"
#include "store/store.h"
#include "store/util/brief_mutex.h"
#include "store/util/fd.h"

namespace hm::fs {

class LiveSource final : public Source {
 public:
  // `store` must outlive the source.
  LiveSource(std::unique_ptr<LiveRules> rules, store::Store& store);
  ~LiveSource() override;

  Result<std::optional<SourceEntry>> lookup(const std::string& path) override;
  Result<Listing> list(const std::string& path) override;
  Result<Digest> digest(const std::string& path) override;
  // Puts the bytes into the store.
  Result<Digest> capture(const std::string& path) override;
  bool is_live() const override { return true; }
  // The bytes of a file of at most kSmallFile, and their digest: the first time those that are
  // pinned, later those that are there, if they still are the pinned ones. Nothing is written into
  // the store.
  Result<Digest> read_small(const std::string& path, std::string& bytes) override;
  // The file itself, to be read from as long as it is the pinned one. nullopt while its stamp would
  // not show every change: then only a copy can be served.
  Result<std::optional<LiveFile>> open_resting(const std::string& path) override;
  // The digest of the bytes that are there: what the store remembers of them is not believed.
  Result<Digest> hash(const std::string& path) override;
  // Has the kernel begin to read a file that is wanted soon. No look at it: nothing is pinned.
  void read_ahead(const std::string& path) override;
  // Nor here. None of a directory that cannot be read, or has very many.
  OnDisk files_on_disk(const std::string& path) override { return look_.files_on_disk(path); }
  OnDisk directories_on_disk(const std::string& path) override {
    return look_.directories_on_disk(path);
  }

  // The first of these paths that has another value now than is pinned; what was never pinned is
  // left out. Cheapest when sorted.
  Result<std::optional<std::string>> first_moved(std::span<const std::string_view> paths) override;
  // LiveRules::moved_file.
  Result<std::optional<std::string>> moved_rule_file() override {
    return look_.rules().moved_file();
  }

  std::vector<store::FileDigest> lasting_digests(std::span<const std::string_view> paths) override;
  std::vector<store::FileDigest> take_learned() override;
  bool may_have_xattrs() const override { return xattrs_; }

 private:
  using Id = PinTable::Id;
  // A pin, its path and the lock that guards what is in it.
  struct Locked {
    const std::string& path;
    Id id;
    Pin& pin;
    std::unique_lock<std::mutex> lock;
  };

  Locked lock_pin(const std::string& path);
  std::optional<Locked> lock_known(const std::string& path);
  std::mutex& stripe(Id id) { return stripes_[id % stripes_.size()]; }

  Status resolve(const Locked& at);
  void set_content(Pin& pin, const Digest& digest, bool lasts);
  Result<LiveStat> pinned_file(const Locked& at);
  Result<Fd> open_pinned(const LiveStat& pinned, const std::string& path);
  template <class Take>
  Result<Digest> pin_bytes(const Locked& at, const LiveStat& stat,
                           const std::optional<store::FileStamp>& stamp,
                           const std::optional<Digest>& believed, Take take);
  Status forget_digests(const std::string& path);
  Status check_unmoved(int fd, const LiveStat& pinned, const std::string& path);
  Result<Digest> digest_now(const LiveStat& stat, const std::optional<store::FileStamp>& stamp,
                            const std::string& path);
  Status read_again(const Locked& at, const LiveStat& pinned, std::string& bytes);
  Result<bool> moved(const std::string& path, DirectoryHandles& handles);
  void learn(const std::optional<store::FileStamp>& stamp, const Digest& digest);
  std::optional<Digest> known_digest(const std::optional<store::FileStamp>& stamp);
  Status agrees_with_listing(Id id, const std::string& path);
  Status agrees_with_lookups(Id dir, const std::string& path);

  LiveLook look_;
  const bool xattrs_;
  store::Store& store_;
  DirectoryHandles handles_;
  // What is in a pin is guarded by the stripe of its id, which is held across the system calls that
  // fill it. No two pins are ever locked at once.
  std::array<std::mutex, 64> stripes_;
  BriefMutex mutex_;  // guards the rest, the table as such too; may be taken while a pin is locked
  PinTable pins_;
  std::vector<store::FileDigest> learned_;
};

}  // namespace hm::fs
