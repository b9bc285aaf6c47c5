// LookupProfile: which entries of which directories a step is expected to look up once it has
// listed them, because the last execution of the same static key did.
//
// Their attributes are handed out together with the names (READDIRPLUS) instead of one by one. What
// is handed out counts as looked up and is in the trace: a profile that is wrong costs precision,
// never soundness. A name that a step stopped looking up stays in its traces as long as it lists
// the directory: it was an input once.
//
// It also says whether the step met extended attributes. Where none are expected the kernel is told
// that there are none, and stops asking for those of every file; a session that meets some after
// all gives up, and the step starts over.
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>

#include "fs/trace.h"

namespace hm::fs {

class LookupProfile {
 public:
  LookupProfile() = default;
  // A trace without values (a path set) says nothing of attributes.
  explicit LookupProfile(const Trace& trace);

  bool empty() const { return paths_.empty(); }
  bool expects(const std::string& path) const { return paths_.contains(path); }
  bool expects_no_xattrs() const { return expects_no_xattrs_; }
  void expect_xattrs() { expects_no_xattrs_ = false; }

 private:
  std::unordered_set<std::string> paths_;  // whose directory was listed
  bool expects_no_xattrs_ = false;
};

}  // namespace hm::fs
