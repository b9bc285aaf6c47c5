#include "fs/lookup_profile.h"

namespace hm::fs {

LookupProfile::LookupProfile(const Trace& path_set) {
  std::unordered_set<std::string_view> listed;
  for (const Observation& item : path_set.observations) {
    if (item.kind == ObservationKind::kList) listed.insert(item.path);
  }
  for (const Observation& item : path_set.observations) {
    if (!item.path.empty() && listed.contains(parent_path(item.path))) paths_.insert(item.path);
  }
}

}  // namespace hm::fs
