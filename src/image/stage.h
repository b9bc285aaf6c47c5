// Stage: the files of an image on their way into the store.
//
// Until the whole image is known to be good nothing of it is in the store: its files are written
// into a scratch folder, are hashed there by other threads, and become blobs all at once, by
// renaming. What is not committed is gone with the object. One thread opens, adds and commits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "store/store.h"
#include "store/util/fd.h"

namespace hm::image {

class Stage {
 public:
  using Id = std::size_t;

  static Result<std::unique_ptr<Stage>> create(store::Store& store);
  virtual ~Stage() = default;

  // A new empty file, to be written and given back by `add`.
  virtual Result<Fd> open() = 0;
  // The file that was opened last, with all of its bytes.
  virtual Id add(Fd file, std::uint64_t size) = 0;
  // Returns when all files are hashed.
  virtual Status finish() = 0;
  // After `finish`.
  virtual const Digest& digest(Id file) const = 0;
  // Makes blobs of these files; each at most once.
  virtual Status commit(const std::vector<Id>& files) = 0;
};

}  // namespace hm::image
