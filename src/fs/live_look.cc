#include "fs/live_look.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "fs/file_age.h"
#include "fs/overlay_xattr.h"
#include "fs/posix_acl.h"

namespace hm::fs {

namespace {

constexpr std::size_t kHandles = 48;
constexpr std::size_t kMostOnDisk = 10'000;  // names of a directory

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

using Directory = std::unique_ptr<DIR, DirCloser>;

Result<Fd> open_beneath(const LiveLocation& where, int flags, bool cross_mounts) {
  std::uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (!cross_mounts) resolve |= RESOLVE_NO_XDEV;
  return open_resolving(where.dir_fd, where.path, flags | O_NOFOLLOW, resolve);
}

// To be listed.
Result<Directory> open_directory(const LiveLocation& where, bool cross_mounts) {
  HM_ASSIGN(Fd fd, open_beneath(where, O_RDONLY | O_DIRECTORY, cross_mounts));
  Directory dir(::fdopendir(fd.get()));
  if (!dir) return fail_errno(where.path);
  fd.release();
  return dir;
}

// A path longer than one system call can name may well exist: that is an error, not an absence.
bool means_absent(int error, const std::string& path) {
  return error == ENOENT || error == ENOTDIR || error == ELOOP ||
         (error == ENAMETOOLONG && path.size() < PATH_MAX - 1);
}

Result<LiveStat> from_stat(const struct stat& st) {
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

bool is_file_or_directory(EntryKind kind) {
  return kind == EntryKind::kFile || kind == EntryKind::kDirectory;
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

Result<Xattrs> live_xattrs(int path_fd) {
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

// --- DirectoryHandles -----------------------------------------------------------------------

std::shared_ptr<const Fd> DirectoryHandles::find(std::string_view path) {
  const std::lock_guard lock(mutex_);
  const auto item = std::find_if(items_.begin(), items_.end(),
                                 [&](const Item& known) { return known.path == path; });
  if (item == items_.end()) return nullptr;
  if (Clock::now() - item->opened > lifetime_) {
    items_.erase(item);
    return nullptr;
  }
  std::rotate(items_.begin(), item, item + 1);
  return items_.front().fd;
}

void DirectoryHandles::keep(std::string_view path, std::shared_ptr<const Fd> fd) {
  const std::lock_guard lock(mutex_);
  if (items_.size() == kHandles) items_.pop_back();
  items_.insert(items_.begin(), {std::string(path), std::move(fd), Clock::now()});
}

// --- LiveLook -------------------------------------------------------------------------------

Result<std::optional<LiveStat>> LiveLook::walk(const std::string& path) {
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
  HM_ASSIGN(LiveStat stat, from_stat(st));
  if (is_file_or_directory(stat.kind)) stat.device = device_of(fd->get(), st.st_dev);
  HM_ASSIGN(const bool visible, rules_->visible(path, stat.kind, stat.mode));
  if (!visible) return absent;
  if (stat.kind == EntryKind::kSymlink) {
    HM_ASSIGN(stat.target, read_link_at(fd->get(), ""));
  } else if (rules_->wants_xattrs()) {
    HM_ASSIGN(stat.xattrs, live_xattrs(fd->get()));
  }
  return std::optional(std::move(stat));
}

Result<Listing> LiveLook::list(const std::string& path) {
  if (auto fixed = rules_->fixed_listing(path)) return std::move(*fixed);
  const auto where = rules_->locate(path);
  if (!where || where->dir_fd < 0) return Listing{};
  const auto dir = open_directory(*where, rules_->crosses_mounts());
  if (!dir) {
    if (means_absent(dir.error().errno_value, path))
      return fail(ErrorCode::kChanged, rules_->display(path));
    return fail(Error(dir.error()).in(rules_->display(path)));
  }
  const int dir_fd = ::dirfd(dir->get());
  HM_ASSIGN(const bool shows_plain, rules_->shows_plain(path));
  Listing out;
  errno = 0;
  while (const dirent* entry = ::readdir(dir->get())) {
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
      if (foreign && kind != EntryKind::kDirectory) continue;  // as walk has it
      if (foreign) mode = 0755;
    }
    if (!kind) continue;
    bool visible = shows_plain && name != ".git" &&
                   (is_file_or_directory(*kind) || *kind == EntryKind::kSymlink);
    if (!visible) {
      HM_ASSIGN(visible, rules_->visible(join_path(path, name), *kind, mode));
    }
    if (visible) out.push_back({name, *kind});
    errno = 0;
  }
  if (errno != 0) return fail_errno(rules_->display(path));
  std::sort(out.begin(), out.end());
  return out;
}

namespace {

// In the order of inode numbers; none where there are very many.
template <class Wanted>
std::vector<std::string> names_on_disk(DIR* dir, Wanted wanted) {
  std::vector<std::pair<ino_t, std::string>> found;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == ".." || !wanted(entry->d_type)) continue;
    found.emplace_back(entry->d_ino, name);
    if (found.size() > kMostOnDisk) return {};
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> names;
  names.reserve(found.size());
  for (auto& [inode, name] : found) names.push_back(std::move(name));
  return names;
}

// Of no other filesystem: nobody has asked for what is there.
void read_inodes(const LiveLocation& where) {
  const auto dir = open_directory(where, false);
  if (!dir) return;
  for (const std::string& name : names_on_disk(dir->get(), [](unsigned char) { return true; })) {
    struct statx st {};
    (void)::statx(::dirfd(dir->get()), name.c_str(),
                  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_BASIC_STATS,
                  &st);
  }
}

}  // namespace

OnDisk LiveLook::files_on_disk(const std::string& path) const {
  const auto where = rules_->locate(path);
  if (!where || where->dir_fd < 0) return {};
  auto opened = open_directory(*where, rules_->crosses_mounts());
  if (!opened) return {};
  const std::shared_ptr<DIR> dir = std::move(*opened);
  OnDisk out;
  out.names = names_on_disk(dir.get(), [](unsigned char type) { return type == DT_REG; });
  out.fetch = [dir, names = out.names](std::size_t place) {
    const auto file = open_at(::dirfd(dir.get()), names[place], O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (file) ::posix_fadvise(file->get(), 0, kSmallFile, POSIX_FADV_WILLNEED);
  };
  return out;
}

OnDisk LiveLook::directories_on_disk(const std::string& path) const {
  const auto where = rules_->locate(path);
  if (!where || where->dir_fd < 0) return {};
  const auto dir = open_directory(*where, rules_->crosses_mounts());
  if (!dir) return {};
  OnDisk out;
  out.names = names_on_disk(dir->get(), [](unsigned char type) { return type == DT_DIR; });
  out.fetch = [this, path, names = out.names](std::size_t place) {
    const auto child = rules_->locate(join_path(path, names[place]));
    if (child && child->dir_fd >= 0) read_inodes(*child);
  };
  return out;
}

Result<Fd> LiveLook::open(const std::string& path) {
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

Result<LiveStat> LiveLook::stat_of(int fd, const std::string& path) const {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return fail_errno(rules_->display(path));
  return from_stat(st);
}

std::optional<std::uint64_t> LiveLook::device_of(int fd, dev_t device) {
  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = devices_.try_emplace(device, 0);
  if (fresh) it->second = stamp_device(fd, device);
  return it->second == 0 ? std::nullopt : std::optional(it->second);
}

std::optional<std::optional<std::uint64_t>> LiveLook::known_device(dev_t device) {
  const std::lock_guard lock(mutex_);
  const auto it = devices_.find(device);
  if (it == devices_.end()) return std::nullopt;
  return it->second == 0 ? std::optional<std::uint64_t>() : std::optional(it->second);
}

std::shared_ptr<const Fd> LiveLook::directory(std::string_view path, DirectoryHandles& handles) {
  if (auto known = handles.find(path)) return known;
  const auto where = rules_->locate(std::string(path));
  if (!where || where->dir_fd < 0) return nullptr;
  auto fd = open_beneath(*where, O_PATH | O_DIRECTORY, true);
  if (!fd) return nullptr;
  auto shared = std::make_shared<const Fd>(std::move(*fd));
  handles.keep(path, shared);
  return shared;
}

// One system call for a file or a directory that is there, and for a name that is not; nullopt
// where it takes more to say what is there.
std::optional<std::optional<LiveStat>> LiveLook::quick_stat(const std::string& path,
                                                            DirectoryHandles& handles) {
  if (path.empty() || !rules_->crosses_mounts() || rules_->wants_xattrs()) return std::nullopt;
  const auto dir = directory(parent_path(path), handles);
  if (!dir) return std::nullopt;
  struct statx st {};
  const char* name = path.c_str() + (path.size() - base_name(path).size());
  if (::statx(dir->get(), name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &st) !=
      0) {
    return errno == ENOENT ? std::optional(std::optional<LiveStat>()) : std::nullopt;
  }
  if (!S_ISREG(st.stx_mode) && !S_ISDIR(st.stx_mode)) return std::nullopt;
  const dev_t number = makedev(st.stx_dev_major, st.stx_dev_minor);
  const auto device = known_device(number);
  if (!device) return std::nullopt;
  LiveStat out;
  out.kind = S_ISREG(st.stx_mode) ? EntryKind::kFile : EntryKind::kDirectory;
  out.mode = st.stx_mode & 07777;
  out.uid = st.stx_uid;
  out.gid = st.stx_gid;
  out.stamp = {number, st.stx_ino, st.stx_size, to_ns({st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec}),
               to_ns({st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec})};
  out.device = *device;
  return std::optional(std::move(out));
}

Result<std::optional<LiveStat>> LiveLook::stat(const std::string& path, DirectoryHandles& handles) {
  auto quick = quick_stat(path, handles);
  if (!quick) return walk(path);
  if (!*quick) return std::optional<LiveStat>{};
  HM_ASSIGN(const bool visible, rules_->visible(path, (*quick)->kind, (*quick)->mode));
  if (!visible) return std::optional<LiveStat>{};
  return std::move(*quick);
}

Result<std::optional<LiveStat>> LiveLook::stat_again(const std::string& path, EntryKind known,
                                                     DirectoryHandles& handles) {
  auto quick = rules_->needs_mode() ? std::nullopt : quick_stat(path, handles);
  if (!quick || !*quick || (*quick)->kind != known) return stat(path, handles);
  return std::move(*quick);
}

}  // namespace hm::fs
