// Visits everything in blobs/, blob or not. One thread. Blobs may come and go
// meanwhile.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "store/util/digest.h"
#include "store/util/result.h"

namespace hm::store {

struct FoundBlob {
  int dir_fd = -1;
  std::string name;              // in dir_fd
  std::string path;              // below blobs/
  std::optional<Digest> digest;  // nullopt: no blob has this name in this place
};

// `root` is the directory blobs; absent is empty. Ends at the visitor's first error.
Status walk_blobs(const std::string& root, const std::function<Status(const FoundBlob&)>& visit);

struct Swept {
  std::uint64_t blobs = 0, bytes = 0;
};
// Removes the blobs that `keep` does not want. Nothing but blobs is touched.
Result<Swept> sweep_blobs(const std::string& root, const std::function<bool(const Digest&)>& keep);

}  // namespace hm::store
