#include "fs/capture.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "fs/overlay_xattr.h"
#include "fs/skeleton.h"

namespace hm::fs {

namespace {

// Each takes a descriptor, and a part of the stack.
constexpr std::ptrdiff_t kMostLevels = 2048;

struct UpperXattrs {
  Xattrs kept;
  bool opaque = false;
};

// Walks the upper by directory descriptors: a step may have nested deeper than one path can name.
class Capture {
 public:
  Capture(const View& below, const StepTimes& times, store::BlobStore& blobs)
      : below_(below), times_(times), blobs_(blobs) {}

  Result<std::vector<LayerEntry>> run(const std::string& upper) {
    HM_ASSIGN(View::Node root, below_.root());
    HM_ASSIGN(const Fd fd, open_file(upper, O_RDONLY | O_DIRECTORY));
    HM_TRY(directory(fd.get(), "", std::optional(std::move(root))));
    return std::move(entries_);
  }

 private:
  // Extended attributes cannot be asked for relative to a descriptor.
  static std::string proc_path(int dir_fd, std::string_view name) {
    return "/proc/self/fd/" + std::to_string(dir_fd) + "/" + std::string(name);
  }

  static Result<UpperXattrs> read_xattrs(const std::string& host) {
    UpperXattrs out;
    std::string names(65536, '\0');
    const ssize_t size = ::llistxattr(host.c_str(), names.data(), names.size());
    if (size < 0 && errno == ENOTSUP) return out;
    if (size < 0) return fail_errno("llistxattr");
    names.resize(static_cast<std::size_t>(size));
    for (std::size_t at = 0; at < names.size(); at = names.find('\0', at) + 1) {
      const std::string name = names.c_str() + at;
      const bool kept = !is_overlays_own_xattr(name) && is_kept_xattr(name);
      if (!kept && name != "user.overlay.opaque") continue;
      std::string value(65536, '\0');
      const ssize_t n = ::lgetxattr(host.c_str(), name.c_str(), value.data(), value.size());
      if (n < 0) return fail_errno(name);
      value.resize(static_cast<std::size_t>(n));
      if (kept) {
        out.kept.emplace_back(unescape_overlay_xattr(name), std::move(value));
      } else {
        out.opaque = value == "y";
      }
    }
    std::sort(out.kept.begin(), out.kept.end());
    return out;
  }

  // `name` in `dir_fd`, "" for the directory itself.
  Result<LayerEntry> entry_of(int dir_fd, const std::string& name, const std::string& path,
                              const struct stat& st) const {
    LayerEntry item;
    item.path = path;
    const auto kind = kind_of_mode(st.st_mode);
    if (!kind) return fail(ErrorCode::kIo, "unknown file type");
    if (path.size() > kLongestPath) return fail(ErrorCode::kIo, "the path is too long");
    item.entry.kind = *kind;
    item.entry.mode = st.st_mode & 07777;
    item.entry.uid = st.st_uid;
    item.entry.gid = st.st_gid;
    item.mtime_ns = to_ns(st.st_mtim);
    if (*kind == EntryKind::kFile) item.entry.size = static_cast<std::uint64_t>(st.st_size);
    const bool is_device = *kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice;
    if (is_device) item.entry.rdev = st.st_rdev;
    item.whiteout = *kind == EntryKind::kCharDevice && st.st_rdev == 0;
    if (item.whiteout) {
      item.entry = Entry{};  // nothing of the device is the step's
      item.mtime_ns = 0;
      return item;
    }
    if (*kind == EntryKind::kSymlink) {
      item.entry.mode = 0777;
      HM_ASSIGN(item.entry.target, read_link_at(dir_fd, name));
    }
    HM_ASSIGN(UpperXattrs xattrs, read_xattrs(proc_path(dir_fd, name.empty() ? "." : name)));
    item.entry.xattrs = std::move(xattrs.kept);
    item.opaque = xattrs.opaque && *kind == EntryKind::kDirectory;
    return item;
  }

  // `lower` is what the view has at the same path: a file that is copied up keeps its time.
  void settle_time(LayerEntry& item, const std::optional<View::Node>& lower) const {
    const bool own =
        lower && lower->entry.kind != EntryKind::kDirectory && lower->mtime_ns == item.mtime_ns;
    const bool before_or_after = item.mtime_ns < times_.started_ns || item.mtime_ns > captured_ns_;
    if (!own && !before_or_after) return;
    item.time_of = TimeOf::kKept;
    if (item.mtime_ns == kFixedTimeNs) return;  // every file of every workspace has it
    const bool is_file = item.entry.kind == EntryKind::kFile;
    const std::string* source =
        own ? &item.path
            : times_.seen.source(item.mtime_ns, is_file ? item.content.hex() : item.entry.target);
    if (source == nullptr) return;
    item.time_of = TimeOf::kTaken;
    item.time_path = *source;
    item.mtime_ns = 0;
  }

  // Adds `path` and everything below it; `lower` is what the view has there.
  Status directory(int fd, const std::string& path, std::optional<View::Node> lower) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return fail_errno("/" + path);
    auto made = entry_of(fd, "", path, st);
    if (!made) return fail(std::move(made).error().in("/" + path));
    HM_ASSIGN(const auto names, names_at(fd));
    const bool merges = lower && lower->entry.kind == EntryKind::kDirectory;
    const bool changes_nothing = merges && lower->entry == made->entry;
    const bool opaque = made->opaque;
    const std::size_t at = entries_.size();
    entries_.push_back(std::move(*made));
    for (const std::string& name : names) {
      std::optional<View::Node> below;
      if (merges && !opaque) {
        HM_ASSIGN(below, below_.child(*lower, name));
      }
      HM_TRY(child(fd, name, join_path(path, name), std::move(below)));
    }
    // The layer's encoding wants every parent; a directory that only repeats the view and has
    // nothing in it says nothing.
    const bool empty = entries_.size() == at + 1;
    if (!empty || !changes_nothing) return {};
    if (opaque) {
      HM_ASSIGN(const Listing hidden, below_.list(*lower));
      const bool hides = std::any_of(hidden.begin(), hidden.end(), [&](const DirEntry& item) {
        return !is_mounted_path(join_path(path, item.name));
      });
      if (hides) return {};
    }
    entries_.pop_back();
    return {};
  }

  Status child(int dir_fd, const std::string& name, const std::string& path,
               std::optional<View::Node> lower) {
    if (is_mounted_path(path)) return {};
    struct stat st {};
    if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_errno("/" + path);
    }
    if (S_ISDIR(st.st_mode)) {
      if (std::count(path.begin(), path.end(), '/') >= kMostLevels) {
        return fail(ErrorCode::kIo, "/" + path.substr(0, 40) + "...: nested deeper than " +
                                        std::to_string(kMostLevels) + " directories");
      }
      auto fd = open_at(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (!fd) return fail(std::move(fd).error().in("/" + path));
      return directory(fd->get(), path, std::move(lower));
    }
    auto item = non_directory(dir_fd, name, path, st, lower);
    if (!item) return fail(std::move(item).error().in("/" + path));
    entries_.push_back(std::move(*item));
    return {};
  }

  Result<LayerEntry> non_directory(int dir_fd, const std::string& name, const std::string& path,
                                   const struct stat& st, const std::optional<View::Node>& lower) {
    // Taking the first name of a link group into the store changes its inode: what the others are
    // was seen then. Whiteouts are linked to each other and are no group.
    const std::pair inode{st.st_dev, st.st_ino};
    if (const auto first = groups_.find(inode); first != groups_.end()) {
      LayerEntry item = first->second;
      item.path = path;
      return item;
    }
    HM_ASSIGN(LayerEntry item, entry_of(dir_fd, name, path, st));
    if (item.whiteout) return item;
    if (item.entry.kind == EntryKind::kFile) {
      HM_ASSIGN(const store::BlobInfo info, blobs_.adopt(dir_fd, name));
      if (info.size != item.entry.size) {
        return fail(ErrorCode::kIo, "changed while it was captured");
      }
      item.content = info.digest;
    }
    settle_time(item, lower);
    if (st.st_nlink > 1) {
      item.entry.link_group = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
      groups_.emplace(inode, item);
    }
    return item;
  }

  const View& below_;
  const StepTimes& times_;
  const std::int64_t captured_ns_ = now_ns();
  store::BlobStore& blobs_;
  std::vector<LayerEntry> entries_;
  std::map<std::pair<dev_t, ino_t>, LayerEntry> groups_;  // first name of each link group
};

}  // namespace

Result<std::shared_ptr<const Layer>> capture_upper(const std::string& upper, const View& below,
                                                   const StepTimes& times,
                                                   store::BlobStore& blobs) {
  HM_ASSIGN(std::vector<LayerEntry> entries, Capture(below, times, blobs).run(upper));
  return Layer::build(std::move(entries));
}

Result<StoredLayer> store_layer(const Layer& layer, store::BlobStore& blobs) {
  HM_ASSIGN(const Digest digest, blobs.put(layer.encode()));
  HM_ASSIGN(const Digest mtimes, blobs.put(layer.encode_mtimes()));
  return StoredLayer{digest, mtimes};
}

Result<std::shared_ptr<const Layer>> load_layer(const store::LayerTimes& times,
                                                const store::BlobStore& blobs) {
  HM_ASSIGN(const std::string blob, blobs.read(times.layer));
  HM_ASSIGN(const std::string mtimes, blobs.read(times.mtimes));
  return Layer::decode(blob, mtimes);
}

Result<ViewLayer> load_view_layer(const store::LayerTimes& times, const store::BlobStore& blobs) {
  HM_ASSIGN(auto layer, load_layer(times, blobs));
  return ViewLayer{times.layer, std::move(layer), times.started_ns, times.captured_ns, {}};
}

}  // namespace hm::fs
