#include "fs/capture.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "fs/intake.h"
#include "fs/overlay_xattr.h"
#include "fs/skeleton.h"

namespace hm::fs {

namespace {

// Each takes a descriptor, and a part of the stack.
constexpr std::ptrdiff_t kMostLevels = 2048;

// Walks the upper by directory descriptors: a step may have nested deeper than one path can name.
class Capture {
 public:
  Capture(const View& below, const StepTimes& times, store::BlobStore& blobs)
      : below_(below), times_(times), intake_(Intake::create(blobs)) {}

  Result<std::vector<LayerEntry>> run(const std::string& upper) {
    HM_ASSIGN(View::Node root, below_.root());
    HM_ASSIGN(Fd fd, open_file(upper, O_RDONLY | O_DIRECTORY));
    HM_TRY(directory(std::move(fd), "", std::optional(std::move(root))));
    intake_->finish();
    for (const Pending& item : pending_) HM_TRY(complete(item));
    for (const auto& [member, first] : members_) {
      LayerEntry item = entries_[first];
      item.path = std::move(entries_[member].path);
      entries_[member] = std::move(item);
    }
    return std::move(entries_);
  }

  std::size_t files() const { return pending_.size(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  // A file that the intake has: where its entry is, and whether it has the time of what it hides.
  struct Pending {
    std::size_t entry;
    bool own_time;
    Intake::File* file;
  };

  Status complete(const Pending& pending) {
    LayerEntry& item = entries_[pending.entry];
    Intake::File& file = *pending.file;
    if (!file.status) return fail(std::move(file.status).error().in("/" + item.path));
    item.content = file.content;
    item.entry.xattrs = std::move(file.xattrs);
    settle_time(item, pending.own_time);
    return {};
  }

  // `name` in `dir_fd`, "" for the directory itself. All but what the intake finds out.
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
    if (*kind == EntryKind::kFile) return item;
    HM_ASSIGN(UpperXattrs xattrs, name.empty() ? upper_xattrs(dir_fd) : upper_xattrs(dir_fd, name));
    item.entry.xattrs = std::move(xattrs.kept);
    item.opaque = xattrs.opaque && *kind == EntryKind::kDirectory;
    return item;
  }

  // Of what the view has at the same path: a file that is copied up keeps its time.
  static bool has_time_of(const LayerEntry& item, const std::optional<View::Node>& lower) {
    return lower && lower->entry.kind != EntryKind::kDirectory && lower->mtime_ns == item.mtime_ns;
  }

  void settle_time(LayerEntry& item, bool own) const {
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
  Status directory(Fd opened, const std::string& path, std::optional<View::Node> lower) {
    const auto fd = std::make_shared<const Fd>(std::move(opened));
    struct stat st {};
    if (::fstat(fd->get(), &st) != 0) return fail_errno("/" + path);
    auto made = entry_of(fd->get(), "", path, st);
    if (!made) return fail(std::move(made).error().in("/" + path));
    HM_ASSIGN(const auto names, names_at(fd->get()));
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

  Status child(const std::shared_ptr<const Fd>& dir, const std::string& name,
               const std::string& path, std::optional<View::Node> lower) {
    if (is_mounted_path(path)) return {};
    struct stat st {};
    if (::fstatat(dir->get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_errno("/" + path);
    }
    if (S_ISDIR(st.st_mode)) {
      if (std::count(path.begin(), path.end(), '/') >= kMostLevels) {
        return fail(ErrorCode::kIo, "/" + path.substr(0, 40) + "...: nested deeper than " +
                                        std::to_string(kMostLevels) + " directories");
      }
      auto fd = open_at(dir->get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (!fd) return fail(std::move(fd).error().in("/" + path));
      return directory(std::move(*fd), path, std::move(lower));
    }
    const auto added = non_directory(dir, name, path, st, lower);
    return added ? Status() : Status(fail(Error(added.error()).in("/" + path)));
  }

  Status non_directory(const std::shared_ptr<const Fd>& dir, const std::string& name,
                       const std::string& path, const struct stat& st,
                       const std::optional<View::Node>& lower) {
    // Taking the first name of a link group into the store changes its inode: what the others are
    // was seen then. Whiteouts are linked to each other and are no group.
    const std::pair inode{st.st_dev, st.st_ino};
    if (const auto first = groups_.find(inode); first != groups_.end()) {
      members_.emplace_back(entries_.size(), first->second);
      entries_.emplace_back().path = path;
      return {};
    }
    HM_ASSIGN(LayerEntry item, entry_of(dir->get(), name, path, st));
    const bool is_file = item.entry.kind == EntryKind::kFile && !item.whiteout;
    const bool own_time = has_time_of(item, lower);
    if (is_file) {
      pending_.push_back({entries_.size(), own_time, &intake_->add(dir, name, item.entry.size)});
      bytes_ += item.entry.size;
    } else if (!item.whiteout) {
      settle_time(item, own_time);
    }
    if (st.st_nlink > 1 && !item.whiteout) {
      item.entry.link_group = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
      groups_.emplace(inode, entries_.size());
    }
    entries_.push_back(std::move(item));
    return {};
  }

  const View& below_;
  const StepTimes& times_;
  const std::int64_t captured_ns_ = now_ns();
  std::unique_ptr<Intake> intake_;
  std::vector<LayerEntry> entries_;
  std::vector<Pending> pending_;
  std::uint64_t bytes_ = 0;                                   // of all that are pending
  std::map<std::pair<dev_t, ino_t>, std::size_t> groups_;     // entry of a link group's first name
  std::vector<std::pair<std::size_t, std::size_t>> members_;  // entries of another name and of it
};

}  // namespace

Result<std::shared_ptr<const Layer>> capture_upper(const std::string& upper, const View& below,
                                                   const StepTimes& times,
                                                   store::BlobStore& blobs) {
  const auto started = std::chrono::steady_clock::now();
  Capture capture(below, times, blobs);
  HM_ASSIGN(std::vector<LayerEntry> entries, capture.run(upper));
  auto layer = Layer::build(std::move(entries));
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
