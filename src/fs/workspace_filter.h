// WorkspaceFilter: is this path of the workspace visible? Git's own answer, plus .hmignore files.
// GitLayout says where the repository's files are; TrackedFiles is what its index lists.
//
// Lazy: a directory's ignore files are read when the first name in it is asked about, never for a
// directory that is hidden. Everything read is kept for the filter's life: the caller pins it.
// Thread-safety: WorkspaceFilter may be asked from any thread; the others are values.
// Errors: kRefused when git is missing or says no (one line of its own words), kCorrupt for a list
// that `encode` did not write, else what a callback or a system call said. A failed answer is not
// remembered: asking again tries again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fs/ignore.h"
#include "store/util/result.h"

namespace hm::fs {

// All paths are absolute. Without a repository only `root` and `global_excludes` are set.
struct GitLayout {
  std::string root;             // the workspace root, symbolic links resolved
  std::string top_level;        // the repository's work tree; empty: no repository
  std::string prefix;           // root relative to top_level; empty when they are the same
  std::string info_exclude;     // need not exist
  std::string index;            // need not exist
  std::string global_excludes;  // core.excludesFile or its default, need not exist; empty: none
  bool has_submodules = false;  // then TrackedFiles depends on more than `index`

  bool in_repository() const { return !top_level.empty(); }
};

// Finds the repository as git does, but runs git only where the answer is not plain to see: a .git
// file, core.worktree, another user's repository (safe.directory), GIT_CEILING_DIRECTORIES, or
// configuration that mentions core.excludesFile or an include.
// GIT_DIR and the other per-repository variables of the environment play no part, here or in load.
Result<GitLayout> discover_git(const std::string& root);

// The paths the index lists below the workspace root, sorted bytewise, relative to it.
class TrackedFiles {
 public:
  // Runs `git ls-files`; empty without a repository. With submodules their files are listed too.
  static Result<TrackedFiles> load(const GitLayout& layout);
  static Result<TrackedFiles> decode(std::string encoded);

  bool contains(std::string_view path) const;
  bool any_below(std::string_view directory) const;
  // What WorkspaceFilter asks: `contains`, or `any_below` for a directory.
  bool tracks(std::string_view path, IgnoreKind kind) const;
  std::size_t size() const { return starts_.size(); }
  const std::string& encode() const { return bytes_; }

 private:
  std::string_view at(std::size_t index) const;
  std::size_t lower_bound(std::string_view path) const;

  std::string bytes_;  // every path, in order, each ended by a NUL
  std::vector<std::size_t> starts_;
};

// Reads one ignore file; nullopt where git would read nothing (absent, a directory, a symbolic link
// when it is a .gitignore or .hmignore). The path is relative to the workspace root
// ("a/.gitignore") for files inside, absolute for the others (directories above, info/exclude,
// global excludes).
using ReadIgnoreFile = std::function<Result<std::optional<std::string>>(const std::string& path)>;
// Is an ignored path tracked; for a directory: is anything tracked below it.
using IsTracked = std::function<Result<bool>(const std::string& path, IgnoreKind kind)>;

struct FilterOptions {
  bool show_git = false;
};

// The rules, for a path whose parents are visible (below a hidden directory all is hidden):
//  - `.git` anywhere (unless show_git) and `.hm` at the root are hidden;
//  - else the last matching .hmignore pattern decides, the deepest file first: hidden even if
//    tracked, or visible even if git ignores it, and so is all below it that no .hmignore hides;
//  - else what git ignores is hidden, except tracked files and the directories that hold some.
// The callbacks may be called from any thread that asks and must not ask the filter themselves.
class WorkspaceFilter {
 public:
  WorkspaceFilter(GitLayout layout, ReadIgnoreFile read, IsTracked tracked,
                  FilterOptions options = {});
  ~WorkspaceFilter();
  WorkspaceFilter(const WorkspaceFilter&) = delete;
  WorkspaceFilter& operator=(const WorkspaceFilter&) = delete;

  // `path` is relative to the root, normal, without a leading slash; "" is the root, always
  // visible.
  Result<bool> visible(std::string_view path, IgnoreKind kind);
  // Whether every name in this directory is visible but .git; false where it takes more to say.
  Result<bool> shows_plain(std::string_view dir);
  // The repository above ignores the workspace root itself: only tracked files are visible.
  Result<bool> root_ignored();

 private:
  struct Level;      // one ignore file and where it applies
  struct State;      // the answer for one path
  struct Directory;  // the answer for a directory and the ignore files that apply in it
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view path) const {
      return std::hash<std::string_view>{}(path);
    }
  };

  Result<const Directory*> directory(std::string_view path);
  const Directory* cached(std::string_view path) const;
  const Directory* remember(std::string_view path, std::unique_ptr<Directory> made);
  Result<const Directory*> load_root();
  Result<const Directory*> load_below(const Directory& parent, std::string_view path);
  Status load_rules(Directory& made, std::string_view path);
  Result<const Level*> push(const std::string& file, std::size_t skip, const Level* next);
  Result<State> classify(const Directory& parent, std::string_view path, IgnoreKind kind) const;
  Verdict git_verdict(const Level* level, std::string_view path, IgnoreKind kind) const;

  const GitLayout layout_;
  const ReadIgnoreFile read_;
  const IsTracked tracked_;
  const FilterOptions options_;

  std::mutex loading_;  // one thread reads ignore files: each is asked for once
  std::unordered_map<std::string, IgnoreFile> files_;  // under loading_, as levels_ is
  std::vector<std::unique_ptr<const Level>> levels_;
  mutable std::shared_mutex mutex_;
  // Under mutex_; a Directory never changes nor goes once it is here.
  std::unordered_map<std::string, std::unique_ptr<const Directory>, Hash, std::equal_to<>>
      directories_;
};

}  // namespace hm::fs
