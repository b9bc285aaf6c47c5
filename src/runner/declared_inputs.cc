// The declared extra inputs of `on_change`: literal paths and globs on the step's own view, turned
// into ordinary observations, so that a later lookup needs to know nothing about patterns.
#include <fnmatch.h>

#include "fs/skeleton.h"
#include "runner/backend.h"

namespace hm::runner {

namespace {

std::vector<std::string> components(const std::string& pattern) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= pattern.size();) {
    const std::size_t slash = std::min(pattern.find('/', at), pattern.size());
    const std::string part = pattern.substr(at, slash - at);
    if (!part.empty() && part != ".") out.push_back(part);
    at = slash + 1;
  }
  return out;
}

constexpr int kMaxHops = 40;  // as the kernel's limit on symbolic links

bool is_glob(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

class Observer {
 public:
  Observer(fs::Session& session, const fs::View& view) : session_(session), view_(view) {}

  // Observes whatever `parts[at..]` names below `dir`; true if anything was there.
  Result<bool> match(const std::string& dir, const std::vector<std::string>& parts,
                     std::size_t at) {
    if (at == parts.size()) return take(dir);
    const std::string& part = parts[at];
    if (!is_glob(part)) {
      HM_ASSIGN(const auto path, follow(fs::join_path(dir, part), 0));
      if (!path) return false;
      return match(*path, parts, at + 1);
    }
    HM_ASSIGN(const auto node, session_.observe(dir, fs::ObservationKind::kList));
    if (!node || node->entry.kind != fs::EntryKind::kDirectory) return false;
    HM_ASSIGN(const fs::Listing listing, view_.list(*node));
    bool any = false;
    if (part == "**") {
      HM_ASSIGN(any, match(dir, parts, at + 1));
    }
    for (const fs::DirEntry& item : listing) {
      const bool deeper = part == "**" && item.kind == fs::EntryKind::kDirectory;
      const bool matches =
          part != "**" && ::fnmatch(part.c_str(), item.name.c_str(), FNM_PERIOD) == 0;
      // A trailing ** also means the files right here.
      const bool here = part == "**" && at + 1 == parts.size() && !deeper;
      if (!deeper && !matches && !here) continue;
      const std::string path = fs::join_path(dir, item.name);
      HM_ASSIGN(const bool found, deeper ? match(path, parts, at)
                                  : here ? take(path)
                                         : match(path, parts, at + 1));
      any = any || found;
    }
    return any;
  }

 private:
  // Where `path` leads, observing every link on the way; nullopt when nothing is there. Only its
  // last component may be a link: the directories before it were followed already.
  Result<std::optional<std::string>> follow(const std::string& path, int hops) {
    const std::optional<std::string> nothing;
    HM_ASSIGN(const auto node, session_.observe(path, fs::ObservationKind::kProbe));
    if (!node || hops > kMaxHops) return nothing;
    if (node->entry.kind != fs::EntryKind::kSymlink) return std::optional(path);
    const std::string& target = node->entry.target;
    std::string at = target.starts_with("/") ? "" : std::string(fs::parent_path(path));
    for (const std::string& part : components(target)) {
      if (part == "..") {
        at = fs::parent_path(at);
        continue;
      }
      HM_ASSIGN(const auto next, follow(fs::join_path(at, part), hops + 1));
      if (!next) return nothing;
      at = *next;
    }
    return std::optional(at);
  }

  // A matched path: the bytes of a file, the names in a directory.
  Result<bool> take(const std::string& matched) {
    HM_ASSIGN(const auto target, follow(matched, 0));
    if (!target) return false;
    const std::string& path = *target;
    HM_ASSIGN(const auto node, session_.observe(path, fs::ObservationKind::kProbe));
    if (!node) return false;
    if (node->entry.kind == fs::EntryKind::kFile) {
      HM_TRY(session_.observe(path, fs::ObservationKind::kContent));
    } else if (node->entry.kind == fs::EntryKind::kDirectory) {
      HM_TRY(session_.observe(path, fs::ObservationKind::kList));
    }
    return true;
  }

  fs::Session& session_;
  const fs::View& view_;
};

}  // namespace

Result<std::vector<std::string>> observe_declared(fs::Session& session, const fs::View& view,
                                                  const std::vector<std::string>& patterns) {
  std::vector<std::string> warnings;
  Observer observer(session, view);
  for (const std::string& pattern : patterns) {
    HM_ASSIGN(const bool any,
              observer.match(std::string(fs::kWorkspacePath), components(pattern), 0));
    if (!any) {
      warnings.push_back(std::string("on_change: ") +
                         (is_glob(pattern) ? "nothing matches " : "no such path: ") + pattern);
    }
  }
  return warnings;
}

}  // namespace hm::runner
