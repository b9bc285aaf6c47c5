#include "fs/upper_archive.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "fs/intake.h"
#include "fs/libarchive.h"
#include "fs/overlay_xattr.h"
#include "fs/skeleton.h"
#include "fs/upper_entries.h"

namespace hm::fs {

namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 18;  // bytes that are asked for at once
constexpr std::int64_t kMostId = UINT32_MAX - 1;       // the last one means "unchanged" to chown
constexpr std::size_t kLongestTarget = 4095;
constexpr std::size_t kLongestXattrName = 255;
constexpr std::size_t kLongestXattr = 65536;
constexpr std::uint64_t kMostMajor = 0xfff, kMostMinor = 0xfffff;  // of a device in Linux
constexpr std::string_view kSocketMark = "hm.socket";              // no name that a kernel allows

tl::unexpected<Error> refuse(const std::string& why) { return fail(ErrorCode::kInvalid, why); }

// The archive's bytes as libarchive asks for them. What the source gives is counted, so that bytes
// behind the end show.
class Input {
 public:
  explicit Input(const ArchiveSource& source) : source_(source), buffer_(kBuffer) {}

  static la_ssize_t read(archive* /*unused*/, void* input, const void** data) {
    auto& self = *static_cast<Input*>(input);
    auto got = self.source_(self.buffer_);
    if (!got) {
      self.error_ = std::move(got).error();
      return ARCHIVE_FATAL;
    }
    self.ended_ = self.ended_ || *got == 0;
    self.given_ += *got;
    *data = self.buffer_.data();
    return static_cast<la_ssize_t>(*got);
  }
  const std::optional<Error>& error() const { return error_; }
  bool ended() const { return ended_; }
  std::uint64_t given() const { return given_; }

 private:
  const ArchiveSource& source_;
  std::vector<char> buffer_;
  std::optional<Error> error_;
  bool ended_ = false;
  std::uint64_t given_ = 0;
};

// A directory of the scratch that goes away with the object.
class Staging {
 public:
  static Result<Staging> create(store::Scratch& scratch) {
    Staging staging(scratch.fresh("archive"));
    if (::mkdir(staging.path_.c_str(), 0700) != 0) return fail_errno(staging.path_);
    HM_ASSIGN(Fd fd, open_file(staging.path_, O_RDONLY | O_DIRECTORY));
    staging.fd_ = std::make_shared<const Fd>(std::move(fd));
    return staging;
  }
  Staging(Staging&& other) noexcept
      : path_(std::exchange(other.path_, {})), fd_(std::move(other.fd_)) {}
  Staging& operator=(Staging&&) = delete;
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    if (!path_.empty()) (void)remove_tree(AT_FDCWD, path_);
  }
  const std::shared_ptr<const Fd>& fd() const { return fd_; }

 private:
  explicit Staging(std::string path) : path_(std::move(path)) {}
  std::string path_;
  std::shared_ptr<const Fd> fd_;
};

struct CloseArchive {
  void operator()(archive* in) const { libarchive::read_free(in); }
};

class ArchiveCapture {
 public:
  ArchiveCapture(const ArchiveSource& source, const View& below, const StepTimes& times,
                 const ArchiveLimits& limits, Staging& staging)
      : input_(source),
        entries_(below, times),
        entries_left_(limits.entries),
        bytes_left_(limits.bytes),
        names_left_(limits.names),
        staging_(staging) {}

  Result<std::shared_ptr<const Layer>> run(store::BlobStore& blobs) {
    in_.reset(libarchive::read_new());
    if (!in_ || libarchive::read_support_format_tar(in_.get()) != ARCHIVE_OK ||
        libarchive::read_open(in_.get(), &input_, nullptr, Input::read, nullptr) != ARCHIVE_OK) {
      return broken();
    }
    while (true) {
      archive_entry* entry = nullptr;
      const int result = libarchive::read_next_header(in_.get(), &entry);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK) return broken();
      const char* name = libarchive::entry_pathname(entry);
      if (name == nullptr) return refuse("an entry without a name");
      std::string path = std::string_view(name) == "." ? "" : name;
      if (auto took = take(entry, path); !took) {
        return fail(std::move(took).error().in("/" + printable(path.substr(0, kShownPath))));
      }
    }
    HM_TRY(check_end());
    while (entries_.depth() > 0) HM_TRY(entries_.leave());
    HM_TRY(store(blobs));
    return entries_.finish();
  }

 private:
  static constexpr std::size_t kShownPath = 200;  // bytes, in an error

  struct File {
    UpperEntries::Added added;
    std::string staged;  // its name in the staging directory
    Xattrs xattrs;
  };

  tl::unexpected<Error> broken() const {
    if (input_.error()) return fail(*input_.error());
    const char* text = in_ ? libarchive::error_string(in_.get()) : nullptr;
    return refuse(std::string("not a tar archive as it must be: ") +
                  printable(text != nullptr ? text : "no reason given"));
  }

  Status check_end() const {
    if (input_.error()) return fail(*input_.error());
    if (input_.ended()) return refuse("the archive ends too early");
    if (entries_.depth() == 0) return refuse("the archive is empty");
    const auto read = static_cast<std::uint64_t>(libarchive::filter_bytes(in_.get(), 0));
    if (read != input_.given()) return refuse("bytes after the end of the archive");
    return {};
  }

  Status take(archive_entry* entry, const std::string& path) {
    if (libarchive::format(in_.get()) != ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE) {
      return refuse("not in pax format");
    }
    if (entries_left_-- == 0) return refuse("more entries than a layer may have");
    const bool is_root = !seen_root_;
    if (is_root != path.empty() || !is_valid_path(path)) return refuse("not a path of the step's");
    if (is_root && libarchive::entry_atime_is_set(entry) != 0) {
      entries_.set_end(
          to_ns({libarchive::entry_atime(entry), libarchive::entry_atime_nsec(entry)}));
    }
    if (!is_root && !PathLess{}(last_path_, path)) return refuse("twice, or not in order");
    seen_root_ = true;
    last_path_ = path;
    HM_TRY(spend_names(path.size()));
    if (libarchive::entry_acl_types(entry) != 0 || libarchive::entry_sparse_count(entry) != 0 ||
        libarchive::entry_fflags_text(entry) != nullptr) {
      return refuse("with lists, holes or flags");
    }
    item_ = LayerEntry();
    const char* link = libarchive::entry_hardlink(entry);
    if (link == nullptr) {
      HM_TRY(prepare(entry, path));
    } else if (libarchive::entry_size(entry) != 0 || libarchive::entry_symlink(entry) != nullptr) {
      return refuse("a link that is something else, too");
    }
    if (is_mounted_path(path)) return skip();
    HM_TRY(leave_up_to(parent_path(path), is_root));
    if (link != nullptr) return add_link(path, link);
    if (item_.entry.kind == EntryKind::kDirectory && !item_.whiteout) return enter();
    return add();
  }

  // The entry as it is in the archive, in item_ and xattrs_.
  Status prepare(archive_entry* entry, const std::string& path) {
    item_.path = path;
    item_.mtime_ns = to_ns({libarchive::entry_mtime(entry), libarchive::entry_mtime_nsec(entry)});
    HM_TRY(take_xattrs(entry));
    const auto kind = kind_of_mode(libarchive::entry_filetype(entry));
    if (!kind) return refuse("of an unknown type");
    Entry& out = item_.entry;
    out.kind = is_socket_ ? EntryKind::kSocket : *kind;
    const std::int64_t size = libarchive::entry_size(entry);
    if (size < 0 || (size != 0 && out.kind != EntryKind::kFile)) return refuse("with a bad size");
    out.size = static_cast<std::uint64_t>(size);
    if (is_socket_ && *kind != EntryKind::kFile) return refuse("a socket that is something else");
    const std::int64_t uid = libarchive::entry_uid(entry), gid = libarchive::entry_gid(entry);
    if (uid < 0 || uid > kMostId || gid < 0 || gid > kMostId) return refuse("with a bad owner");
    out.uid = static_cast<std::uint32_t>(uid);
    out.gid = static_cast<std::uint32_t>(gid);
    out.mode = libarchive::entry_perm(entry) & 07777;
    if (out.kind == EntryKind::kCharDevice || out.kind == EntryKind::kBlockDevice) {
      const std::uint64_t device_major = libarchive::entry_rdevmajor(entry);
      const std::uint64_t device_minor = libarchive::entry_rdevminor(entry);
      if (device_major > kMostMajor || device_minor > kMostMinor) {
        return refuse("with bad device numbers");
      }
      out.rdev = makedev(static_cast<unsigned>(device_major), static_cast<unsigned>(device_minor));
      if (out.rdev == 0 && out.kind == EntryKind::kBlockDevice) {
        return refuse("with bad device numbers");
      }
      if (out.rdev == 0) item_ = whiteout_at(path);
    }
    if (out.kind != EntryKind::kSymlink) return {};
    const char* target = libarchive::entry_symlink(entry);
    if (target != nullptr) out.target = target;
    if (out.target.empty() || out.target.size() > kLongestTarget) {
      return refuse("with a bad target");
    }
    out.mode = 0777;
    return spend_names(out.target.size());
  }

  Status take_xattrs(archive_entry* entry) {
    xattrs_ = UpperXattrs();
    is_socket_ = false;
    std::vector<std::string> names;
    libarchive::entry_xattr_reset(entry);
    const char* raw_name = nullptr;
    const void* raw_value = nullptr;
    std::size_t size = 0;
    while (libarchive::entry_xattr_next(entry, &raw_name, &raw_value, &size) == ARCHIVE_OK) {
      const std::string name = unescaped(raw_name);
      if (name.empty() || name.size() > kLongestXattrName || size > kLongestXattr) {
        return refuse("with a bad attribute");
      }
      HM_TRY(spend_names(name.size() + size));
      names.push_back(name);
      if (name == kSocketMark) {
        is_socket_ = true;
      } else if (is_upper_xattr(name)) {
        add_upper_xattr(xattrs_, name, std::string(static_cast<const char*>(raw_value), size));
      }
    }
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) {
      return refuse("with an attribute twice");
    }
    std::sort(xattrs_.kept.begin(), xattrs_.kept.end());
    return {};
  }

  // Only what UpperWriter escapes; a "%" of anybody else's stays.
  static std::string unescaped(std::string_view name) {
    std::string out;
    while (!name.empty()) {
      const std::string_view head = name.substr(0, 3);
      const bool is_escape = head == "%25" || head == "%3D";
      out += head == "%25" ? '%' : head == "%3D" ? '=' : name.front();
      name.remove_prefix(is_escape ? 3 : 1);
    }
    return out;
  }

  Status spend_names(std::uint64_t bytes) {
    if (bytes > names_left_) return refuse("more names and attributes than a layer may have");
    names_left_ -= bytes;
    return {};
  }

  Status spend_bytes(std::uint64_t bytes) {
    if (bytes > bytes_left_) return refuse("more bytes than a layer may have");
    bytes_left_ -= bytes;
    return {};
  }

  // Data of what the sandbox mounts over: libarchive reads past it.
  Status skip() { return spend_bytes(item_.entry.size); }

  Status leave_up_to(std::string_view parent, bool is_root) {
    if (is_root) return {};
    while (entries_.depth() > 0 && entries_.directory() != parent) HM_TRY(entries_.leave());
    if (entries_.depth() == 0) return refuse("in a directory that the archive does not have");
    return {};
  }

  Status enter() {
    if (entries_.depth() > UpperEntries::kMostLevels) return refuse("nested too deep");
    item_.opaque = xattrs_.opaque;
    item_.entry.xattrs = std::move(xattrs_.kept);
    return entries_.enter(std::move(item_));
  }

  Status add() {
    if (entries_.depth() == 0) return refuse("the root is no directory");
    HM_ASSIGN(const auto lower, entries_.below(base_name(item_.path)));
    if (item_.whiteout && !lower) return refuse("removed, but it was not there");
    const bool is_file = item_.entry.kind == EntryKind::kFile && !item_.whiteout;
    const std::uint64_t size = item_.entry.size;
    if (!is_file && !item_.whiteout) item_.entry.xattrs = std::move(xattrs_.kept);
    const UpperEntries::Added added = entries_.add(std::move(item_), lower);
    if (!is_file) return {};
    HM_TRY(spend_bytes(size));
    files_.push_back({added, std::to_string(files_.size()), std::move(xattrs_.kept)});
    return stage(files_.back().staged, size);
  }

  Status add_link(const std::string& path, const char* target) {
    const auto first = entries_.find(target);
    const bool fits = first && !entries_[*first].whiteout &&
                      entries_[*first].entry.kind != EntryKind::kDirectory &&
                      entries_[*first].path != path;
    if (!fits) return refuse("a link to what the archive does not have");
    entries_.link(path, *first);
    return {};
  }

  Status stage(const std::string& name, std::uint64_t size) {
    HM_ASSIGN(const Fd file,
              open_at(staging_.fd()->get(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    std::uint64_t written = 0;
    while (true) {
      const void* data = nullptr;
      std::size_t length = 0;
      la_int64_t offset = 0;
      const int result = libarchive::read_data_block(in_.get(), &data, &length, &offset);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK) return broken();
      if (offset < 0 || static_cast<std::uint64_t>(offset) != written || length > size - written) {
        return refuse("with holes");
      }
      HM_TRY(write_all(file.get(), {static_cast<const char*>(data), length}));
      written += length;
    }
    if (written != size) return refuse("shorter than it says");
    return {};
  }

  Status store(store::BlobStore& blobs) {
    const auto intake = Intake::create(blobs);
    std::vector<Intake::File*> stored;
    stored.reserve(files_.size());
    for (const File& file : files_) {
      stored.push_back(
          &intake->add(staging_.fd(), file.staged, entries_[file.added.number].entry.size));
    }
    intake->finish();
    for (std::size_t i = 0; i < files_.size(); ++i) {
      File& file = files_[i];
      if (!stored[i]->status) {
        return fail(
            std::move(stored[i]->status).error().in("/" + entries_[file.added.number].path));
      }
      entries_.complete(file.added, stored[i]->content, std::move(file.xattrs));
    }
    return {};
  }

  Input input_;
  std::unique_ptr<archive, CloseArchive> in_;  // reads from input_
  UpperEntries entries_;
  std::uint64_t entries_left_, bytes_left_, names_left_;
  Staging& staging_;
  std::vector<File> files_;
  std::string last_path_;
  bool seen_root_ = false;

  // Of the entry at hand.
  LayerEntry item_;
  UpperXattrs xattrs_;
  bool is_socket_ = false;
};

}  // namespace

Result<std::shared_ptr<const Layer>> capture_archive(const ArchiveSource& source, const View& below,
                                                     const StepTimes& times,
                                                     store::Scratch& scratch,
                                                     store::BlobStore& blobs,
                                                     const ArchiveLimits& limits) {
  HM_TRY(libarchive::load());
  HM_ASSIGN(Staging staging, Staging::create(scratch));
  return ArchiveCapture(source, below, times, limits, staging).run(blobs);
}

}  // namespace hm::fs
