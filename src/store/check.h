// Checks of $HM_HOME for `hm cache verify`, as far as the store itself knows what is right: the
// database and its rows, the names and bytes of the blobs. What the blobs mean is checked further
// up (runner/store_check.h).
//
// Each problem becomes one line. With Repair::kYes it is taken away: a row or a blob that cannot be
// right is removed, since all that it costs is to run a step again; a database that cannot be used
// is moved aside and a new one made. Running processes are not disturbed: rows and blobs go one by
// one, and a database is only replaced while no other hm uses the store (kRefused).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::store {

enum class Repair { kNo, kYes };

struct Findings {
  std::function<void(const std::string& line)> print;
  std::uint64_t problems = 0, repaired = 0;

  void add(const std::string& problem, bool is_repaired);
  bool clean() const { return problems == repaired; }
};

// hm.db. Afterwards Store::open succeeds, unless there are problems left. kRefused also for a
// database of a newer format, which is nobody's to repair but that hm's.
Status check_database(const std::string& home, Repair repair, Findings& findings);

// Sizes of the blobs that are what their names say.
using BlobSizes = std::unordered_map<Digest, std::uint64_t>;
Result<BlobSizes> check_blobs(const std::string& home, Repair repair, Findings& findings);

}  // namespace hm::store
