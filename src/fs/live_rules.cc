#include "fs/live_rules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

namespace hm::fs {

namespace {

// Host paths below `root`, relative to it.
std::vector<std::string> relative_to(const std::string& root,
                                     const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  const std::string prefix = root == "/" ? "/" : root + "/";
  for (const std::string& path : paths) {
    const std::string real = real_path(path);
    if (real.starts_with(prefix)) out.push_back(real.substr(prefix.size()));
  }
  return out;
}

bool is_any_within(const std::vector<std::string>& dirs, std::string_view path) {
  return std::any_of(dirs.begin(), dirs.end(),
                     [&](const std::string& dir) { return is_within(path, dir); });
}

Entry plain_entry(const LiveStat& stat, Owners owners) {
  Entry entry;
  entry.kind = stat.kind;
  entry.mode = stat.kind == EntryKind::kSymlink ? 0777 : stat.mode;
  entry.uid = owners == Owners::kReal ? stat.uid : 0;
  entry.gid = owners == Owners::kReal ? stat.gid : 0;
  if (stat.kind == EntryKind::kFile) entry.size = stat.stamp.size;
  entry.target = stat.target;
  entry.rdev = stat.rdev;
  entry.xattrs = stat.xattrs;
  return entry;
}

Result<Fd> open_root(const std::string& root) {
  auto fd = open_file(root, O_PATH | O_DIRECTORY);
  if (!fd) return fail(std::move(fd).error());
  return fd;
}

// --- a directory as an image ----------------------------------------------------------------

class DirectoryRules final : public LiveRules {
 public:
  DirectoryRules(Fd root, std::string named, Owners owners, std::vector<std::string> hidden)
      : root_(std::move(root)),
        named_(std::move(named)),
        owners_(owners),
        hidden_(std::move(hidden)) {}

  std::optional<LiveLocation> locate(const std::string& path) const override {
    return LiveLocation{root_.get(), path};
  }
  Result<bool> visible(const std::string& path, EntryKind kind, std::uint32_t) override {
    // Device nodes cannot be opened in a step, and a 0:0 one would be a whiteout to overlayfs.
    if (kind == EntryKind::kCharDevice || kind == EntryKind::kBlockDevice) return false;
    return !is_any_within(hidden_, path) || path.empty();
  }
  Entry entry(const LiveStat& stat) const override { return plain_entry(stat, owners_); }
  std::int64_t mtime(const LiveStat& stat) const override { return stat.stamp.mtime_ns; }
  bool wants_xattrs() const override { return true; }
  Result<std::optional<std::string>> moved_file() override {
    return is_still_at(root_.get(), named_) ? std::nullopt : std::optional("the image " + named_);
  }
  std::string display(const std::string& path) const override { return "/" + path; }

 private:
  Fd root_;
  const std::string named_;  // may go through symbolic links
  Owners owners_;
  std::vector<std::string> hidden_;
};

// --- the host's root ------------------------------------------------------------------------

constexpr std::array<const char*, 10> kHostTop = {"usr",   "bin",    "sbin", "lib", "lib32",
                                                  "lib64", "libx32", "etc",  "opt", "var"};
constexpr std::array<const char*, 2> kHostHidden = {"/var/tmp", "/var/cache"};

// A clone of the mount without what is mounted below it, so that a walk cannot reach our own
// mounts; where the kernel refuses (locked mounts of a user namespace), the directory itself, and
// crosses_mounts() = kNo guards the walk.
Result<Fd> open_without_submounts(const std::string& path) {
  const long fd =
      ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
  if (fd >= 0) return Fd(static_cast<int>(fd));
  return open_root(path);
}

class HostRules final : public LiveRules {
 public:
  HostRules(Owners owners, std::vector<std::string> hidden)
      : owners_(owners), hidden_(std::move(hidden)) {}

  Status open() {
    for (const char* name : kHostTop) {
      const std::string path = std::string("/") + name;
      struct stat st {};
      if (::lstat(path.c_str(), &st) != 0) continue;
      if (S_ISLNK(st.st_mode)) {
        listing_.push_back({name, EntryKind::kSymlink});
      } else if (S_ISDIR(st.st_mode)) {
        HM_ASSIGN(tops_[name], open_without_submounts(path));
        listing_.push_back({name, EntryKind::kDirectory});
      }
    }
    std::sort(listing_.begin(), listing_.end());
    HM_ASSIGN(slash_, open_root("/"));
    return {};
  }

  std::optional<LiveLocation> locate(const std::string& path) const override {
    if (path.empty()) return LiveLocation{-1, ""};
    const std::size_t slash = path.find('/');
    const std::string top = path.substr(0, slash);
    if (const auto it = tops_.find(top); it != tops_.end()) {
      const bool is_top = slash == std::string::npos;
      return LiveLocation{it->second.get(), is_top ? "" : path.substr(slash + 1)};
    }
    const bool is_link = std::any_of(listing_.begin(), listing_.end(),
                                     [&](const DirEntry& item) { return item.name == path; });
    if (!is_link) return std::nullopt;
    return LiveLocation{slash_.get(), path};
  }
  std::optional<Listing> fixed_listing(const std::string& path) const override {
    if (!path.empty()) return std::nullopt;
    return listing_;
  }
  Result<bool> visible(const std::string& path, EntryKind kind, std::uint32_t mode) override {
    if (is_any_within(hidden_, path)) return false;
    switch (kind) {
      case EntryKind::kFile:
        return (mode & S_IROTH) != 0;
      case EntryKind::kDirectory:
        return (mode & (S_IROTH | S_IXOTH)) == (S_IROTH | S_IXOTH);
      case EntryKind::kSymlink:
        return true;
      case EntryKind::kFifo:
      case EntryKind::kSocket:
      case EntryKind::kCharDevice:
      case EntryKind::kBlockDevice:
        break;
    }
    return false;
  }
  bool needs_mode() const override { return true; }
  Entry entry(const LiveStat& stat) const override { return plain_entry(stat, owners_); }
  std::int64_t mtime(const LiveStat& stat) const override { return stat.stamp.mtime_ns; }
  bool crosses_mounts() const override { return false; }
  std::string display(const std::string& path) const override { return "/" + path; }

 private:
  Owners owners_;
  std::vector<std::string> hidden_;
  Fd slash_;
  std::map<std::string, Fd, std::less<>> tops_;
  Listing listing_;
};

}  // namespace

bool is_still_at(int dir_fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(dir_fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

std::optional<Listing> LiveRules::fixed_listing(const std::string&) const { return std::nullopt; }

Result<std::unique_ptr<LiveRules>> directory_rules(const std::string& root, Owners owners,
                                                   const std::vector<std::string>& hidden) {
  const std::string real = real_path(root);
  HM_ASSIGN(Fd fd, open_root(real));
  return std::unique_ptr<LiveRules>(
      std::make_unique<DirectoryRules>(std::move(fd), root, owners, relative_to(real, hidden)));
}

Result<std::unique_ptr<LiveRules>> host_rules(Owners owners,
                                              const std::vector<std::string>& hidden) {
  std::vector<std::string> all = hidden;
  all.insert(all.end(), kHostHidden.begin(), kHostHidden.end());
  auto rules = std::make_unique<HostRules>(owners, relative_to("/", all));
  HM_TRY(rules->open());
  return std::unique_ptr<LiveRules>(std::move(rules));
}

}  // namespace hm::fs
