// Source: a read-only tree below the layers of a view — a live directory (live_source.h) or an
// image in the store (stored_source.h). The same whoever asks: one run sees one state of it.
//
// Paths are relative to the source's root. Implementations are thread-safe. Errors: kChanged with
// the displayed path when a live tree is not any longer what this run has seen of it.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::fs {

struct SourceEntry {
  Entry entry;
  std::int64_t mtime_ns = 0;
};

class LiveLook;

// A live file that is served from where it is. Thread-safe; its source must outlive it.
class LiveFile {
 public:
  LiveFile(const LiveLook& look, Fd fd, store::FileStamp pinned, std::string path)
      : look_(&look), fd_(std::move(fd)), pinned_(pinned), path_(std::move(path)) {}
  // Up to `size` bytes, fewer only at the end. kChanged unless they are the pinned file's.
  Result<std::size_t> read(char* bytes, std::size_t size, off_t offset) const;

 private:
  const LiveLook* look_;
  Fd fd_;
  store::FileStamp pinned_;
  std::string path_;
};

// A file that one READ of the kernel fetches whole.
inline constexpr std::uint64_t kSmallFile = std::uint64_t{128} * 1024;

// The files, or the directories, of one directory in the order in which a disk probably has them.
struct OnDisk {
  std::vector<std::string> names;
  std::function<void(std::size_t)> fetch;  // has the kernel read one of them
};

class Source {
 public:
  virtual ~Source() = default;

  virtual Result<std::optional<SourceEntry>> lookup(const std::string& path) = 0;
  virtual Result<Listing> list(const std::string& path) = 0;
  // Content digest of a file that lookup found; `capture` also makes sure that the store has the
  // bytes, as far as that is a matter of the source.
  virtual Result<Digest> digest(const std::string& path) = 0;
  virtual Result<Digest> capture(const std::string& path) = 0;
  virtual bool may_have_xattrs() const = 0;
  // Whether some files are hard links of each other under this name (Entry::link_group).
  virtual bool has_link_group(const std::string& group) const {
    (void)group;
    return false;
  }

  // The rest is for trees that may change; of others nothing ever moves.

  // Whether files are read from here (the next three), instead of from the store.
  virtual bool is_live() const { return false; }
  virtual Result<Digest> read_small(const std::string& path, std::string& bytes) {
    bytes.clear();
    return digest(path);
  }
  virtual Result<std::optional<LiveFile>> open_resting(const std::string&) {
    return std::optional<LiveFile>{};
  }
  // `digest`, of the bytes that a LiveFile serves.
  virtual Result<Digest> hash(const std::string& path) { return digest(path); }
  virtual void read_ahead(const std::string&) {}
  virtual OnDisk files_on_disk(const std::string&) { return {}; }
  virtual OnDisk directories_on_disk(const std::string&) { return {}; }
  // The first of these paths that has another value now than this run was told.
  virtual Result<std::optional<std::string>> first_moved(std::span<const std::string_view>) {
    return std::optional<std::string>{};
  }
  // What decides how the tree looks and is not as it was.
  virtual Result<std::optional<std::string>> moved_rule_file() {
    return std::optional<std::string>{};
  }
  // What the store may keep of these paths: digests of old enough files.
  virtual std::vector<store::FileDigest> lasting_digests(std::span<const std::string_view>) {
    return {};
  }
  // Digests learned since the last call that the store may keep (old enough files only).
  virtual std::vector<store::FileDigest> take_learned() { return {}; }
};

}  // namespace hm::fs
