// Claims: what one process relies on in the store though no record may name it yet, or any longer.
//
// `hm cache prune` removes what nothing names, beside running processes. Why that is right:
// 1. Before a process relies on a blob (it found it, or is about to put it) or on a layer (with
//    all that the layer names) it writes the digest into its scratch folder, holding prune.lock
//    shared. Only then it looks whether the blob is there.
// 2. prune holds prune.lock exclusively from before it reads all claims until its last blob is
//    gone. It keeps what is claimed. A claim made before is therefore kept; one made after finds
//    the store as prune left it, and what is not there is put again, or is a miss.
// 3. prune reads the claims first and the records after them. A process that ended between had
//    committed its records before its claims went: prune sees one or the other.
// 4. Records that become visible meanwhile name claimed blobs only.
// A dead process's claims go with its scratch folder. Thread-safe.
#pragma once

#include <initializer_list>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "store/util/digest.h"
#include "store/util/fd.h"

namespace hm::store {

enum class ClaimKind : char { kBlob = 'b', kLayer = 'l' };
using Claim = std::pair<ClaimKind, Digest>;

class Claims {
 public:
  // `folder` is the process's scratch folder.
  static Result<std::unique_ptr<Claims>> open(const std::string& home, const std::string& folder);
  Status add(std::span<const Claim> claims);
  Status add(std::initializer_list<Claim> claims) {
    return add(std::span(claims.begin(), claims.size()));
  }

 private:
  Claims(Fd gate, Fd file) : gate_(std::move(gate)), file_(std::move(file)) {}
  std::mutex mutex_;  // guards all
  Fd gate_, file_;
  off_t size_ = 0;  // of file_
  std::set<Claim> made_;
};

// Holds off prune, and nothing else, for as long as the result is kept.
Result<Fd> hold_off_prune(const std::string& home);
// Holds off every new claim for as long as the result is kept.
Result<Fd> stop_claims(const std::string& home);
// The claims of all processes; the caller has stopped them.
Result<std::vector<Claim>> read_claims(const std::string& home);

}  // namespace hm::store
