#include "fs/workspace_filter.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <initializer_list>

#include "store/util/fd.h"

namespace hm::fs {

namespace {

constexpr std::string_view kGitignore = ".gitignore";
constexpr std::string_view kHmignore = ".hmignore";

std::string join(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  std::string out(directory);
  if (!out.ends_with('/')) out += '/';
  return out += name;
}

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string_view parent_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

// --- Running git

struct Output {
  int exit_code = 0;
  std::string out;
  std::string error_line;  // the first line git wrote to its standard error, without "fatal: "
};

// What `git rev-parse --local-env-vars` lists for the place of things: the workspace decides these,
// not the hook or the alias hm may have been started from. And what git_environment sets itself.
bool is_dropped_variable(std::string_view entry) {
  for (const std::string_view name :
       {"GIT_DIR=", "GIT_WORK_TREE=", "GIT_IMPLICIT_WORK_TREE=", "GIT_INDEX_FILE=", "GIT_PREFIX=",
        "GIT_COMMON_DIR=", "GIT_OBJECT_DIRECTORY=", "GIT_ALTERNATE_OBJECT_DIRECTORIES=",
        "GIT_GRAFT_FILE=", "GIT_SHALLOW_FILE=", "GIT_LITERAL_PATHSPECS=", "GIT_OPTIONAL_LOCKS=",
        "GIT_INTERNAL_SUPER_PREFIX=", "LC_ALL="}) {
    if (entry.starts_with(name)) return true;
  }
  return false;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (auto& string : strings) out.push_back(string.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> git_environment() {
  std::vector<std::string> out = {"GIT_OPTIONAL_LOCKS=0", "LC_ALL=C"};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!is_dropped_variable(*entry)) out.emplace_back(*entry);
  }
  return out;
}

// A FUSE process blocks signals in its threads; git must not inherit that.
int spawn(std::vector<std::string> arguments, int out_fd, int error_fd, pid_t* pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
  posix_spawn_file_actions_adddup2(&actions, error_fd, 2);
  sigset_t none;
  sigset_t defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  auto environment_strings = git_environment();
  const int code = ::posix_spawnp(pid, "git", &actions, &attributes, pointers(arguments).data(),
                                  pointers(environment_strings).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return code;
}

Result<int> wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string first_line(std::string_view text) {
  text = text.substr(0, text.find('\n'));
  if (text.starts_with("fatal: ")) text.remove_prefix(7);
  return std::string(text);
}

Result<Output> run_git(const std::string& root, std::vector<std::string> arguments) {
  // fsmonitor would start a daemon, or a program the repository names.
  arguments.insert(arguments.begin(), {"git", "-C", root, "-c", "core.fsmonitor=false"});
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const Fd errors(::memfd_create("hm-git-stderr", MFD_CLOEXEC));
  if (!errors) return fail_errno("memfd_create");
  pid_t pid = 0;
  const int code = spawn(std::move(arguments), writer.get(), errors.get(), &pid);
  writer.reset();
  if (code != 0) {
    return fail(Error{ErrorCode::kRefused, code, system_error("cannot run git", code).message});
  }
  auto out = read_all(reader.get());
  HM_ASSIGN(const int exit_code, wait_for(pid));
  if (!out) return fail(std::move(out).error());
  ::lseek(errors.get(), 0, SEEK_SET);
  HM_ASSIGN(const std::string error_text, read_all(errors.get()));
  return Output{exit_code, std::move(*out), first_line(error_text)};
}

tl::unexpected<Error> refused(const std::string& root, const Output& output) {
  const std::string why = output.error_line.empty()
                              ? "git ended with status " + std::to_string(output.exit_code)
                              : output.error_line;
  return fail(ErrorCode::kRefused, "git refuses " + root + ": " + why);
}

// --- Finding the repository

bool is_directory(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

bool exists(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

bool is_git_directory(const std::string& path) {
  return exists(path + "/HEAD") && is_directory(path + "/objects") && is_directory(path + "/refs");
}

bool is_ours(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && st.st_uid == ::geteuid();
}

// Does the file hold one of the lower-case words, in any case? A file that cannot be read does not.
bool mentions(const std::string& path, std::initializer_list<std::string_view> words) {
  auto text = path.empty() ? Result<std::string>() : read_file(path);
  if (!text) return false;
  std::transform(text->begin(), text->end(), text->begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return text->find(word) != std::string::npos; });
}

enum class Found { kNothing, kGitDirectory, kAskGit };

struct Walk {
  Found found = Found::kNothing;
  std::string top;
};

bool is_plain(const std::string& top) {
  const std::string git = top + "/.git";
  return is_ours(top) && is_ours(git) && !exists(git + "/commondir") &&
         !mentions(git + "/config", {"worktree", "include"});
}

// Git's own walk: upwards, not past a file system's boundary, and a bare repository ends it.
Walk walk_up(const std::string& root) {
  struct stat start {};
  if (::stat(root.c_str(), &start) != 0) return {};
  for (std::string at = root;; at = at.substr(0, std::max<std::size_t>(at.rfind('/'), 1))) {
    struct stat here {};
    if (::stat(at.c_str(), &here) != 0 || here.st_dev != start.st_dev) return {};
    const std::string git = join(at, ".git");
    struct stat st {};
    if (::stat(git.c_str(), &st) == 0) {
      if (S_ISREG(st.st_mode)) return {Found::kAskGit, at};
      if (is_git_directory(git)) {
        return {is_plain(at) ? Found::kGitDirectory : Found::kAskGit, at};
      }
    }
    if (is_git_directory(at) || at == "/") return {};
  }
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// Sets the repository's paths and returns the configuration files it reads.
Result<std::vector<std::string>> ask_git(GitLayout& layout) {
  HM_ASSIGN(const Output output,
            run_git(layout.root,
                    {"rev-parse", "--show-toplevel", "--git-path", "info/exclude", "--git-path",
                     "index", "--git-path", "config", "--git-path", "config.worktree"}));
  if (output.exit_code != 0) {
    // A .git file that leads nowhere is said in other words: that is an error, not an absence.
    if (output.error_line.starts_with("not a git repository (or any")) {
      return std::vector<std::string>();
    }
    return refused(layout.root, output);
  }
  auto lines = lines_of(output.out);
  if (lines.size() != 5) return fail(ErrorCode::kRefused, "git rev-parse: unexpected output");
  for (auto& line : lines) {
    if (!line.starts_with('/')) line = join(layout.root, line);
  }
  layout.top_level = lines[0];
  layout.info_exclude = lines[1];
  layout.index = lines[2];
  return std::vector<std::string>{lines[3], lines[4]};
}

Result<std::vector<std::string>> locate_repository(GitLayout& layout) {
  const Walk walk = walk_up(layout.root);
  const bool limited = std::getenv("GIT_CEILING_DIRECTORIES") != nullptr ||
                       std::getenv("GIT_DISCOVERY_ACROSS_FILESYSTEM") != nullptr;
  if (limited || walk.found == Found::kAskGit) return ask_git(layout);
  if (walk.found == Found::kNothing) return std::vector<std::string>();
  layout.top_level = walk.top;
  const std::string git = join(walk.top, ".git");
  layout.info_exclude = git + "/info/exclude";
  layout.index = git + "/index";
  return std::vector<std::string>{git + "/config"};
}

// --- The global excludes file

// Those that name a file are read like any other.
bool configured_by_environment() {
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const bool is_file = text.starts_with("GIT_CONFIG_GLOBAL=/") ||
                         text.starts_with("GIT_CONFIG_SYSTEM=/") ||
                         text.starts_with("GIT_CONFIG_NOSYSTEM=");
    if (text.starts_with("GIT_CONFIG") && !is_file) return true;
  }
  return false;
}

std::string xdg_git_path(std::string_view name) {
  const std::string xdg = environment("XDG_CONFIG_HOME");
  if (!xdg.empty()) return join(xdg, "git/") + std::string(name);
  const std::string home = environment("HOME");
  return home.empty() ? std::string() : join(home, ".config/git/") + std::string(name);
}

Status locate_global_excludes(GitLayout& layout, std::vector<std::string> configs) {
  const std::string home = environment("HOME");
  configs.push_back("/etc/gitconfig");
  configs.push_back(environment("GIT_CONFIG_SYSTEM"));
  configs.push_back(environment("GIT_CONFIG_GLOBAL"));
  configs.push_back(xdg_git_path("config"));
  if (!home.empty()) configs.push_back(join(home, ".gitconfig"));
  const bool ask = configured_by_environment() ||
                   std::any_of(configs.begin(), configs.end(), [](const std::string& path) {
                     return mentions(path, {"excludesfile", "include"});
                   });
  layout.global_excludes = xdg_git_path("ignore");
  if (!ask) return {};
  HM_ASSIGN(Output output,
            run_git(layout.root, {"config", "-z", "--type=path", "core.excludesFile"}));
  if (output.exit_code == 1) return {};  // not set
  if (output.exit_code != 0) return refused(layout.root, output);
  if (output.out.ends_with('\0')) output.out.pop_back();
  layout.global_excludes = std::move(output.out);  // set to nothing: no file, not the default
  return {};
}

}  // namespace

Result<GitLayout> discover_git(const std::string& root) {
  GitLayout layout;
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(root.c_str(), nullptr),
                                                         &std::free);
  if (!real) return fail_errno(root);
  layout.root = real.get();
  HM_ASSIGN(auto configs, locate_repository(layout));
  HM_TRY(locate_global_excludes(layout, std::move(configs)));
  // Git opens a relative core.excludesFile from the top level, where it works.
  const std::string& base = layout.in_repository() ? layout.top_level : layout.root;
  if (!layout.global_excludes.empty() && !layout.global_excludes.starts_with('/')) {
    layout.global_excludes = join(base, layout.global_excludes);
  }
  if (!layout.in_repository() || layout.root == layout.top_level) {
    layout.has_submodules = layout.in_repository() && exists(join(base, ".gitmodules"));
    return layout;
  }
  const std::string above = join(layout.top_level, "");
  if (!layout.root.starts_with(above)) {
    return fail(ErrorCode::kRefused, layout.root + " is not inside its work tree " + above);
  }
  layout.prefix = layout.root.substr(above.size());
  layout.has_submodules = exists(above + ".gitmodules");
  return layout;
}

// --- TrackedFiles

Result<TrackedFiles> TrackedFiles::load(const GitLayout& layout) {
  if (!layout.in_repository()) return TrackedFiles();
  std::vector<std::string> arguments = {"ls-files", "-z", "--cached"};
  if (layout.has_submodules) arguments.push_back("--recurse-submodules");
  HM_ASSIGN(const Output output, run_git(layout.root, std::move(arguments)));
  if (output.exit_code != 0) return refused(layout.root, output);
  std::vector<std::string_view> paths;
  for (std::string_view rest = output.out; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\0'), rest.size() - 1);
    paths.push_back(rest.substr(0, end));
    rest.remove_prefix(end + 1);
  }
  // A conflict lists a path up to three times; a submodule's files come where its name sorts.
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::string encoded;
  encoded.reserve(output.out.size());
  for (const auto path : paths) encoded.append(path).push_back('\0');
  return decode(std::move(encoded));
}

Result<TrackedFiles> TrackedFiles::decode(std::string encoded) {
  TrackedFiles files;
  files.bytes_ = std::move(encoded);
  const std::string_view bytes = files.bytes_;
  std::string_view previous;
  for (std::size_t start = 0; start < bytes.size();) {
    const std::size_t end = bytes.find('\0', start);
    const std::string_view path = bytes.substr(start, end - start);
    if (end == std::string_view::npos || path <= previous) {
      return fail(ErrorCode::kCorrupt, "list of tracked files: not sorted or cut short");
    }
    files.starts_.push_back(start);
    previous = path;
    start = end + 1;
  }
  return files;
}

std::string_view TrackedFiles::at(std::size_t index) const {
  const std::size_t start = starts_[index];
  const std::size_t end = index + 1 < starts_.size() ? starts_[index + 1] : bytes_.size();
  return std::string_view(bytes_).substr(start, end - 1 - start);
}

std::size_t TrackedFiles::lower_bound(std::string_view path) const {
  std::size_t low = 0;
  for (std::size_t count = starts_.size(); count > 0;) {
    const std::size_t half = count / 2;
    if (at(low + half) < path) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

bool TrackedFiles::contains(std::string_view path) const {
  const std::size_t index = lower_bound(path);
  return index < starts_.size() && at(index) == path;
}

bool TrackedFiles::any_below(std::string_view directory) const {
  if (directory.empty()) return !starts_.empty();
  const std::string prefix = std::string(directory) + "/";
  const std::size_t index = lower_bound(prefix);
  return index < starts_.size() && at(index).starts_with(prefix);
}

bool TrackedFiles::tracks(std::string_view path, IgnoreKind kind) const {
  return kind == IgnoreKind::kDirectory ? any_below(path) : contains(path);
}

// --- WorkspaceFilter

// `skip` bytes of the judged path lead to the directory the patterns are anchored at. Git's levels
// count from the repository's top level, .hmignore's from the workspace root.
struct WorkspaceFilter::Level {
  const IgnoreFile* rules = nullptr;
  std::size_t skip = 0;
  const Level* next = nullptr;  // the one that is asked when this one says nothing
};

struct WorkspaceFilter::State {
  enum class Shown : std::uint8_t { kAll, kTrackedOnly, kNothing };
  Shown shown = Shown::kAll;
  bool git_ignored = false;  // it or a parent: git's patterns are not asked below
  bool inside_git = false;   // .git or below
};

struct WorkspaceFilter::Directory {
  State state;
  const Level* git = nullptr;
  const Level* hm = nullptr;
};

namespace {

// Only for paths of one kind of Level, see `skip`.
template <class Level>
Verdict first_verdict(const Level* level, std::string_view path, IgnoreKind kind) {
  for (; level != nullptr; level = level->next) {
    const Verdict verdict = level->rules->verdict(path.substr(level->skip), kind);
    if (verdict != Verdict::kNone) return verdict;
  }
  return Verdict::kNone;
}

}  // namespace

WorkspaceFilter::WorkspaceFilter(GitLayout layout, ReadIgnoreFile read, IsTracked tracked,
                                 FilterOptions options)
    : layout_(std::move(layout)),
      read_(std::move(read)),
      tracked_(std::move(tracked)),
      options_(options) {}

WorkspaceFilter::~WorkspaceFilter() = default;

Result<bool> WorkspaceFilter::visible(std::string_view path, IgnoreKind kind) {
  if (path.empty()) return true;
  HM_ASSIGN(const Directory* parent, directory(parent_of(path)));
  HM_ASSIGN(const State state, classify(*parent, path, kind));
  return state.shown != State::Shown::kNothing;
}

Result<bool> WorkspaceFilter::shows_plain(std::string_view dir) {
  if (dir.empty()) return false;  // .hm is in it
  HM_ASSIGN(const Directory* known, directory(dir));
  return known->state.shown == State::Shown::kAll && known->git == nullptr &&
         known->hm == nullptr && !known->state.git_ignored;
}

Result<bool> WorkspaceFilter::root_ignored() {
  HM_ASSIGN(const Directory* root, directory({}));
  return root->state.git_ignored;
}

Verdict WorkspaceFilter::git_verdict(const Level* level, std::string_view path,
                                     IgnoreKind kind) const {
  if (level == nullptr || layout_.prefix.empty()) return first_verdict(level, path, kind);
  return first_verdict(level, join(layout_.prefix, path), kind);
}

Result<WorkspaceFilter::State> WorkspaceFilter::classify(const Directory& parent,
                                                         std::string_view path,
                                                         IgnoreKind kind) const {
  using Shown = State::Shown;
  State state = parent.state;
  if (state.shown == Shown::kNothing) return state;
  const bool is_git = base_name(path) == ".git";
  const Verdict own = first_verdict(parent.hm, path, kind);
  if ((is_git && !options_.show_git) || path == ".hm" || own == Verdict::kIgnored) {
    state.shown = Shown::kNothing;
    return state;
  }
  state.inside_git = state.inside_git || is_git;
  // Below an ignored directory that a .hmignore brought back git has no say any more.
  const bool brought_back = parent.state.git_ignored && state.shown == Shown::kAll;
  state.git_ignored =
      state.git_ignored || is_git || git_verdict(parent.git, path, kind) == Verdict::kIgnored;
  if (!state.git_ignored || brought_back || is_git || own == Verdict::kIncluded) {
    state.shown = Shown::kAll;
    return state;
  }
  HM_ASSIGN(const bool tracked, tracked_(std::string(path), kind));
  state.shown = tracked ? Shown::kTrackedOnly : Shown::kNothing;
  return state;
}

const WorkspaceFilter::Directory* WorkspaceFilter::cached(std::string_view path) const {
  const std::shared_lock lock(mutex_);
  const auto found = directories_.find(path);
  return found == directories_.end() ? nullptr : found->second.get();
}

const WorkspaceFilter::Directory* WorkspaceFilter::remember(std::string_view path,
                                                            std::unique_ptr<Directory> made) {
  const std::unique_lock lock(mutex_);
  return directories_.emplace(path, std::move(made)).first->second.get();
}

Result<const WorkspaceFilter::Directory*> WorkspaceFilter::directory(std::string_view path) {
  if (const Directory* known = cached(path)) return known;
  const std::lock_guard lock(loading_);
  const Directory* at = cached({});
  if (at == nullptr) {
    HM_ASSIGN(at, load_root());
  }
  for (std::size_t end = 0; end < path.size();) {
    end = std::min(path.find('/', end + 1), path.size());
    const std::string_view part = path.substr(0, end);
    const Directory* next = cached(part);
    if (next == nullptr) {
      HM_ASSIGN(next, load_below(*at, part));
    }
    at = next;
  }
  return at;
}

// The levels above the workspace, weakest first, then the root's own.
Result<const WorkspaceFilter::Directory*> WorkspaceFilter::load_root() {
  auto root = std::make_unique<Directory>();
  const std::string_view prefix = layout_.prefix;
  for (const std::string& file : {layout_.global_excludes, layout_.info_exclude}) {
    if (file.empty()) continue;
    HM_ASSIGN(root->git, push(file, 0, root->git));
  }
  for (std::size_t start = 0; start < prefix.size() && !root->state.git_ignored;) {
    const std::string above = join(layout_.top_level, prefix.substr(0, start));
    HM_ASSIGN(root->git, push(join(above, kGitignore), start, root->git));
    const std::size_t end = std::min(prefix.find('/', start), prefix.size());
    if (first_verdict(root->git, prefix.substr(0, end), IgnoreKind::kDirectory) ==
        Verdict::kIgnored) {
      root->state.git_ignored = true;
      root->state.shown = State::Shown::kTrackedOnly;
    }
    start = std::min(end + 1, prefix.size());
  }
  HM_TRY(load_rules(*root, {}));
  return remember({}, std::move(root));
}

Result<const WorkspaceFilter::Directory*> WorkspaceFilter::load_below(const Directory& parent,
                                                                      std::string_view path) {
  auto made = std::make_unique<Directory>(parent);
  HM_ASSIGN(made->state, classify(parent, path, IgnoreKind::kDirectory));
  HM_TRY(load_rules(*made, path));
  return remember(path, std::move(made));
}

// Puts the directory's own files in front of the levels it inherited.
Status WorkspaceFilter::load_rules(Directory& made, std::string_view path) {
  if (made.state.shown == State::Shown::kNothing || made.state.inside_git) return {};
  const std::size_t skip = path.empty() ? 0 : path.size() + 1;
  if (!made.state.git_ignored) {
    const std::size_t above = layout_.prefix.empty() ? 0 : layout_.prefix.size() + 1;
    HM_ASSIGN(made.git, push(join(path, kGitignore), above + skip, made.git));
  }
  HM_ASSIGN(made.hm, push(join(path, kHmignore), skip, made.hm));
  return {};
}

// `next`, or a level of `file` in front of it when there is such a file and it says anything. One
// file may serve at two levels: core.excludesFile is often a .gitignore in a home directory.
Result<const WorkspaceFilter::Level*> WorkspaceFilter::push(const std::string& file,
                                                            std::size_t skip, const Level* next) {
  auto known = files_.find(file);
  if (known == files_.end()) {
    HM_ASSIGN(const auto text, read_(file));
    known = files_.emplace(file, text ? IgnoreFile::parse(*text) : IgnoreFile()).first;
  }
  if (known->second.empty()) return next;
  levels_.push_back(std::make_unique<const Level>(Level{&known->second, skip, next}));
  return levels_.back().get();
}

}  // namespace hm::fs
