#include "fs/live_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "fs/file_age.h"
#include "fs/planted_defect.h"

namespace hm::fs {

namespace {

// A run is to see a directory that was swapped for another one, if not at once.
constexpr std::chrono::milliseconds kHandleLifetime{100};

// The stamp under which the store may keep a file's digest; nullopt where it would prove nothing.
// To be asked for before the bytes are read: it has to have rested then.
std::optional<store::FileStamp> lasting_stamp(const LiveStat& stat) {
  if (!stat.device || !has_rested(stat.stamp)) return std::nullopt;
  store::FileStamp stamp = stat.stamp;
  stamp.device = *stat.device;
  return stamp;
}

}  // namespace

LiveSource::LiveSource(std::unique_ptr<LiveRules> rules, store::Store& store)
    : look_(std::move(rules)),
      xattrs_(look_.rules().wants_xattrs()),
      store_(store),
      handles_(kHandleLifetime) {}

LiveSource::~LiveSource() = default;

LiveSource::Locked LiveSource::lock_pin(const std::string& path) {
  std::unique_lock table(mutex_);
  const Id id = pins_.at(path);
  Pin& pin = pins_[id];
  table.unlock();
  return {path, id, pin, std::unique_lock(stripe(id))};
}

std::optional<LiveSource::Locked> LiveSource::lock_known(const std::string& path) {
  std::unique_lock table(mutex_);
  const auto id = pins_.find(path);
  if (!id) return std::nullopt;
  Pin& pin = pins_[*id];
  table.unlock();
  return Locked{path, *id, pin, std::unique_lock(stripe(*id))};
}

void LiveSource::set_content(Pin& pin, const Digest& digest, bool lasts) {
  pin.lasts = lasts;
  const std::lock_guard lock(mutex_);
  pins_.set_content(pin, digest);
}

// A listing and a lookup in it are two looks at one directory: if they disagree, it changed between
// them. Whoever stores its half second sees the other's, so one of the two finds out.
Status LiveSource::agrees_with_listing(Id id, const std::string& path) {
  if (id == PinTable::kRoot) return {};
  std::unique_lock table(mutex_);
  Pin& child = pins_[id];
  const Id dir_id = child.parent;
  Pin& dir = pins_[dir_id];
  table.unlock();
  std::optional<EntryKind> listed;
  {
    const std::lock_guard lock(stripe(dir_id));
    const Listing* listing = dir.listing();
    if (listing == nullptr) return {};
    const auto item = std::lower_bound(
        listing->begin(), listing->end(), base_name(path),
        [](const DirEntry& entry, std::string_view name) { return entry.name < name; });
    if (item != listing->end() && item->name == base_name(path)) listed = item->kind;
  }
  const std::lock_guard lock(stripe(id));
  if (!child.resolved) return {};
  std::optional<EntryKind> found;
  if (child.present) found = child.kind;
  if (found == listed) return {};
  return fail(ErrorCode::kChanged, look_.display(path));
}

Status LiveSource::agrees_with_lookups(Id dir, const std::string& path) {
  std::vector<std::pair<Id, std::string>> children;
  {
    const std::lock_guard lock(mutex_);
    for (Id at = pins_[dir].first_child; at != 0; at = pins_[at].next_sibling) {
      children.emplace_back(at, join_path(path, {pins_[at].name, pins_[at].name_size}));
    }
  }
  for (const auto& [id, child] : children) HM_TRY(agrees_with_listing(id, child));
  return {};
}

Status LiveSource::resolve(const Locked& at) {
  if (at.pin.resolved) return {};
  HM_ASSIGN(const auto stat, look_.stat(at.path, handles_));
  const std::lock_guard lock(mutex_);
  pins_.set_stat(at.pin, stat);
  return {};
}

Result<std::optional<SourceEntry>> LiveSource::lookup(const std::string& path) {
  std::optional<SourceEntry> found;
  bool fresh = false;
  Id id = 0;
  {
    const Locked at = lock_pin(path);
    id = at.id;
    fresh = !at.pin.resolved;
    HM_TRY(resolve(at));
    if (const auto stat = pins_.stat_of(at.pin)) {
      found = SourceEntry{look_.rules().entry(*stat), look_.rules().mtime(*stat)};
    }
  }
  if (fresh) HM_TRY(agrees_with_listing(id, path));
  return found;
}

Result<Listing> LiveSource::list(const std::string& path) {
  Listing listing;
  Id id = 0;
  {
    const Locked at = lock_pin(path);
    id = at.id;
    HM_TRY(resolve(at));
    if (const Listing* known = at.pin.listing()) return *known;
    if (!at.pin.present || at.pin.foreign()) return Listing{};
    const auto stamp = lasting_stamp(*pins_.stat_of(at.pin));
    HM_ASSIGN(listing, look_.list(path));
    at.pin.lasts = stamp.has_value();
    at.pin.with_more().listing = std::make_shared<const Listing>(listing);
  }
  HM_TRY(agrees_with_lookups(id, path));
  return listing;
}

Result<LiveStat> LiveSource::pinned_file(const Locked& at) {
  HM_TRY(resolve(at));
  auto stat = pins_.stat_of(at.pin);
  if (!stat || stat->kind != EntryKind::kFile) {
    return fail(ErrorCode::kNotFound, look_.display(at.path) + ": not a file");
  }
  return std::move(*stat);
}

// Opens the file whose stat is pinned; kChanged when it is another one, or written to, by now.
Result<Fd> LiveSource::open_pinned(const LiveStat& pinned, const std::string& path) {
  HM_ASSIGN(Fd fd, look_.open(path));
  HM_ASSIGN(const LiveStat now, look_.stat_of(fd.get(), path));
  const bool other = now.kind != pinned.kind || now.stamp != pinned.stamp;
  if (other && kPlanted != Defect::kRecheck) {
    return fail(ErrorCode::kChanged, look_.display(path));
  }
  return fd;
}

// The second half of reading bytes that may be written meanwhile: the stat still is the pinned one.
Status LiveSource::check_unmoved(int fd, const LiveStat& pinned, const std::string& path) {
  HM_ASSIGN(const LiveStat now, look_.stat_of(fd, path));
  if (now.stamp != pinned.stamp && kPlanted != Defect::kRecheck) {
    return fail(ErrorCode::kChanged, look_.display(path));
  }
  return {};
}

void LiveSource::learn(const std::optional<store::FileStamp>& stamp, const Digest& digest) {
  if (!stamp) return;
  const std::lock_guard lock(mutex_);
  learned_.push_back({*stamp, digest});
}

std::optional<Digest> LiveSource::known_digest(const std::optional<store::FileStamp>& stamp) {
  if (!stamp) return std::nullopt;
  // A stamp that is not to be had only saves nothing.
  return store_.file_digest(*stamp).value_or(std::nullopt);
}

// The digest of the file of which `stat` was just said, and `stamp`, if it lasts.
Result<Digest> LiveSource::digest_now(const LiveStat& stat,
                                      const std::optional<store::FileStamp>& stamp,
                                      const std::string& path) {
  if (stat.stamp.size == 0) return Digest::of("");
  if (const auto known = known_digest(stamp)) return *known;
  HM_ASSIGN(const Fd fd, open_pinned(stat, path));
  HM_ASSIGN(const store::BlobInfo info, store::hash_fd(fd.get()));
  HM_TRY(check_unmoved(fd.get(), stat, path));
  learn(stamp, info.digest);
  return info.digest;
}

Result<Digest> LiveSource::digest(const std::string& path) {
  const Locked at = lock_pin(path);
  HM_ASSIGN(const LiveStat stat, pinned_file(at));
  if (at.pin.content != nullptr) return *at.pin.content;
  const auto stamp = lasting_stamp(stat);
  HM_ASSIGN(const Digest digest, digest_now(stat, stamp, path));
  set_content(at.pin, digest, stamp.has_value());
  return digest;
}

// Pins the bytes that are there: `take` reads them all. `believed` is the digest that the file has
// been taken to have until now.
template <class Take>
Result<Digest> LiveSource::pin_bytes(const Locked& at, const LiveStat& stat,
                                     const std::optional<store::FileStamp>& stamp,
                                     const std::optional<Digest>& believed, Take take) {
  HM_ASSIGN(const Fd fd, open_pinned(stat, at.path));
  HM_ASSIGN(const store::BlobInfo info, take(fd.get()));
  HM_TRY(check_unmoved(fd.get(), stat, at.path));
  if (info.size != stat.stamp.size || (believed && *believed != info.digest)) {
    HM_TRY(forget_digests(at.path));
  }
  set_content(at.pin, info.digest, stamp.has_value());
  learn(stamp, info.digest);
  return info.digest;
}

Result<Digest> LiveSource::capture(const std::string& path) {
  const Locked at = lock_pin(path);
  HM_ASSIGN(const LiveStat stat, pinned_file(at));
  if (at.pin.captured) return *at.pin.content;
  const auto stamp = lasting_stamp(stat);
  const bool pinned = at.pin.content != nullptr;
  const auto content = pinned ? std::optional(*at.pin.content) : known_digest(stamp);
  if (content && store_.blobs().has(*content, stat.stamp.size)) {
    if (!pinned) set_content(at.pin, *content, stamp.has_value());
    at.pin.captured = true;
    return *content;
  }
  const auto put = [&](int fd) { return store_.blobs().put_copy(fd); };
  HM_ASSIGN(const Digest digest, pin_bytes(at, stat, stamp, content, put));
  at.pin.captured = true;
  return digest;
}

// Of a file that did not move: what the store remembered of it was wrong, and may have been used
// already.
Status LiveSource::forget_digests(const std::string& path) {
  HM_TRY(store_.drop_file_digests());
  return fail(ErrorCode::kChanged, look_.display(path));
}

// The digest decides, not the stat: a file that was only touched still has the pinned bytes.
Status LiveSource::read_again(const Locked& at, const LiveStat& pinned, std::string& bytes) {
  HM_ASSIGN(const Fd fd, look_.open(at.path));
  HM_ASSIGN(const LiveStat now, look_.stat_of(fd.get(), at.path));
  if (now.kind != EntryKind::kFile) return fail(ErrorCode::kChanged, look_.display(at.path));
  HM_ASSIGN(const bool whole, store::read_exactly(fd.get(), bytes));
  if (whole && Digest::of(bytes) == *at.pin.content) return {};
  if (check_unmoved(fd.get(), pinned, at.path)) return forget_digests(at.path);
  return fail(ErrorCode::kChanged, look_.display(at.path));
}

Result<std::optional<LiveFile>> LiveSource::open_resting(const std::string& path) {
  const Locked at = lock_pin(path);
  HM_ASSIGN(const LiveStat stat, pinned_file(at));
  if (!lasting_stamp(stat)) return std::optional<LiveFile>{};
  HM_ASSIGN(Fd fd, open_pinned(stat, path));
  return std::optional(LiveFile(look_, std::move(fd), stat.stamp, path));
}

Result<Digest> LiveSource::hash(const std::string& path) {
  const Locked at = lock_pin(path);
  HM_ASSIGN(const LiveStat stat, pinned_file(at));
  if (at.pin.hashed) return *at.pin.content;
  const auto stamp = lasting_stamp(stat);
  const bool pinned = at.pin.content != nullptr;
  const auto content = pinned ? std::optional(*at.pin.content) : known_digest(stamp);
  HM_ASSIGN(const Digest digest, pin_bytes(at, stat, stamp, content, store::hash_fd));
  at.pin.hashed = true;
  return digest;
}

// The stamp is looked at after the bytes: what was written before them has changed it already.
Result<std::size_t> LiveFile::read(char* bytes, std::size_t size, off_t offset) const {
  HM_ASSIGN(const std::size_t got, store::read_at(fd_.get(), bytes, size, offset));
  HM_ASSIGN(const LiveStat now, look_->stat_of(fd_.get(), path_));
  if (now.stamp != pinned_ && kPlanted != Defect::kRecheck) {
    return fail(ErrorCode::kChanged, look_->display(path_));
  }
  return got;
}

Result<Digest> LiveSource::read_small(const std::string& path, std::string& bytes) {
  const Locked at = lock_pin(path);
  HM_ASSIGN(const LiveStat stat, pinned_file(at));
  if (stat.stamp.size > kSmallFile) {
    return fail(ErrorCode::kNotFound, look_.display(path) + ": not a small file");
  }
  bytes.resize(stat.stamp.size);
  if (at.pin.content != nullptr) {
    HM_TRY(read_again(at, stat, bytes));
    return *at.pin.content;
  }
  const auto stamp = lasting_stamp(stat);
  HM_ASSIGN(const Fd fd, open_pinned(stat, path));
  HM_ASSIGN(const bool whole, store::read_exactly(fd.get(), bytes));
  HM_TRY(check_unmoved(fd.get(), stat, path));
  if (!whole) return fail(ErrorCode::kChanged, look_.display(path));
  const Digest digest = Digest::of(bytes);
  set_content(at.pin, digest, stamp.has_value());
  learn(stamp, digest);
  return digest;
}

void LiveSource::read_ahead(const std::string& path) {
  const auto fd = look_.open(path);
  if (fd) ::posix_fadvise(fd->get(), 0, 0, POSIX_FADV_WILLNEED);
}

Result<std::optional<std::string>> LiveSource::first_moved(
    std::span<const std::string_view> paths) {
  if (kPlanted == Defect::kRecheck) return std::optional<std::string>{};
  // Of its own: what is open from before may be what was there before.
  DirectoryHandles handles(std::chrono::minutes(1));
  for (const std::string_view path : paths) {
    HM_ASSIGN(const bool is_other, moved(std::string(path), handles));
    if (is_other) return std::optional(std::string(path));
  }
  return std::optional<std::string>{};
}

Result<bool> LiveSource::moved(const std::string& path, DirectoryHandles& handles) {
  const auto at = lock_known(path);
  if (!at || !at->pin.resolved) return false;
  HM_ASSIGN(const auto now, at->pin.present ? look_.stat_again(path, at->pin.kind, handles)
                                            : look_.stat(path, handles));
  const auto pinned = pins_.stat_of(at->pin);
  if (now.has_value() != pinned.has_value()) return true;
  if (!now) return false;
  const bool looks_same =
      now->is_plain_same(*pinned) || look_.rules().entry(*now) == look_.rules().entry(*pinned);
  if (!looks_same) return true;
  const bool untouched = now->stamp == pinned->stamp && at->pin.lasts;
  // Touched, replaced, or with a stamp that proves nothing: it may hold the same or something else.
  // Where names are shown by the modes of what they name, those may have changed.
  const bool lists_again = !untouched || look_.rules().needs_mode();
  if (const Listing* listing = at->pin.listing(); listing && lists_again && !now->foreign) {
    HM_ASSIGN(const Listing names, look_.list(path));
    if (names != *listing) return true;
  }
  if (at->pin.content == nullptr || untouched) return false;
  const auto digest = digest_now(*now, lasting_stamp(*now), path);
  if (!digest && digest.error().code == ErrorCode::kChanged) return true;
  if (!digest) return fail(digest.error());
  return *digest != *at->pin.content;
}

std::vector<store::FileDigest> LiveSource::lasting_digests(
    std::span<const std::string_view> paths) {
  std::vector<store::FileDigest> out;
  for (const std::string_view path : paths) {
    const auto at = lock_known(std::string(path));
    if (!at || at->pin.content == nullptr || !at->pin.lasts) continue;
    const auto stamp = lasting_stamp(*pins_.stat_of(at->pin));
    if (stamp && stamp->size > 0) out.push_back({*stamp, *at->pin.content});
  }
  return out;
}

std::vector<store::FileDigest> LiveSource::take_learned() {
  const std::lock_guard lock(mutex_);
  return std::exchange(learned_, {});
}

}  // namespace hm::fs
