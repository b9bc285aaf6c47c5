// Scratch: one process's private folder `$HM_HOME/scratch/<name>/`, locked for as long as it lives.
//
// Uppers, mount points and blobs on their way into the store live here. A folder whose lock nobody
// holds belongs to a process that died: `open` removes those first. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "store/claims.h"
#include "store/util/fd.h"

namespace hm::store {

class Scratch {
 public:
  static Result<Scratch> open(const std::string& home);
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  const std::string& path() const { return path_; }
  // For as long as the result is held nobody opens the store. kRefused while another process that
  // is alive has a folder here; `own` is the caller's own folder, or "".
  static Result<Fd> exclude_others(const std::string& home, const std::string& own);
  Claims& claims() { return *claims_; }
  // A path below this folder that no other call of this process was given.
  std::string fresh(const std::string& prefix);
  // Removes the tree, but nobody waits for it before this object goes.
  void discard(const std::string& path);

 private:
  Scratch(std::string path, Fd lock, std::unique_ptr<Claims> claims);
  std::string path_;
  Fd lock_;
  std::unique_ptr<Claims> claims_;
  struct Discarded;
  std::atomic<unsigned> next_{0};
  std::unique_ptr<Discarded> discarded_;
};

}  // namespace hm::store
