#include "image/directory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "fs/live_look.h"
#include "fs/skeleton.h"

namespace hm::image {

namespace {

using fs::EntryKind;

// Each takes a descriptor, and a part of the stack.
constexpr int kMostLevels = 512;

class DirectoryReader {
 public:
  DirectoryReader(const struct stat& without, Target& target)
      : without_(without), target_(target) {}

  Status directory(Fd opened, const std::string& path, int level) {
    struct stat st {};
    if (::fstat(opened.get(), &st) != 0) return fail_errno("/" + path);
    HM_ASSIGN(TreeEntry item, entry_of(opened.get(), "", st));
    HM_TRY(target_.tree.add(path, std::move(item)));
    target_.count(0);
    auto names = names_at(opened.get());
    if (!names) return fail(std::move(names).error().in("/" + path));
    for (const std::string& name : *names) {
      const std::string child = fs::join_path(path, name);
      if (fs::is_mounted_path(child)) continue;
      HM_TRY(this->child(opened.get(), name, child, level));
    }
    return {};
  }

 private:
  Status child(int dir, const std::string& name, const std::string& path, int level) {
    auto status = child_in(dir, name, path, level);
    if (!status && status.error().code == ErrorCode::kIo &&
        !status.error().message.starts_with("/"))
      return fail(std::move(status).error().in("/" + fs::printable(path)));
    return status;
  }

  Status child_in(int dir, const std::string& name, const std::string& path, int level) {
    struct stat st {};
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno("stat");
    if (S_ISSOCK(st.st_mode)) return {};
    if (S_ISDIR(st.st_mode)) {
      if (st.st_dev == without_.st_dev && st.st_ino == without_.st_ino) return {};
      if (level == kMostLevels) {
        return fail(ErrorCode::kInvalid, "nested deeper than " + std::to_string(kMostLevels) +
                                             " directories: /" + path.substr(0, 40) + "...");
      }
      HM_ASSIGN(Fd fd, open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      return directory(std::move(fd), path, level + 1);
    }
    const std::pair inode{st.st_dev, st.st_ino};
    if (st.st_nlink > 1) {
      const auto [first, is_new] = links_.try_emplace(inode, path);
      if (!is_new) {
        target_.count(0);
        return target_.tree.add_link(path, first->second);
      }
    }
    HM_ASSIGN(TreeEntry item, entry_of(dir, name, st));
    target_.count(item.entry.size);
    return target_.tree.add(path, std::move(item));
  }

  Result<TreeEntry> entry_of(int dir, const std::string& name, const struct stat& st) {
    TreeEntry item;
    const auto kind = fs::kind_of_mode(st.st_mode);
    if (!kind) return fail(ErrorCode::kIo, "unknown file type");
    item.entry.kind = *kind;
    item.entry.mode = *kind == EntryKind::kSymlink ? 0777 : st.st_mode & 07777;
    item.entry.uid = st.st_uid;
    item.entry.gid = st.st_gid;
    item.mtime_ns = to_ns(st.st_mtim);
    if (*kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice) {
      item.entry.rdev = st.st_rdev;
    }
    if (*kind == EntryKind::kSymlink) {
      HM_ASSIGN(item.entry.target, read_link_at(dir, name));
    }
    HM_ASSIGN(const Fd at, open_at(dir, name.empty() ? "." : name, O_PATH | O_NOFOLLOW));
    HM_ASSIGN(item.entry.xattrs, fs::live_xattrs(at.get()));
    if (*kind == EntryKind::kFile && st.st_size > 0) {
      item.entry.size = static_cast<std::uint64_t>(st.st_size);
      HM_ASSIGN(item.file, stage_file(dir, name, st));
    }
    return item;
  }

  Result<Stage::Id> stage_file(int dir, const std::string& name, const struct stat& st) {
    const auto size = static_cast<std::uint64_t>(st.st_size);
    HM_TRY(target_.tree.reserve(size));
    HM_ASSIGN(const Fd from, open_at(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    HM_ASSIGN(Fd to, target_.stage.open());
    HM_ASSIGN(const std::uint64_t copied, copy_bytes(from.get(), to.get()));
    struct stat now {};
    if (::fstat(from.get(), &now) != 0) return fail_errno(name);
    if (copied != size || now.st_ino != st.st_ino || to_ns(now.st_mtim) != to_ns(st.st_mtim)) {
      return fail(ErrorCode::kInvalid,
                  fs::printable(name) + " changed while it was read: import it when nobody writes");
    }
    return target_.stage.add(std::move(to), size);
  }

  const struct stat without_;
  Target& target_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;  // inode → its first name
};

}  // namespace

Status read_directory(const std::string& root, const std::string& without, Target& target) {
  struct stat hidden {};
  if (::stat(without.c_str(), &hidden) != 0) return fail_errno(without);
  HM_ASSIGN(Fd fd, open_file(root, O_RDONLY | O_DIRECTORY));
  return DirectoryReader(hidden, target).directory(std::move(fd), "", 0);
}

}  // namespace hm::image
