#include "fs/live_source.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "fs/file_age.h"
#include "fs/overlay_xattr.h"
#include "fs/planted_defect.h"
#include "fs/posix_acl.h"

namespace hm::fs {

namespace {

// The stamp under which the store may keep a file's digest; nullopt where it would prove nothing.
std::optional<store::FileStamp> lasting_stamp(const LiveStat& stat) {
  if (!stat.device || !has_rested(stat.stamp)) return std::nullopt;
  store::FileStamp stamp = stat.stamp;
  stamp.device = *stat.device;
  return stamp;
}

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

Result<Fd> open_beneath(const LiveLocation& where, int flags, bool cross_mounts) {
  std::uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (!cross_mounts) resolve |= RESOLVE_NO_XDEV;
  return open_resolving(where.dir_fd, where.path, flags | O_NOFOLLOW, resolve);
}

// A path longer than one system call can name may well exist: that is an error, not an absence.
bool means_absent(int error, const std::string& path) {
  return error == ENOENT || error == ENOTDIR || error == ELOOP ||
         (error == ENAMETOOLONG && path.size() < PATH_MAX - 1);
}

Result<Xattrs> read_xattrs(int path_fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(path_fd);
  std::string names(65536, '\0');
  const ssize_t size = ::listxattr(path.c_str(), names.data(), names.size());
  if (size < 0) {
    if (errno == ENOTSUP || errno == ELOOP || errno == ENOENT) return Xattrs{};
    return fail_errno("listxattr");
  }
  names.resize(static_cast<std::size_t>(size));
  Xattrs out;
  for (std::size_t at = 0; at < names.size(); at = names.find('\0', at) + 1) {
    const std::string name = names.c_str() + at;
    if (!is_kept_xattr(name)) continue;
    std::string value(65536, '\0');
    const ssize_t n = ::getxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (n < 0 && errno == ENODATA) continue;
    if (n < 0) return fail_errno("getxattr");
    value.resize(static_cast<std::size_t>(n));
    if (is_posix_acl(name)) value = without_foreign_ids(value);
    out.emplace_back(name, std::move(value));
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<LiveStat> stat_of(const struct stat& st) {
  const auto kind = kind_of_mode(st.st_mode);
  if (!kind) return fail(ErrorCode::kIo, "unknown file type");
  LiveStat out;
  out.kind = *kind;
  out.mode = st.st_mode & 07777;
  out.uid = st.st_uid;
  out.gid = st.st_gid;
  out.rdev = *kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice ? st.st_rdev : 0;
  out.stamp = {st.st_dev, st.st_ino, static_cast<std::uint64_t>(st.st_size), to_ns(st.st_mtim),
               to_ns(st.st_ctim)};
  return out;
}

// A mount point that must not be crossed: asks nobody but the kernel's caches, since the filesystem
// behind it may be our own.
bool is_foreign_directory(const LiveLocation& where) {
  struct statx st {};
  return ::statx(where.dir_fd, where.path.c_str(),
                 AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE,
                 &st) == 0 &&
         S_ISDIR(st.stx_mode) && (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

struct LiveSource::Pin {
  std::mutex mutex;  // guards everything below; held across the system calls that fill it
  bool resolved = false;
  std::optional<LiveStat> stat;
  std::optional<Digest> content;
  bool captured = false;
  std::optional<Listing> listing;
};

LiveSource::LiveSource(std::unique_ptr<LiveRules> rules, store::Store& store)
    : rules_(std::move(rules)), store_(store) {}

LiveSource::~LiveSource() = default;

LiveSource::Pin& LiveSource::pin(const std::string& path) {
  const std::lock_guard lock(mutex_);
  auto& slot = pins_[path];
  if (!slot) {
    slot = std::make_unique<Pin>();
    if (!path.empty()) children_[std::string(parent_path(path))].push_back(path);
  }
  return *slot;
}

LiveSource::Pin* LiveSource::find_pin(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto it = pins_.find(path);
  return it == pins_.end() ? nullptr : it->second.get();
}

std::optional<std::uint64_t> LiveSource::device_of(int fd, dev_t device) {
  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = devices_.try_emplace(device, 0);
  if (fresh) it->second = stamp_device(fd, device);
  return it->second == 0 ? std::nullopt : std::optional(it->second);
}

// A listing and a lookup in it are two looks at one directory: if they disagree, it changed between
// them. Whoever stores its half second sees the other's, so one of the two finds out.
Status LiveSource::agrees_with_listing(const std::string& path) {
  if (path.empty()) return {};
  std::optional<EntryKind> listed;
  {
    Pin* dir = find_pin(std::string(parent_path(path)));
    if (dir == nullptr) return {};
    const std::lock_guard lock(dir->mutex);
    if (!dir->listing) return {};
    const auto item = std::lower_bound(
        dir->listing->begin(), dir->listing->end(), base_name(path),
        [](const DirEntry& entry, std::string_view name) { return entry.name < name; });
    if (item != dir->listing->end() && item->name == base_name(path)) listed = item->kind;
  }
  Pin* child = find_pin(path);
  const std::lock_guard lock(child->mutex);
  if (!child->resolved) return {};
  std::optional<EntryKind> found;
  if (child->stat) found = child->stat->kind;
  if (found == listed) return {};
  return fail(ErrorCode::kChanged, rules_->display(path));
}

Status LiveSource::agrees_with_lookups(const std::string& dir) {
  std::vector<std::string> children;
  {
    const std::lock_guard lock(mutex_);
    const auto it = children_.find(dir);
    if (it != children_.end()) children = it->second;
  }
  for (const std::string& child : children) HM_TRY(agrees_with_listing(child));
  return {};
}

Result<std::optional<LiveStat>> LiveSource::stat_now(const std::string& path) {
  const std::optional<LiveStat> absent;
  const auto where = rules_->locate(path);
  if (!where) return absent;
  if (where->dir_fd < 0) {  // exists by rule only
    LiveStat stat;
    stat.kind = EntryKind::kDirectory;
    stat.mode = 0755;
    return std::optional(stat);
  }
  auto fd = open_beneath(*where, O_PATH, rules_->crosses_mounts());
  if (!fd) {
    if (means_absent(fd.error().errno_value, path)) return absent;
    if (fd.error().errno_value != EXDEV)
      return fail(std::move(fd).error().in(rules_->display(path)));
    if (!is_foreign_directory(*where)) return absent;
    HM_ASSIGN(const bool shown, rules_->visible(path, EntryKind::kDirectory, 0755));
    if (!shown) return absent;
    LiveStat stat;
    stat.kind = EntryKind::kDirectory;
    stat.mode = 0755;
    stat.foreign = true;
    return std::optional(stat);
  }
  struct stat st {};
  if (::fstat(fd->get(), &st) != 0) return fail_errno(rules_->display(path));
  HM_ASSIGN(LiveStat stat, stat_of(st));
  if (stat.kind == EntryKind::kFile) stat.device = device_of(fd->get(), st.st_dev);
  HM_ASSIGN(const bool visible, rules_->visible(path, stat.kind, stat.mode));
  if (!visible) return absent;
  if (stat.kind == EntryKind::kSymlink) {
    HM_ASSIGN(stat.target, read_link_at(fd->get(), ""));
  } else if (rules_->wants_xattrs()) {
    HM_ASSIGN(stat.xattrs, read_xattrs(fd->get()));
  }
  return std::optional(std::move(stat));
}

Status LiveSource::resolve(Pin& pin, const std::string& path) {
  if (pin.resolved) return {};
  HM_ASSIGN(pin.stat, stat_now(path));
  pin.resolved = true;
  return {};
}

Result<std::optional<LiveEntry>> LiveSource::lookup(const std::string& path) {
  Pin& slot = pin(path);
  std::optional<LiveEntry> found;
  bool fresh = false;
  {
    const std::lock_guard lock(slot.mutex);
    fresh = !slot.resolved;
    HM_TRY(resolve(slot, path));
    if (slot.stat) found = LiveEntry{rules_->entry(*slot.stat), rules_->mtime(*slot.stat)};
  }
  if (fresh) HM_TRY(agrees_with_listing(path));
  return found;
}

Result<Listing> LiveSource::list_now(const std::string& path) {
  if (auto fixed = rules_->fixed_listing(path)) return std::move(*fixed);
  const auto where = rules_->locate(path);
  if (!where || where->dir_fd < 0) return Listing{};
  auto fd = open_beneath(*where, O_RDONLY | O_DIRECTORY, rules_->crosses_mounts());
  if (!fd) {
    if (means_absent(fd.error().errno_value, path))
      return fail(ErrorCode::kChanged, rules_->display(path));
    return fail(std::move(fd).error().in(rules_->display(path)));
  }
  const std::unique_ptr<DIR, DirCloser> dir(::fdopendir(fd->get()));
  if (!dir) return fail_errno(rules_->display(path));
  const int dir_fd = fd->release();
  Listing out;
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    auto kind = kind_of_dirent(entry->d_type);
    std::uint32_t mode = 0;
    if (!kind || rules_->needs_mode()) {
      struct statx st {};
      if (::statx(dir_fd, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
                  STATX_TYPE | STATX_MODE, &st) != 0) {
        // Gone; or the root of somebody else's mount, which a lookup finds absent too.
        if (errno == ENOENT || (errno == EACCES && !rules_->crosses_mounts())) continue;
        return fail_errno(rules_->display(join_path(path, name)));
      }
      kind = kind_of_mode(st.stx_mode);
      mode = st.stx_mode & 07777;
      const bool foreign =
          !rules_->crosses_mounts() && (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
      if (foreign && kind != EntryKind::kDirectory) continue;  // as stat_now has it
      if (foreign) mode = 0755;
    }
    if (!kind) continue;
    HM_ASSIGN(const bool visible, rules_->visible(join_path(path, name), *kind, mode));
    if (visible) out.push_back({name, *kind});
    errno = 0;
  }
  if (errno != 0) return fail_errno(rules_->display(path));
  std::sort(out.begin(), out.end());
  return out;
}

Result<Listing> LiveSource::list(const std::string& path) {
  Pin& slot = pin(path);
  Listing listing;
  {
    const std::lock_guard lock(slot.mutex);
    HM_TRY(resolve(slot, path));
    if (slot.listing) return *slot.listing;
    if (!slot.stat || slot.stat->foreign) return Listing{};
    HM_ASSIGN(slot.listing, list_now(path));
    listing = *slot.listing;
  }
  HM_TRY(agrees_with_lookups(path));
  return listing;
}

Result<Fd> LiveSource::open_now(const std::string& path) {
  const auto where = rules_->locate(path);
  if (!where) return fail(ErrorCode::kChanged, rules_->display(path));
  // Should it have become a fifo meanwhile, O_NONBLOCK keeps the open from waiting for a writer.
  auto fd = open_beneath(*where, O_RDONLY | O_NONBLOCK, rules_->crosses_mounts());
  if (!fd) {
    if (means_absent(fd.error().errno_value, path))
      return fail(ErrorCode::kChanged, rules_->display(path));
    return fail(std::move(fd).error().in(rules_->display(path)));
  }
  return fd;
}

// Opens the file whose stat is pinned; kChanged when it is another one, or written to, by now.
Result<Fd> LiveSource::open_pinned(const Pin& pin, const std::string& path) {
  HM_ASSIGN(Fd fd, open_now(path));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(rules_->display(path));
  HM_ASSIGN(const LiveStat now, stat_of(st));
  const bool other = now.kind != pin.stat->kind || now.stamp != pin.stat->stamp;
  if (other && kPlanted != Defect::kRecheck) {
    return fail(ErrorCode::kChanged, rules_->display(path));
  }
  return fd;
}

namespace {
// The second half of reading bytes that may be written meanwhile: the stat still is the pinned one.
Status check_unmoved(int fd, const LiveStat& pinned, const std::string& display) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return fail_errno(display);
  HM_ASSIGN(const LiveStat now, stat_of(st));
  if (now.stamp != pinned.stamp && kPlanted != Defect::kRecheck) {
    return fail(ErrorCode::kChanged, display);
  }
  return {};
}
}  // namespace

void LiveSource::learn(const LiveStat& stat, const Digest& digest) {
  const auto stamp = lasting_stamp(stat);
  if (!stamp) return;
  const std::lock_guard lock(mutex_);
  learned_.push_back({*stamp, digest});
}

Result<std::optional<Digest>> LiveSource::known_digest(const LiveStat& stat) {
  const auto stamp = lasting_stamp(stat);
  if (!stamp) return std::optional<Digest>{};
  // A stamp that is not to be had only saves nothing.
  return store_.file_digest(*stamp).value_or(std::nullopt);
}

Result<Digest> LiveSource::digest_locked(Pin& pin, const std::string& path) {
  if (pin.content) return *pin.content;
  if (pin.stat->stamp.size == 0) return *(pin.content = Digest::of(""));
  HM_ASSIGN(pin.content, known_digest(*pin.stat));
  if (pin.content) return *pin.content;
  HM_ASSIGN(const Fd fd, open_pinned(pin, path));
  HM_ASSIGN(const store::BlobInfo info, store::hash_fd(fd.get()));
  HM_TRY(check_unmoved(fd.get(), *pin.stat, rules_->display(path)));
  pin.content = info.digest;
  learn(*pin.stat, info.digest);
  return info.digest;
}

Result<Digest> LiveSource::digest(const std::string& path) {
  Pin& slot = pin(path);
  const std::lock_guard lock(slot.mutex);
  HM_TRY(resolve(slot, path));
  if (!slot.stat || slot.stat->kind != EntryKind::kFile) {
    return fail(ErrorCode::kNotFound, rules_->display(path) + ": not a file");
  }
  return digest_locked(slot, path);
}

Result<Digest> LiveSource::capture(const std::string& path) {
  Pin& slot = pin(path);
  const std::lock_guard lock(slot.mutex);
  HM_TRY(resolve(slot, path));
  if (!slot.stat || slot.stat->kind != EntryKind::kFile) {
    return fail(ErrorCode::kNotFound, rules_->display(path) + ": not a file");
  }
  if (slot.captured) return *slot.content;
  const std::uint64_t size = slot.stat->stamp.size;
  if (!slot.content) {
    HM_ASSIGN(slot.content, known_digest(*slot.stat));
  }
  if (slot.content && store_.blobs().has(*slot.content, size)) {
    slot.captured = true;
    return *slot.content;
  }
  HM_ASSIGN(const Fd fd, open_pinned(slot, path));
  HM_ASSIGN(const store::BlobInfo info, store_.blobs().put_copy(fd.get()));
  HM_TRY(check_unmoved(fd.get(), *slot.stat, rules_->display(path)));
  if (info.size != size || (slot.content && *slot.content != info.digest)) {
    // It did not move: what the store remembered of it was wrong, and may have been used already.
    HM_TRY(store_.drop_file_digests());
    return fail(ErrorCode::kChanged, rules_->display(path));
  }
  slot.content = info.digest;
  slot.captured = true;
  learn(*slot.stat, info.digest);
  return info.digest;
}

namespace {
// Reads up to the end of the file; false when it does not have the size of `bytes`.
Result<bool> read_whole(int fd, std::string& bytes) {
  std::size_t got = 0;
  char beyond = 0;
  while (true) {
    const bool full = got == bytes.size();
    const ssize_t n = ::pread(fd, full ? &beyond : bytes.data() + got,
                              full ? 1 : bytes.size() - got, static_cast<off_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (full || n == 0) return full && n == 0;
    got += static_cast<std::size_t>(n);
  }
}
}  // namespace

// The digest decides, not the stat: a file that was only touched still has the pinned bytes.
Status LiveSource::read_again(const Pin& pin, const std::string& path, std::string& bytes) {
  HM_ASSIGN(const Fd fd, open_now(path));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(rules_->display(path));
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kChanged, rules_->display(path));
  HM_ASSIGN(const bool whole, read_whole(fd.get(), bytes));
  if (whole && Digest::of(bytes) == *pin.content) return {};
  if (check_unmoved(fd.get(), *pin.stat, rules_->display(path))) {
    // It did not move: what the store remembered of it was wrong, and may have been used already.
    HM_TRY(store_.drop_file_digests());
  }
  return fail(ErrorCode::kChanged, rules_->display(path));
}

Result<Digest> LiveSource::read_small(const std::string& path, std::string& bytes) {
  Pin& slot = pin(path);
  const std::lock_guard lock(slot.mutex);
  HM_TRY(resolve(slot, path));
  const bool is_small =
      slot.stat && slot.stat->kind == EntryKind::kFile && slot.stat->stamp.size <= kSmallFile;
  if (!is_small) return fail(ErrorCode::kNotFound, rules_->display(path) + ": not a small file");
  bytes.resize(slot.stat->stamp.size);
  if (slot.content) {
    HM_TRY(read_again(slot, path, bytes));
    return *slot.content;
  }
  HM_ASSIGN(const Fd fd, open_pinned(slot, path));
  HM_ASSIGN(const bool whole, read_whole(fd.get(), bytes));
  HM_TRY(check_unmoved(fd.get(), *slot.stat, rules_->display(path)));
  if (!whole) return fail(ErrorCode::kChanged, rules_->display(path));
  slot.content = Digest::of(bytes);
  learn(*slot.stat, *slot.content);
  return *slot.content;
}

Result<bool> LiveSource::moved(const std::string& path) {
  Pin* slot = find_pin(path);
  if (slot == nullptr || kPlanted == Defect::kRecheck) return false;
  const std::lock_guard lock(slot->mutex);
  if (!slot->resolved) return false;
  HM_ASSIGN(const auto now, stat_now(path));
  if (now.has_value() != slot->stat.has_value()) return true;
  if (!now) return false;
  if (rules_->entry(*now) != rules_->entry(*slot->stat)) return true;
  if (slot->listing && !now->foreign) {
    HM_ASSIGN(const Listing listing, list_now(path));
    if (listing != *slot->listing) return true;
  }
  if (!slot->content) return false;
  const bool untouched = now->stamp == slot->stat->stamp && lasting_stamp(*now).has_value();
  if (untouched) return false;
  // Touched, replaced, or with a stamp that proves nothing: it may hold the same bytes or others.
  Pin fresh;
  fresh.resolved = true;
  fresh.stat = *now;
  const auto digest = digest_locked(fresh, path);
  if (!digest && digest.error().code == ErrorCode::kChanged) return true;
  if (!digest) return fail(digest.error());
  return *digest != *slot->content;
}

std::vector<store::FileDigest> LiveSource::take_learned() {
  const std::lock_guard lock(mutex_);
  return std::exchange(learned_, {});
}

}  // namespace hm::fs
