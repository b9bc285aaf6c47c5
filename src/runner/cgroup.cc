#include "runner/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace hm::runner {

namespace {

constexpr std::string_view kPrefix = "hm-step-";  // then our pid, and a number
// bwrap itself: what waits outside the step's pid namespace, and that namespace's init.
constexpr std::uint64_t kOwnProcesses = 2;

struct Setting {
  std::string controller;
  const char* file_1;  // in version 1
  const char* file_2;
  std::uint64_t value;
};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

bool has_word(std::string_view text, char separator, std::string_view word) {
  const auto words = split(text, separator);
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Our path in the hierarchy: of the lines "number:controllers:path".
std::string_view own_path(std::string_view cgroups, std::string_view controller) {
  for (const std::string_view line : split(cgroups, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string_view names = line.substr(first + 1, second - first - 1);
    const bool ours = controller.empty() ? names.empty() : has_word(names, ',', controller);
    if (ours) return line.substr(second + 1);
  }
  return {};
}

// The number behind `name` in a file of lines "name number".
std::uint64_t counter(const std::string& path, const std::string& name) {
  const auto text = read_file(path);
  if (!text) return 0;
  for (const std::string_view line : split(*text, '\n')) {
    if (line.starts_with(name + " ")) return std::strtoull(line.data() + name.size(), nullptr, 10);
  }
  return 0;
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  DIR* listing = ::opendir(dir.c_str());
  if (listing == nullptr) return names;
  while (const dirent* entry = ::readdir(listing)) names.emplace_back(entry->d_name);
  ::closedir(listing);
  return names;
}

// What an hm left that is gone; a cgroup with processes in it cannot be removed.
void sweep(const std::string& parent) {
  for (const std::string& name : names_in(parent)) {
    if (!name.starts_with(kPrefix)) continue;
    const auto pid = static_cast<pid_t>(std::strtol(name.c_str() + kPrefix.size(), nullptr, 10));
    const bool gone = pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
    if (gone) (void)::rmdir((parent + "/" + name).c_str());
  }
}

std::string parent_of(const std::string& dir) { return dir.substr(0, dir.rfind('/')); }

// A directory of version 2 whose children have all these controllers: ours, or else the one above,
// since processes and enabled controllers exclude each other below the top. "" when there is none.
std::string version_2_parent(const std::string& own, const std::vector<Setting>& settings) {
  for (const std::string& dir : {own, parent_of(own)}) {
    const auto enabled = read_file(dir + "/cgroup.subtree_control");
    if (dir.empty() || !enabled) continue;
    const std::string_view line = std::string_view(*enabled).substr(0, enabled->find('\n'));
    const bool all = std::all_of(settings.begin(), settings.end(), [&](const Setting& item) {
      return has_word(line, ' ', item.controller);
    });
    const std::string procs = dir + "/cgroup.procs";  // asked of what is above both ends of a move
    if (all && ::access(dir.c_str(), W_OK) == 0 && ::access(procs.c_str(), W_OK) == 0) return dir;
  }
  return "";
}

}  // namespace

std::string cgroup_directory(std::string_view cgroups, std::string_view mounts,
                             std::string_view controller) {
  const std::string_view path = own_path(cgroups, controller);
  if (path.empty()) return "";
  for (const std::string_view line : split(mounts, '\n')) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const auto left = split(line.substr(0, dash), ' ');
    const auto right = split(line.substr(dash + 3), ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    const bool fits = controller.empty()
                          ? right[0] == "cgroup2"
                          : right[0] == "cgroup" && has_word(right[2], ',', controller);
    if (!fits) continue;
    const std::string_view root = left[3] == "/" ? std::string_view{} : left[3];
    // A mount of some other part of the hierarchy does not show our directory.
    const bool shown = path.starts_with(root) &&
                       (path.size() == root.size() || path[root.size()] == '/' || root.empty());
    if (!shown) continue;
    std::string dir = std::string(left[4]) + std::string(path.substr(root.size()));
    while (dir.ends_with('/')) dir.pop_back();
    return dir;
  }
  return "";
}

Result<Cgroup> Cgroup::create(const Limits& limits) {
  HM_ASSIGN(const std::string cgroups, read_file("/proc/self/cgroup"));
  HM_ASSIGN(const std::string mounts, read_file("/proc/self/mountinfo"));
  std::vector<Setting> settings;
  if (limits.memory)
    settings.push_back({"memory", "memory.limit_in_bytes", "memory.max", *limits.memory});
  if (limits.pids)
    settings.push_back({"pids", "pids.max", "pids.max", *limits.pids + kOwnProcesses});
  Cgroup group;
  const std::string unified = version_2_parent(cgroup_directory(cgroups, mounts, ""), settings);
  if (!unified.empty()) HM_TRY(group.make_below(unified));
  for (const Setting& item : settings) {
    if (unified.empty()) {
      const std::string own = cgroup_directory(cgroups, mounts, item.controller);
      if (own.empty()) {
        return fail(ErrorCode::kRefused,
                    "there is no cgroup controller '" + item.controller + "' here");
      }
      HM_TRY(group.make_below(own));
    }
    HM_TRY(group.set(unified.empty() ? item.file_1 : item.file_2, item.value));
  }
  // Swap would only put the end off; not every kernel counts it.
  if (limits.memory && !unified.empty()) (void)group.set("memory.swap.max", 0);
  return group;
}

Status Cgroup::make_below(const std::string& parent) {
  sweep(parent);
  const std::string dir = parent + "/" + std::string(kPrefix) + std::to_string(::getpid()) + "-" +
                          std::to_string(now_ns());
  if (::mkdir(dir.c_str(), 0755) != 0) {
    return fail(ErrorCode::kRefused, "cannot make a cgroup: " + system_error(dir).message);
  }
  dirs_.push_back(dir);
  HM_ASSIGN(Fd entrance, open_file(dir + "/cgroup.procs", O_WRONLY));
  entrances_.push_back(std::move(entrance));
  return {};
}

// In the directory made last.
Status Cgroup::set(const std::string& file, std::uint64_t value) const {
  HM_ASSIGN(const Fd fd, open_file(dirs_.back() + "/" + file, O_WRONLY));
  return write_all(fd.get(), std::to_string(value));
}

Cgroup::~Cgroup() {
  entrances_.clear();
  for (const std::string& dir : dirs_) {
    // The last process may still be on its way out.
    for (int tries = 0; tries < 100 && ::rmdir(dir.c_str()) != 0 && errno == EBUSY; ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

bool Cgroup::over_memory() const {
  return std::any_of(dirs_.begin(), dirs_.end(), [](const std::string& dir) {
    return counter(dir + "/memory.events", "oom_kill") > 0 ||
           counter(dir + "/memory.oom_control", "oom_kill") > 0;
  });
}

bool Cgroup::over_pids() const {
  return std::any_of(dirs_.begin(), dirs_.end(), [](const std::string& dir) {
    return counter(dir + "/pids.events", "max") > 0;
  });
}

}  // namespace hm::runner
