// Intake: the files of an upper on their way into the store.
//
// They are hashed and adopted by a few threads (store/adoption_crew.h) while the walk that finds
// them goes on. One thread adds and finishes.
#pragma once

#include <sys/stat.h>

#include <deque>
#include <memory>
#include <string>

#include "fs/entry.h"
#include "store/store.h"

namespace hm::fs {

class Intake {
 public:
  struct File {
    std::shared_ptr<const Fd> dir;  // of its name
    std::string name;
    std::uint64_t size = 0;  // what the walk saw
    // What became of it, after `finish`.
    Status status;
    Digest content;
    Xattrs xattrs;
  };

  static std::unique_ptr<Intake> create(store::BlobStore& blobs);
  virtual ~Intake() = default;

  // A regular file that is nobody's but ours. The result is valid as long as the object is.
  virtual File& add(std::shared_ptr<const Fd> dir, std::string name, std::uint64_t size) = 0;
  // Returns when all are in the store, or some have failed; later ones are not tried then.
  virtual void finish() = 0;
};

}  // namespace hm::fs
