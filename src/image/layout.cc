#include "image/layout.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "image/libarchive.h"

namespace hm::image {

namespace {

constexpr std::size_t kMostMembers = 100'000;

tl::unexpected<Error> no_file(const std::string& path) {
  return fail(ErrorCode::kInvalid, "it has no file " + fs::printable(path));
}

class DirectoryLayout final : public Layout {
 public:
  explicit DirectoryLayout(Fd root) : root_(std::move(root)) {}

  bool has(const std::string& path) override { return open_regular(path).has_value(); }

  Result<std::unique_ptr<Stream>> open(const std::string& path) override {
    HM_ASSIGN(Fd fd, open_regular(path));
    return file_stream(std::move(fd));
  }

 private:
  Result<Fd> open_regular(const std::string& path) const {
    auto fd = open_resolving(root_.get(), path, O_RDONLY | O_NONBLOCK,
                             RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
    struct stat st {};
    if (!fd || ::fstat(fd->get(), &st) != 0 || !S_ISREG(st.st_mode)) return no_file(path);
    return fd;
  }

  const Fd root_;
};

// The bytes of one member of an uncompressed archive, whose header begins at the file's offset.
class MemberStream final : public Stream {
 public:
  explicit MemberStream(Fd file)
      : file_(file_stream(std::move(file))), archive_(libarchive::read_new()) {
    input_.stream = file_.get();
  }

  Status open() {
    libarchive::read_support_format_tar(archive_.get());
    HM_TRY(open_archive(archive_.get(), input_));
    struct archive_entry* entry = nullptr;
    if (libarchive::read_next_header(archive_.get(), &entry) < ARCHIVE_WARN) {
      return fail(archive_error(archive_.get(), input_));
    }
    return {};
  }

  Result<std::string_view> next() override {
    while (true) {
      const void* data = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int result = libarchive::read_data_block(archive_.get(), &data, &size, &offset);
      if (result == ARCHIVE_EOF) {
        HM_TRY(input_.status);
        return std::string_view();
      }
      if (result != ARCHIVE_OK) return fail(archive_error(archive_.get(), input_));
      if (static_cast<std::uint64_t>(offset) != read_) {
        return fail(ErrorCode::kInvalid, "a member of the archive is sparse");
      }
      read_ += size;
      if (size > 0) return std::string_view(static_cast<const char*>(data), size);
    }
  }

 private:
  std::unique_ptr<Stream> file_;
  ArchiveInput input_;
  ArchiveHandle archive_;
  std::uint64_t read_ = 0;
};

class ArchiveLayout final : public Layout {
 public:
  explicit ArchiveLayout(Fd file) : file_(std::move(file)) {}

  // Where the headers of all members are.
  Status index() {
    const ArchiveHandle archive(libarchive::read_new());
    const ArchiveInput input;
    libarchive::read_support_format_tar(archive.get());
    // By descriptor, libarchive seeks over the bytes of members.
    if (libarchive::read_open_fd(archive.get(), file_.get(), 65536) != ARCHIVE_OK) {
      return fail(archive_error(archive.get(), input));
    }
    while (true) {
      struct archive_entry* entry = nullptr;
      const int result = libarchive::read_next_header(archive.get(), &entry);
      if (result == ARCHIVE_EOF) return {};
      if (result < ARCHIVE_WARN) return fail(archive_error(archive.get(), input));
      const char* name = libarchive::entry_pathname(entry);
      if (name == nullptr) continue;
      HM_ASSIGN(std::string path, TreeBuilder::path_of(name));
      Member member;
      member.offset = libarchive::read_header_position(archive.get());
      if (libarchive::entry_filetype(entry) == AE_IFLNK) {
        const char* target = libarchive::entry_symlink(entry);
        member.link = target != nullptr ? target : "";
      } else if (libarchive::entry_filetype(entry) != AE_IFREG) {
        continue;
      }
      if (members_.size() == kMostMembers) {
        return fail(ErrorCode::kInvalid, "has too many members for an image's archive");
      }
      if (!members_.try_emplace(path, member).second) {
        return fail(ErrorCode::kInvalid, fs::printable(path) + " is in it twice");
      }
    }
  }

  bool has(const std::string& path) override { return find(path) != nullptr; }

  Result<std::unique_ptr<Stream>> open(const std::string& path) override {
    const Member* member = find(path);
    if (member == nullptr) return no_file(path);
    HM_ASSIGN(Fd file, open_file("/proc/self/fd/" + std::to_string(file_.get()), O_RDONLY));
    if (::lseek(file.get(), member->offset, SEEK_SET) < 0) return fail_errno("seek");
    auto stream = std::make_unique<MemberStream>(std::move(file));
    HM_TRY(stream->open());
    return std::unique_ptr<Stream>(std::move(stream));
  }

 private:
  struct Member {
    la_int64_t offset = 0;
    std::string link;  // a symbolic link's target
  };

  // Through one link: older versions of Docker name a layer that two images share so.
  const Member* find(const std::string& path) const {
    const auto it = members_.find(path);
    if (it == members_.end()) return nullptr;
    if (it->second.link.empty()) return &it->second;
    std::string dir(fs::parent_path(path));
    std::string_view rest = it->second.link;
    while (rest.starts_with("../")) {
      if (dir.empty()) return nullptr;
      dir = fs::parent_path(dir);
      rest.remove_prefix(3);
    }
    const auto target = members_.find(fs::join_path(dir, rest));
    const bool found = target != members_.end() && target->second.link.empty();
    return found ? &target->second : nullptr;
  }

  const Fd file_;
  std::map<std::string, Member> members_;
};

// A compressed archive's bytes in a file without a name; the archive itself when it is none.
Result<Fd> uncompressed_file(const std::string& path, const Limits& limits, store::Store& store) {
  HM_ASSIGN(Fd file, open_file(path, O_RDONLY));
  HM_TRY(libarchive::load());
  const ArchiveHandle plain(libarchive::read_new());
  libarchive::read_support_format_tar(plain.get());
  const bool is_plain = libarchive::read_open_fd(plain.get(), file.get(), 65536) == ARCHIVE_OK;
  struct archive_entry* entry = nullptr;
  if (is_plain && libarchive::read_next_header(plain.get(), &entry) >= ARCHIVE_WARN) {
    if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno(path);
    return file;
  }
  if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno(path);
  HM_ASSIGN(const auto stream, decompressed(file_stream(std::move(file))));
  HM_ASSIGN(Fd out, open_file(store.scratch().path(), O_TMPFILE | O_RDWR, 0600));
  std::uint64_t size = 0;
  while (true) {
    HM_ASSIGN(const std::string_view bytes, stream->next());
    if (bytes.empty()) break;
    size += bytes.size();
    if (size > limits.bytes) {
      return fail(ErrorCode::kInvalid, "is larger than the limit of " +
                                           std::to_string(limits.bytes) +
                                           " bytes (--max-size sets another)");
    }
    HM_TRY(write_all(out.get(), bytes));
  }
  if (::lseek(out.get(), 0, SEEK_SET) < 0) return fail_errno(path);
  return out;
}

bool is_hex_name(std::string_view name) {
  constexpr std::size_t kDigits = 64;
  return name.size() >= kDigits &&
         name.substr(0, kDigits).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

Result<std::unique_ptr<Layout>> directory_layout(const std::string& path) {
  HM_ASSIGN(Fd root, open_file(path, O_PATH | O_DIRECTORY));
  return std::unique_ptr<Layout>(std::make_unique<DirectoryLayout>(std::move(root)));
}

Result<std::unique_ptr<Layout>> archive_layout(const std::string& path, const Limits& limits,
                                               store::Store& store) {
  HM_ASSIGN(Fd file, uncompressed_file(path, limits, store));
  auto layout = std::make_unique<ArchiveLayout>(std::move(file));
  HM_TRY(layout->index());
  return std::unique_ptr<Layout>(std::move(layout));
}

Result<bool> is_layout_archive(const std::string& path) {
  constexpr std::array<std::string_view, 5> kFirst = {"oci-layout", "index.json", "manifest.json",
                                                      "repositories", "blobs"};
  HM_ASSIGN(Fd file, open_file(path, O_RDONLY));
  HM_ASSIGN(const auto stream, decompressed(file_stream(std::move(file))));
  const ArchiveHandle archive(libarchive::read_new());
  ArchiveInput input{stream.get(), {}};
  libarchive::read_support_format_tar(archive.get());
  libarchive::read_support_format_empty(archive.get());
  HM_TRY(open_archive(archive.get(), input));
  struct archive_entry* entry = nullptr;
  while (libarchive::read_next_header(archive.get(), &entry) >= ARCHIVE_WARN) {
    const char* name = libarchive::entry_pathname(entry);
    const auto path_in = TreeBuilder::path_of(name != nullptr ? name : "");
    if (!path_in) return false;
    if (path_in->empty()) continue;
    const std::string first = path_in->substr(0, path_in->find('/'));
    return is_hex_name(first) || std::find(kFirst.begin(), kFirst.end(), first) != kFirst.end();
  }
  return false;
}

}  // namespace hm::image
