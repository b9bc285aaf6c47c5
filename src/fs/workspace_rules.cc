// The live workspace as a source: git's own answer to what is visible (workspace_filter.h), entries
// as git would write them on checkout, and the ignore files that decided it, pinned.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "fs/file_age.h"
#include "fs/live_rules.h"
#include "fs/workspace_filter.h"

namespace hm::fs {

namespace {

// The tracked paths of a repository, listed by git once per state of its index: the list is kept as
// a blob under the identity of the index file.
class TrackedCache {
 public:
  TrackedCache(GitLayout layout, store::Store& store) : layout_(std::move(layout)), store_(store) {}

  Result<bool> tracks(const std::string& path, IgnoreKind kind) {
    const std::lock_guard lock(mutex_);
    if (!files_) {
      stamp_ = stamp();  // before: a change in between is then seen as one
      if (stamp_ && !has_rested(*stamp_)) stamp_.reset();
      HM_ASSIGN(files_, load());
    }
    return files_->tracks(path, kind);
  }

  // Whether the answers may differ by now.
  Result<bool> moved() {
    const std::lock_guard lock(mutex_);
    if (!files_ || !layout_.in_repository()) return false;
    // Of submodules each has an index of its own.
    const bool proves = stamp_ && !layout_.has_submodules;
    if (proves && stamp_ == stamp()) return false;
    HM_ASSIGN(const TrackedFiles now, load());
    return now.encode() != files_->encode();
  }

 private:
  // Its device is 0 where it proves nothing beyond this run.
  std::optional<store::FileStamp> stamp() const {
    const Fd fd = open_file(layout_.index, O_PATH).value_or(Fd());
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0) return std::nullopt;
    // Not the index's own bytes but what git makes of them for this root: an identity of its own.
    const std::uint64_t device = stamp_device(fd.get(), st.st_dev);
    Hasher identity;
    identity.field("tracked files");
    identity.field(device);
    identity.field(layout_.prefix);
    const auto own = static_cast<std::uint64_t>(std::hash<Digest>{}(identity.finish()));
    return store::FileStamp{device == 0 ? 0 : own, st.st_ino,
                            static_cast<std::uint64_t>(st.st_size), to_ns(st.st_mtim),
                            to_ns(st.st_ctim)};
  }

  // Whatever is wrong with what the store remembers, git can be asked again.
  std::optional<TrackedFiles> remembered(const store::FileStamp& identity) {
    const auto digest = store_.other_digest(identity).value_or(std::nullopt);
    if (!digest) return std::nullopt;
    auto list = store_.blobs().read(*digest);
    if (!list) return std::nullopt;
    auto files = TrackedFiles::decode(std::move(*list));
    if (!files) return std::nullopt;
    return std::move(*files);
  }

  Result<TrackedFiles> load() {
    if (!layout_.in_repository()) return TrackedFiles();
    const auto identity = stamp();
    const bool cacheable =
        identity && identity->device != 0 && !layout_.has_submodules && has_rested(*identity);
    if (cacheable) {
      if (auto known = remembered(*identity)) return std::move(*known);
    }
    HM_ASSIGN(TrackedFiles files, TrackedFiles::load(layout_));
    if (cacheable && stamp() == identity) {
      HM_ASSIGN(const Digest digest, store_.blobs().put(files.encode()));
      store::Batch batch;
      batch.files.push_back({*identity, digest});
      store_.submit(std::move(batch));
    }
    return files;
  }

  const GitLayout layout_;
  store::Store& store_;
  std::mutex mutex_;
  std::optional<TrackedFiles> files_;
  std::optional<store::FileStamp> stamp_;  // of the index, if it had rested when it was read
};

class WorkspaceRules final : public LiveRules {
 public:
  WorkspaceRules(Fd root, std::string named, const GitLayout& layout,
                 std::vector<std::string> hidden, store::Store& store)
      : root_(std::move(root)),
        named_(std::move(named)),
        hidden_(std::move(hidden)),
        tracked_(layout, store),
        filter_(
            layout, [this](const std::string& path) { return read_pinned(path); },
            [this](const std::string& path, IgnoreKind kind) {
              return tracked_.tracks(path, kind);
            }) {}

  std::optional<LiveLocation> locate(const std::string& path) const override {
    return LiveLocation{root_.get(), path};
  }

  Result<bool> visible(const std::string& path, EntryKind kind, std::uint32_t) override {
    if (path.empty()) return true;
    const bool as_git =
        kind == EntryKind::kFile || kind == EntryKind::kDirectory || kind == EntryKind::kSymlink;
    if (!as_git) return false;
    for (const std::string& dir : hidden_) {
      if (is_within(path, dir)) return false;
    }
    return filter_.visible(
        path, kind == EntryKind::kDirectory ? IgnoreKind::kDirectory : IgnoreKind::kOther);
  }

  Result<bool> shows_plain(const std::string& dir) override {
    const bool hides_some = std::any_of(
        hidden_.begin(), hidden_.end(),
        [&](const std::string& path) { return is_within(path, dir) || is_within(dir, path); });
    if (hides_some) return false;
    return filter_.shows_plain(dir);
  }

  Entry entry(const LiveStat& stat) const override {
    Entry entry;
    entry.kind = stat.kind;
    const bool executable = stat.kind != EntryKind::kFile || (stat.mode & S_IXUSR) != 0;
    entry.mode = stat.kind == EntryKind::kSymlink ? 0777 : executable ? 0755 : 0644;
    if (stat.kind == EntryKind::kFile) entry.size = stat.stamp.size;
    entry.target = stat.target;
    return entry;
  }

  std::int64_t mtime(const LiveStat&) const override { return kFixedTimeNs; }

  Result<std::optional<std::string>> moved_file() override {
    if (!is_still_at(root_.get(), named_)) return std::optional(display(""));
    std::map<std::string, std::optional<std::string>> pins;
    {
      const std::lock_guard lock(mutex_);
      pins = pins_;
    }
    for (const auto& [path, text] : pins) {
      HM_ASSIGN(const auto now, read_now(path));
      if (now != text) return std::optional(display(path));
    }
    HM_ASSIGN(const bool index_moved, tracked_.moved());
    if (index_moved) return std::optional<std::string>("the list of files that git tracks");
    return std::optional<std::string>{};
  }

  std::string display(const std::string& path) const override {
    if (path.starts_with("/")) return path;
    return path.empty() ? "/workspace" : "/workspace/" + path;
  }

 private:
  Result<std::optional<std::string>> read_now(const std::string& path) const {
    // git does not follow a symlinked ignore file inside the work tree.
    const int no_follow = path.starts_with("/") ? 0 : O_NOFOLLOW;
    const auto fd = open_at(root_.get(), path, O_RDONLY | O_NONBLOCK | no_follow);
    if (!fd) {
      const int error = fd.error().errno_value;
      const bool absent = error == ENOENT || error == ENOTDIR || error == ELOOP;
      if (absent) return std::optional<std::string>{};
      return fail(fd.error());
    }
    struct stat st {};
    if (::fstat(fd->get(), &st) != 0) return fail_errno(path);
    if (!S_ISREG(st.st_mode)) return std::optional<std::string>{};
    HM_ASSIGN(std::string text, read_all(fd->get()));
    return std::optional(std::move(text));
  }

  Result<std::optional<std::string>> read_pinned(const std::string& path) {
    HM_ASSIGN(auto text, read_now(path));
    const std::lock_guard lock(mutex_);
    return pins_.try_emplace(path, std::move(text)).first->second;
  }

  Fd root_;
  const std::string named_;                                 // may go through symbolic links
  std::vector<std::string> hidden_;                         // relative to the root
  std::mutex mutex_;                                        // guards pins_
  std::map<std::string, std::optional<std::string>> pins_;  // ignore files as they were read
  TrackedCache tracked_;
  WorkspaceFilter filter_;
};

}  // namespace

Result<std::unique_ptr<LiveRules>> workspace_rules(const std::string& root,
                                                   const std::vector<std::string>& hidden,
                                                   store::Store& store) {
  auto fd = open_file(root, O_PATH | O_DIRECTORY);
  if (!fd) return fail(std::move(fd).error());
  HM_ASSIGN(const GitLayout layout, discover_git(root));
  std::vector<std::string> below;
  for (const std::string& path : hidden) {
    if (path.starts_with(layout.root + "/")) below.push_back(path.substr(layout.root.size() + 1));
  }
  return std::unique_ptr<LiveRules>(
      std::make_unique<WorkspaceRules>(std::move(*fd), root, layout, std::move(below), store));
}

}  // namespace hm::fs
