#include "fs/capture.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "fs/skeleton.h"

namespace hm::fs {

namespace {

constexpr std::string_view kOverlayXattr = "user.overlay.";
constexpr std::string_view kEscapedXattr = "user.overlay.overlay.";

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

struct UpperXattrs {
  Xattrs kept;
  bool opaque = false;
};

class Capture {
 public:
  Capture(std::string upper, const View& below, store::BlobStore& blobs)
      : upper_(std::move(upper)), below_(below), blobs_(blobs) {}

  Result<std::vector<LayerEntry>> run() {
    HM_ASSIGN(View::Node root, below_.root());
    HM_TRY(directory("", std::optional(std::move(root))));
    return std::move(entries_);
  }

 private:
  std::string host_path(const std::string& path) const {
    return path.empty() ? upper_ : upper_ + "/" + path;
  }

  Result<UpperXattrs> read_xattrs(const std::string& path) const {
    const std::string host = host_path(path);
    UpperXattrs out;
    std::string names(65536, '\0');
    const ssize_t size = ::llistxattr(host.c_str(), names.data(), names.size());
    if (size < 0 && errno == ENOTSUP) return out;
    if (size < 0) return fail_errno(host);
    names.resize(static_cast<std::size_t>(size));
    for (std::size_t at = 0; at < names.size(); at = names.find('\0', at) + 1) {
      std::string name = names.c_str() + at;
      const bool overlays_own = name.starts_with(kOverlayXattr) && !name.starts_with(kEscapedXattr);
      const bool kept =
          !overlays_own && (name.starts_with("user.") || name == "security.capability" ||
                            name.starts_with("system.posix_acl_"));
      if (!kept && name != "user.overlay.opaque") continue;
      std::string value(65536, '\0');
      const ssize_t n = ::lgetxattr(host.c_str(), name.c_str(), value.data(), value.size());
      if (n < 0) return fail_errno(host + ": " + name);
      value.resize(static_cast<std::size_t>(n));
      if (!kept) {
        out.opaque = value == "y";
        continue;
      }
      if (name.starts_with(kEscapedXattr)) {
        name = std::string(kOverlayXattr) + name.substr(kEscapedXattr.size());
      }
      out.kept.emplace_back(std::move(name), std::move(value));
    }
    std::sort(out.kept.begin(), out.kept.end());
    return out;
  }

  Result<std::vector<std::string>> names_in(const std::string& path) const {
    const std::string host = host_path(path);
    const std::unique_ptr<DIR, DirCloser> dir(::opendir(host.c_str()));
    if (!dir) return fail_errno(host);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(dir.get())) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    if (errno != 0) return fail_errno(host);
    std::sort(names.begin(), names.end());
    return names;
  }

  Result<LayerEntry> entry_of(const std::string& path, const struct stat& st) const {
    LayerEntry item;
    item.path = path;
    const auto kind = kind_of_mode(st.st_mode);
    if (!kind) return fail(ErrorCode::kIo, path + ": unknown file type");
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
      HM_ASSIGN(item.entry.target, read_link_at(AT_FDCWD, host_path(path)));
    }
    HM_ASSIGN(UpperXattrs xattrs, read_xattrs(path));
    item.entry.xattrs = std::move(xattrs.kept);
    item.opaque = xattrs.opaque && *kind == EntryKind::kDirectory;
    if (*kind != EntryKind::kDirectory && st.st_nlink > 1) {
      item.entry.link_group = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
    }
    return item;
  }

  // Adds `path` and everything below it; `lower` is what the view has there.
  Status directory(const std::string& path, std::optional<View::Node> lower) {
    struct stat st {};
    if (::lstat(host_path(path).c_str(), &st) != 0) return fail_errno(host_path(path));
    HM_ASSIGN(LayerEntry item, entry_of(path, st));
    HM_ASSIGN(const auto names, names_in(path));
    const bool merges = lower && lower->entry.kind == EntryKind::kDirectory;
    const bool changes_nothing = merges && lower->entry == item.entry;
    const bool opaque = item.opaque;
    bool hides_names = false;
    if (opaque && merges && names.empty()) {
      HM_ASSIGN(const Listing hidden, below_.list(*lower));
      hides_names = !hidden.empty();
    }
    const std::size_t at = entries_.size();
    entries_.push_back(std::move(item));
    for (const std::string& name : names) {
      std::optional<View::Node> below;
      if (merges && !opaque) {
        HM_ASSIGN(below, below_.child(*lower, name));
      }
      HM_TRY(child(join_path(path, name), std::move(below)));
    }
    // The layer's encoding wants every parent; a directory that only repeats the view and has
    // nothing in it says nothing.
    const bool empty = entries_.size() == at + 1;
    if (empty && changes_nothing && !hides_names) entries_.pop_back();
    return {};
  }

  Status child(const std::string& path, std::optional<View::Node> lower) {
    if (is_mounted_path(path)) return {};
    struct stat st {};
    if (::lstat(host_path(path).c_str(), &st) != 0) return fail_errno(host_path(path));
    if (S_ISDIR(st.st_mode)) return directory(path, std::move(lower));
    HM_ASSIGN(LayerEntry item, entry_of(path, st));
    if (!item.whiteout && item.entry.kind == EntryKind::kFile) {
      HM_ASSIGN(item.content, file_content(path, item));
    }
    entries_.push_back(std::move(item));
    return {};
  }

  Result<Digest> file_content(const std::string& path, const LayerEntry& item) {
    const std::string& group = item.entry.link_group;
    if (!group.empty()) {
      if (const auto known = groups_.find(group); known != groups_.end()) return known->second;
    }
    HM_ASSIGN(const store::BlobInfo info, blobs_.adopt(host_path(path)));
    if (info.size != item.entry.size) {
      return fail(ErrorCode::kIo, path + ": changed while it was captured");
    }
    if (!group.empty()) groups_.emplace(group, info.digest);
    return info.digest;
  }

  const std::string upper_;
  const View& below_;
  store::BlobStore& blobs_;
  std::vector<LayerEntry> entries_;
  std::map<std::string, Digest> groups_;  // (device:inode) → content of a link group
};

}  // namespace

Result<std::shared_ptr<const Layer>> capture_upper(const std::string& upper, const View& below,
                                                   store::BlobStore& blobs) {
  HM_ASSIGN(std::vector<LayerEntry> entries, Capture(upper, below, blobs).run());
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

}  // namespace hm::fs
