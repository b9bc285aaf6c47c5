// The static key of a step: the digest of everything that is set before it runs.
//
// Not in it: the step's name, timeout, parent and image; what they mean for the result is observed.
// Its parts are kept by name, values as digests only, so that a later run can say which one changed
// without storing any value of the environment. Pure functions, but for KeyBase.
#pragma once

#include <map>
#include <string>

#include "runner/backend.h"
#include "runner/isolation.h"
#include "store/util/digest.h"

namespace hm::runner {

struct StaticKey {
  Digest digest;
  std::map<std::string, std::string> components;  // name → hex digest
};

// What the steps of a run have in common: how this process is once it has settled its limits and
// its namespaces.
struct KeyBase {
  explicit KeyBase(IdMode id_mode);

  std::string ids, platform, sandbox;  // digests, as components have them
  std::string limits;                  // a text
};

StaticKey static_key(const Command& command, const KeyBase& base);

std::string encode_components(const StaticKey& key);
// What differs from the components of an earlier run, for people ("the command changed"); "" when
// nothing does or `before` is unreadable.
std::string components_change(const std::string& before, const StaticKey& now);

}  // namespace hm::runner
