// What the tests share: private temporary directories, a store in one of them, Results that must
// hold, and layers written in one line. Nothing here is used by the programs.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/layer.h"
#include "fs/view.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::test {

// The value of a Result, or a failed test (gtest reports the exception).
template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}
inline void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}
inline void must_be_zero(int result, const std::string& what) {
  if (result != 0) throw std::runtime_error(system_error(what).message);
}

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "hm-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = std::filesystem::canonical(name).string();
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Writes `text` into `path` and makes the directories above it.
inline void write_file(const std::string& path, std::string_view text, mode_t mode = 0644) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  const Fd fd = must(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  must(write_all(fd.get(), text));
  must_be_zero(::fchmod(fd.get(), mode), path);
}

// Of a LiveSource or a View.
template <class Tree>
bool is_moved(Tree& tree, const std::string& path) {
  const std::string_view paths[] = {path};
  return must(tree.first_moved(paths)).has_value();
}

inline std::string slurp(const std::string& path) { return must(read_file(path)); }

inline struct stat lstat_of(const std::string& path) {
  struct stat st {};
  must_be_zero(::lstat(path.c_str(), &st), path);
  return st;
}
inline bool exists(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

// Sets a file's mtime, in seconds.
inline void set_mtime(const std::string& path, time_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  must_be_zero(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW), path);
}

inline Digest digest_of(std::string_view text) { return Digest::of(text); }

// ThreadSanitizer gives up in a process made by vfork(2), such as the one that mounts an overlay.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HM_TEST_THREAD_SANITIZER 1
#endif
#endif
#if defined(HM_TEST_THREAD_SANITIZER) || defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// --- layers in one line ------------------------------------------------------------------------

inline fs::LayerEntry file_entry(const std::string& path, std::string_view text,
                                 std::uint32_t mode = 0644) {
  fs::LayerEntry item;
  item.path = path;
  item.entry.kind = fs::EntryKind::kFile;
  item.entry.mode = mode;
  item.entry.size = text.size();
  item.content = Digest::of(text);
  return item;
}
inline fs::LayerEntry dir_entry(const std::string& path, std::uint32_t mode = 0755,
                                bool opaque = false) {
  fs::LayerEntry item;
  item.path = path;
  item.entry.kind = fs::EntryKind::kDirectory;
  item.entry.mode = mode;
  item.opaque = opaque;
  return item;
}
inline fs::LayerEntry opaque_entry(const std::string& path) { return dir_entry(path, 0755, true); }
inline fs::LayerEntry link_entry(const std::string& path, const std::string& target) {
  fs::LayerEntry item;
  item.path = path;
  item.entry.kind = fs::EntryKind::kSymlink;
  item.entry.mode = 0777;
  item.entry.target = target;
  return item;
}
inline fs::LayerEntry whiteout_entry(const std::string& path) {
  fs::LayerEntry item;
  item.path = path;
  item.whiteout = true;
  return item;
}
// The same entry as a member of a hard link group.
inline fs::LayerEntry grouped(fs::LayerEntry item, const std::string& group) {
  item.entry.link_group = group;
  return item;
}

inline std::shared_ptr<const fs::Layer> build_layer(std::vector<fs::LayerEntry> entries) {
  return fs::Layer::build(std::move(entries));
}
inline fs::ViewLayer view_layer(std::vector<fs::LayerEntry> entries, std::int64_t started_ns = 0,
                                std::int64_t captured_ns = 0) {
  auto layer = build_layer(std::move(entries));
  const Digest digest = Digest::of(layer->encode());
  return {digest, std::move(layer), started_ns, captured_ns, {}};
}

// --- a store and the trees beside it -----------------------------------------------------------

// A store, a directory image and a workspace, all in one temporary directory.
class Trees {
 public:
  Trees() : store_(must(store::Store::open(temp_ / "store"))) {
    std::filesystem::create_directories(image());
    std::filesystem::create_directories(workspace());
  }
  store::Store& store() { return *store_; }
  std::string image() const { return temp_ / "image"; }
  std::string workspace() const { return temp_ / "workspace"; }
  std::string image(const std::string& path) const { return image() + "/" + path; }
  std::string workspace(const std::string& path) const { return workspace() + "/" + path; }
  std::string path(const std::string& name) const { return temp_ / name; }

  std::shared_ptr<fs::LiveSource> image_source() {
    return std::make_shared<fs::LiveSource>(
        must(fs::directory_rules(image(), fs::Owners::kReal, {})), *store_);
  }
  std::shared_ptr<fs::LiveSource> workspace_source() {
    return std::make_shared<fs::LiveSource>(must(fs::workspace_rules(workspace(), {}, *store_)),
                                            *store_);
  }
  // Everything: image, workspace and `layers`, on fresh pins.
  fs::View view(std::vector<fs::ViewLayer> layers = {}, std::int64_t now = now_ns()) {
    return {fs::ViewBase{image_source(), workspace_source()}, std::move(layers), now};
  }

 private:
  TempDir temp_;
  std::unique_ptr<store::Store> store_;
};

// Reproducible: the seed is fixed and printed by whoever fails.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : engine_() % limit; }
  bool chance(std::size_t percent) { return below(100) < percent; }
  template <class T>
  const T& pick(const std::vector<T>& items) {
    return items.at(below(items.size()));
  }
  std::uint64_t number() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace hm::test
