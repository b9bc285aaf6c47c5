#include "fs/lookup_profile.h"

#include <algorithm>

namespace hm::fs {

LookupProfile::LookupProfile(const Trace& trace) {
  std::unordered_set<std::string_view> listed;
  for (const Observation& item : trace.observations) {
    if (item.kind == ObservationKind::kList) listed.insert(item.path);
  }
  for (const Observation& item : trace.observations) {
    if (!item.path.empty() && listed.contains(parent_path(item.path))) paths_.insert(item.path);
  }
  expects_no_xattrs_ = !trace.observations.empty() &&
                       std::none_of(trace.observations.begin(), trace.observations.end(),
                                    [](const Observation& item) {
                                      return item.value.empty() || mentions_xattrs(item.value);
                                    });
}

}  // namespace hm::fs
