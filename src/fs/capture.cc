#include "fs/capture.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <map>

#include "fs/intake.h"
#include "fs/overlay_xattr.h"
#include "fs/skeleton.h"
#include "fs/upper_entries.h"

namespace hm::fs {

namespace {

// Walks the upper by directory descriptors: a step may have nested deeper than one path can name.
class Capture {
 public:
  Capture(const View& below, const StepTimes& times, store::BlobStore& blobs)
      : entries_(below, times), intake_(Intake::create(blobs)) {}

  Result<std::shared_ptr<const Layer>> run(const std::string& upper) {
    HM_ASSIGN(Fd fd, open_file(upper, O_RDONLY | O_DIRECTORY));
    HM_TRY(directory(std::move(fd), ""));
    intake_->finish();
    for (const Pending& item : pending_) {
      Intake::File& file = *item.file;
      const std::string& path = entries_[item.added.number].path;
      if (!file.status) return fail(std::move(file.status).error().in("/" + path));
      entries_.complete(item.added, file.content, std::move(file.xattrs));
    }
    return entries_.finish();
  }

  std::size_t files() const { return pending_.size(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Pending {
    UpperEntries::Added added;
    Intake::File* file;
  };

  // `name` in `dir_fd`, "" for the directory itself. All but what the intake finds out.
  static Result<LayerEntry> entry_of(int dir_fd, const std::string& name, const std::string& path,
                                     const struct stat& st) {
    LayerEntry item;
    item.path = path;
    const auto kind = kind_of_mode(st.st_mode);
    if (!kind) return fail(ErrorCode::kIo, "unknown file type");
    if (path.size() > kLongestPath) return fail(ErrorCode::kIo, "the path is too long");
    if (*kind == EntryKind::kCharDevice && st.st_rdev == 0) return whiteout_at(path);
    item.entry.kind = *kind;
    item.entry.mode = st.st_mode & 07777;
    item.entry.uid = st.st_uid;
    item.entry.gid = st.st_gid;
    item.mtime_ns = to_ns(st.st_mtim);
    if (*kind == EntryKind::kFile) item.entry.size = static_cast<std::uint64_t>(st.st_size);
    const bool is_device = *kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice;
    if (is_device) item.entry.rdev = st.st_rdev;
    if (*kind == EntryKind::kSymlink) {
      item.entry.mode = 0777;
      HM_ASSIGN(item.entry.target, read_link_at(dir_fd, name));
    }
    if (*kind == EntryKind::kFile) return item;
    HM_ASSIGN(UpperXattrs xattrs, name.empty() ? upper_xattrs(dir_fd) : upper_xattrs(dir_fd, name));
    item.entry.xattrs = std::move(xattrs.kept);
    item.opaque = xattrs.opaque && *kind == EntryKind::kDirectory;
    return item;
  }

  // Adds `path` and everything below it.
  Status directory(Fd opened, const std::string& path) {
    const auto fd = std::make_shared<const Fd>(std::move(opened));
    struct stat st {};
    if (::fstat(fd->get(), &st) != 0) return fail_errno("/" + path);
    auto made = entry_of(fd->get(), "", path, st);
    if (!made) return fail(std::move(made).error().in("/" + path));
    HM_ASSIGN(const auto names, names_at(fd->get()));
    HM_TRY(entries_.enter(std::move(*made)));
    for (const std::string& name : names) HM_TRY(child(fd, name, join_path(path, name)));
    return entries_.leave();
  }

  Status child(const std::shared_ptr<const Fd>& dir, const std::string& name,
               const std::string& path) {
    if (is_mounted_path(path)) return {};
    struct stat st {};
    if (::fstatat(dir->get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_errno("/" + path);
    }
    if (S_ISDIR(st.st_mode)) {
      // Each takes a descriptor, too.
      if (entries_.depth() > UpperEntries::kMostLevels) {
        return fail(ErrorCode::kIo, "/" + path.substr(0, 40) + "...: nested deeper than " +
                                        std::to_string(UpperEntries::kMostLevels) + " directories");
      }
      auto fd = open_at(dir->get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (!fd) return fail(std::move(fd).error().in("/" + path));
      return directory(std::move(*fd), path);
    }
    const auto added = non_directory(dir, name, path, st);
    return added ? Status() : Status(fail(Error(added.error()).in("/" + path)));
  }

  Status non_directory(const std::shared_ptr<const Fd>& dir, const std::string& name,
                       const std::string& path, const struct stat& st) {
    // Taking the first name of a link group into the store changes its inode: what the others are
    // was seen then. Whiteouts are linked to each other and are no group.
    const std::pair inode{st.st_dev, st.st_ino};
    if (const auto first = groups_.find(inode); first != groups_.end()) {
      entries_.link(path, first->second);
      return {};
    }
    HM_ASSIGN(LayerEntry item, entry_of(dir->get(), name, path, st));
    const bool is_file = item.entry.kind == EntryKind::kFile && !item.whiteout;
    const bool is_linked = st.st_nlink > 1 && !item.whiteout;
    const std::uint64_t size = item.entry.size;
    HM_ASSIGN(const auto lower, entries_.below(name));
    const UpperEntries::Added added = entries_.add(std::move(item), lower);
    if (is_file) {
      pending_.push_back({added, &intake_->add(dir, name, size)});
      bytes_ += size;
    }
    if (is_linked) groups_.emplace(inode, added.number);
    return {};
  }

  UpperEntries entries_;
  std::unique_ptr<Intake> intake_;
  std::vector<Pending> pending_;
  std::uint64_t bytes_ = 0;                                // of all that are pending
  std::map<std::pair<dev_t, ino_t>, std::size_t> groups_;  // number of a link group's first name
};

}  // namespace

Result<std::shared_ptr<const Layer>> capture_upper(const std::string& upper, const View& below,
                                                   const StepTimes& times,
                                                   store::BlobStore& blobs) {
  const auto started = std::chrono::steady_clock::now();
  Capture capture(below, times, blobs);
  auto layer = capture.run(upper);
  if (!layer) return layer;
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
  spdlog::debug("capture: {} files, {} bytes in {:.1f} ms", capture.files(), capture.bytes(),
                took.count());
  return layer;
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
