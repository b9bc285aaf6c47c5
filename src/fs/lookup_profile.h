// LookupProfile: which entries of which directories a step is expected to look up once it has
// listed them, because the last execution of the same static key did.
//
// Their attributes are handed out together with the names (READDIRPLUS) instead of one by one. What
// is handed out counts as looked up and is in the trace: a profile that is wrong costs precision,
// never soundness. A name that a step stopped looking up stays in its traces as long as it lists
// the directory: it was an input once. Immutable.
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>

#include "fs/trace.h"

namespace hm::fs {

class LookupProfile {
 public:
  LookupProfile() = default;
  explicit LookupProfile(const Trace& path_set);

  bool empty() const { return paths_.empty(); }
  bool expects(const std::string& path) const { return paths_.contains(path); }

 private:
  std::unordered_set<std::string> paths_;  // whose directory was listed
};

}  // namespace hm::fs
