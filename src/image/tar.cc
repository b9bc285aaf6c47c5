#include "image/tar.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "fs/live_rules.h"
#include "fs/overlay_xattr.h"
#include "image/libarchive.h"

namespace hm::image {

namespace {

using fs::EntryKind;

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
constexpr std::size_t kBlock = 512;
constexpr std::size_t kEndMarker = kBlock;  // an archive ends with zeros, at least so many

std::string shown(std::string_view name) { return fs::printable(name.substr(0, 200)); }

tl::unexpected<Error> refuse(std::string_view name, const std::string& what) {
  return fail(ErrorCode::kInvalid, shown(name) + ": " + what);
}

// Remembers the last bytes that went through. Some programs end a layer right behind the bytes of
// its last file: such a one gets what is missing up to the end of a block.
class Tail final : public Stream {
 public:
  Tail(Stream& from, TarKind kind) : from_(from), fills_(kind == TarKind::kLayer) {}

  Result<std::string_view> next() override {
    HM_ASSIGN(const std::string_view bytes, from_.next());
    if (bytes.empty() && fills_ && total_ % kBlock != 0) {
      static constexpr std::array<char, kBlock> kZeros{};
      fills_ = false;
      return std::string_view(kZeros.data(), kBlock - total_ % kBlock);
    }
    total_ += bytes.size();
    if (bytes.size() >= kEndMarker) {
      tail_ = bytes.substr(bytes.size() - kEndMarker);
    } else {
      tail_.append(bytes);
      if (tail_.size() > kEndMarker) tail_.erase(0, tail_.size() - kEndMarker);
    }
    return bytes;
  }

  bool ends_with_zeros() const {
    return tail_.size() == kEndMarker && tail_.find_first_not_of('\0') == std::string::npos;
  }
  // Bytes that there really were.
  std::uint64_t total() const { return total_; }

 private:
  Stream& from_;
  bool fills_;
  std::string tail_;
  std::uint64_t total_ = 0;
};

// --- from libarchive's entry to ours --------------------------------------------------------

void append_number(std::string& out, std::uint32_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(number >> (8 * i) & 0xff));
}

// The tags of linux/posix_acl.h in the order that the kernel wants them in.
struct AclTag {
  int tag;
  std::uint32_t number;
  bool has_id;
};
constexpr std::array<AclTag, 6> kAclTags = {{{ARCHIVE_ENTRY_ACL_USER_OBJ, 0x01, false},
                                             {ARCHIVE_ENTRY_ACL_USER, 0x02, true},
                                             {ARCHIVE_ENTRY_ACL_GROUP_OBJ, 0x04, false},
                                             {ARCHIVE_ENTRY_ACL_GROUP, 0x08, true},
                                             {ARCHIVE_ENTRY_ACL_MASK, 0x10, false},
                                             {ARCHIVE_ENTRY_ACL_OTHER, 0x20, false}}};

// The list of `type` as an extended attribute; "" when there is none.
std::string acl_value(struct archive_entry* entry, int type) {
  struct Item {
    std::uint32_t tag, permissions, id;
    auto operator<=>(const Item&) const = default;
  };
  std::vector<Item> items;
  if (libarchive::entry_acl_reset(entry, type) == 0) return "";
  int of_type = 0, permissions = 0, tag = 0, id = 0;
  const char* name = nullptr;
  while (libarchive::entry_acl_next(entry, type, &of_type, &permissions, &tag, &id, &name) ==
         ARCHIVE_OK) {
    const auto* row = std::find_if(kAclTags.begin(), kAclTags.end(),
                                   [&](const AclTag& known) { return known.tag == tag; });
    if (row == kAclTags.end()) continue;
    items.push_back({row->number, static_cast<std::uint32_t>(permissions) & 7U,
                     row->has_id ? static_cast<std::uint32_t>(id) : ~0U});
  }
  if (items.empty()) return "";
  std::sort(items.begin(), items.end());
  std::string out;
  append_number(out, 2, 4);  // the layout's version
  for (const Item& item : items) {
    append_number(out, item.tag, 2);
    append_number(out, item.permissions, 2);
    append_number(out, item.id, 4);
  }
  return out;
}

fs::Xattrs xattrs_of(struct archive_entry* entry) {
  fs::Xattrs out;
  libarchive::entry_xattr_reset(entry);
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  while (libarchive::entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    if (name == nullptr || !fs::is_kept_xattr(name)) continue;
    out.emplace_back(name, std::string(static_cast<const char*>(value), size));
  }
  const std::array<std::pair<int, const char*>, 2> lists = {
      {{ARCHIVE_ENTRY_ACL_TYPE_ACCESS, "system.posix_acl_access"},
       {ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, "system.posix_acl_default"}}};
  for (const auto& [type, attribute] : lists) {
    std::string list = acl_value(entry, type);
    if (!list.empty()) out.emplace_back(attribute, std::move(list));
  }
  // The last of one name counts, as it would have been set over the others.
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  std::reverse(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end(), same), out.end());
  std::reverse(out.begin(), out.end());
  return out;
}

std::int64_t mtime_of(struct archive_entry* entry) {
  constexpr std::int64_t kMostSeconds = std::int64_t{1} << 33;  // as nanoseconds they still fit
  if (libarchive::entry_mtime_is_set(entry) == 0) return fs::kFixedTimeNs;
  const std::int64_t seconds =
      std::clamp<std::int64_t>(libarchive::entry_mtime(entry), -kMostSeconds, kMostSeconds);
  return seconds * 1'000'000'000 + libarchive::entry_mtime_nsec(entry);
}

Result<std::uint32_t> id_of(std::int64_t id, std::string_view name) {
  if (id < 0 || id >= 0xffffffff) return refuse(name, "its owner cannot be");
  return static_cast<std::uint32_t>(id);
}

// All but the bytes of a file.
Result<TreeEntry> entry_of(struct archive_entry* entry, std::string_view name) {
  TreeEntry item;
  const auto kind = fs::kind_of_mode(libarchive::entry_filetype(entry));
  if (!kind || *kind == EntryKind::kSocket) return refuse(name, "of a kind that no image has");
  item.entry.kind = *kind;
  item.entry.mode = *kind == EntryKind::kSymlink ? 0777 : libarchive::entry_perm(entry) & 07777;
  HM_ASSIGN(item.entry.uid, id_of(libarchive::entry_uid(entry), name));
  HM_ASSIGN(item.entry.gid, id_of(libarchive::entry_gid(entry), name));
  if (*kind == EntryKind::kSymlink) {
    const char* target = libarchive::entry_symlink(entry);
    if (target != nullptr) item.entry.target = target;
  }
  if (*kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice) {
    item.entry.rdev = libarchive::entry_rdev(entry);
  }
  if (*kind == EntryKind::kFile) {
    const la_int64_t size = libarchive::entry_size(entry);
    if (size < 0) return refuse(name, "its size cannot be");
    item.entry.size = static_cast<std::uint64_t>(size);
  }
  item.entry.xattrs = xattrs_of(entry);
  item.mtime_ns = mtime_of(entry);
  return item;
}

// --- the archive ----------------------------------------------------------------------------

class TarReader {
 public:
  TarReader(Stream& stream, TarKind kind, Target& target)
      : tail_(stream, kind), kind_(kind), target_(target), archive_(libarchive::read_new()) {}

  Status run() {
    input_.stream = &tail_;
    libarchive::read_support_format_tar(archive_.get());
    libarchive::read_support_format_empty(archive_.get());
    HM_TRY(open_archive(archive_.get(), input_));
    while (true) {
      struct archive_entry* entry = nullptr;
      const int result = libarchive::read_next_header(archive_.get(), &entry);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK && !is_about_names(result)) {
        return fail(archive_error(archive_.get(), input_));
      }
      HM_TRY(take(entry));
    }
    HM_TRY(input_.status);  // libarchive takes some errors for the end
    HM_TRY(drain(tail_));
    if (kind_ == TarKind::kTree && tail_.total() == 0) return fail(ErrorCode::kInvalid, "is empty");
    if (kind_ == TarKind::kTree && !tail_.ends_with_zeros()) {
      return fail(ErrorCode::kInvalid, "the archive has no end: is it cut off?");
    }
    return {};
  }

 private:
  // In the C locale no name has other letters than ASCII's. It is then given as it stands in the
  // archive, which is what a name is.
  bool is_about_names(int result) const {
    if (result != ARCHIVE_WARN) return false;
    const char* text = libarchive::error_string(archive_.get());
    return text != nullptr && std::strstr(text, "can't be converted from") != nullptr;
  }

  Status take(struct archive_entry* entry) {
    const char* raw = libarchive::entry_pathname(entry);
    if (raw == nullptr) return fail(ErrorCode::kInvalid, "an entry without a name");
    const std::string name = raw;
    HM_ASSIGN(const std::string path, TreeBuilder::path_of(name));
    if (kind_ == TarKind::kLayer && path.find(kWhiteout) != std::string::npos) {
      HM_ASSIGN(const bool taken, take_whiteout(entry, path));
      if (taken) return {};
    }
    if (const char* target = libarchive::entry_hardlink(entry); target != nullptr) {
      if (libarchive::entry_size(entry) > 0)
        return refuse(name, "a hard link with bytes of its own");
      auto to = TreeBuilder::path_of(target);
      if (!to) return fail(std::move(to).error().in(shown(name) + ": a hard link to"));
      HM_TRY(target_.tree.add_link(path, *to));
      target_.count(0);
      return {};
    }
    HM_ASSIGN(TreeEntry item, entry_of(entry, name));
    if (item.entry.kind == EntryKind::kFile && item.entry.size > 0) {
      HM_ASSIGN(item.file, stage_file(entry, item.entry.size, name));
    }
    target_.count(item.entry.size);
    return target_.tree.add(path, std::move(item));
  }

  // False when the name only has the letters of one in it.
  Result<bool> take_whiteout(struct archive_entry* entry, const std::string& path) {
    for (std::string_view dir = fs::parent_path(path); !dir.empty(); dir = fs::parent_path(dir)) {
      if (fs::base_name(dir).starts_with(kWhiteout)) return refuse(path, "is below a whiteout");
    }
    const std::string_view name = fs::base_name(path);
    if (!name.starts_with(kWhiteout)) return false;
    if (libarchive::entry_filetype(entry) != AE_IFREG || libarchive::entry_size(entry) != 0 ||
        libarchive::entry_hardlink(entry) != nullptr) {
      return refuse(path, "a whiteout that is no empty file");
    }
    const std::string dir(fs::parent_path(path));
    target_.count(0);
    if (name == kOpaque) {
      HM_TRY(target_.tree.add_opaque(dir));
      return true;
    }
    const std::string_view hidden = name.substr(kWhiteout.size());
    if (!fs::is_valid_name(hidden) || hidden.starts_with(kWhiteout)) {
      return refuse(path, "a whiteout of a name that cannot be");
    }
    HM_TRY(target_.tree.add_whiteout(fs::join_path(dir, hidden)));
    return true;
  }

  // None of the file's bytes is one that was only filled in.
  bool is_whole(struct archive_entry* entry, std::uint64_t size) const {
    const auto consumed = static_cast<std::uint64_t>(libarchive::filter_bytes(archive_.get(), -1));
    if (consumed <= tail_.total()) return true;
    const std::uint64_t padding = (kBlock - size % kBlock) % kBlock;
    return libarchive::entry_sparse_count(entry) == 0 && consumed - padding <= tail_.total();
  }

  Result<Stage::Id> stage_file(struct archive_entry* entry, std::uint64_t size,
                               std::string_view name) {
    if (auto status = target_.tree.reserve(size); !status) {
      return fail(std::move(status).error().in(shown(name)));
    }
    HM_ASSIGN(Fd file, target_.stage.open());
    std::uint64_t end = 0;  // of what was written
    while (true) {
      const void* data = nullptr;
      std::size_t length = 0;
      la_int64_t offset = 0;
      const int result = libarchive::read_data_block(archive_.get(), &data, &length, &offset);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK) {
        return fail(archive_error(archive_.get(), input_).in(shown(name)));
      }
      const auto at = static_cast<std::uint64_t>(offset);
      if (offset < 0 || at < end || at + length > size)
        return refuse(name, "its pieces do not fit");
      HM_TRY(write_at(file.get(), {static_cast<const char*>(data), length}, at));
      end = at + length;
    }
    if (!is_whole(entry, size)) return refuse(name, "is cut off");
    // A hole at the end; elsewhere they come by themselves.
    if (end < size && ::ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
      return fail_errno(shown(name));
    }
    return target_.stage.add(std::move(file), size);
  }

  static Status write_at(int fd, std::string_view bytes, std::uint64_t at) {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("write");
      bytes.remove_prefix(static_cast<std::size_t>(n));
      at += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  Tail tail_;
  const TarKind kind_;
  Target& target_;
  ArchiveInput input_;
  ArchiveHandle archive_;
};

}  // namespace

Status read_tar(Stream& stream, TarKind kind, Target& target) {
  HM_TRY(libarchive::load());
  return TarReader(stream, kind, target).run();
}

}  // namespace hm::image
