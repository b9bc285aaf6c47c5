// BlobStore: immutable bytes named by their SHA-256, `blobs/ab/<64 hex>`, mode 0444.
//
// A blob appears by rename, whole or not at all; it is durable only after the next syncfs (see
// Committer). Putting bytes that are there already is success. A descriptor from `open` stays
// readable whatever happens to the name. Thread-safe; any number of processes share one store.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "store/scratch.h"
#include "store/util/digest.h"
#include "store/util/fd.h"

namespace hm::store {

// What every error about a damaged store ends with.
inline constexpr const char* kRepairHint = "`hm cache verify --repair` repairs it";

struct BlobInfo {
  Digest digest;
  std::uint64_t size = 0;  // bytes
};

// Hashes files, one after the other with the same buffer. One thread.
class FileHasher {
 public:
  // Everything readable from `fd`, from its start, whatever its offset is. `size`, where it is
  // known, saves the read that finds the end.
  Result<BlobInfo> hash(int fd, std::optional<std::uint64_t> size = std::nullopt);

 private:
  Hasher hasher_;
  std::unique_ptr<char[]> buffer_;
};
Result<BlobInfo> hash_fd(int fd);

// Opens what should be a blob, whatever was put in its place: never waits in a fifo, follows no
// symbolic link. kNotFound; kCorrupt when it is not a regular file.
Result<Fd> open_blob_file(int dir_fd, const std::string& path);
// Reads `size` bytes, or as many as there are from `offset` on.
Result<std::size_t> read_at(int fd, char* bytes, std::size_t size, off_t offset);
// Reads the file from its begin into `bytes`: false when it does not have exactly their size.
Result<bool> read_exactly(int fd, std::string& bytes);

class BlobStore;

// Files that nobody writes any more become blobs by renaming them: no copy. For very many of them:
// what can be done once for a group of files is done once. One thread each, any number of threads
// beside each other.
class Adoption {
 public:
  explicit Adoption(BlobStore& blobs) : blobs_(blobs) {}
  // Hashes the file, and makes it read-only; `size` as in FileHasher.
  Result<BlobInfo> hash(const Fd& file, std::optional<std::uint64_t> size);
  // Before `move_in`, for any number of hashed files.
  Status claim(const std::vector<Digest>& digests);
  // The hashed and claimed file `name` in `dir_fd` is now a blob, or was one already and is gone.
  Status move_in(int dir_fd, const std::string& name, const BlobInfo& info);

 private:
  BlobStore& blobs_;
  FileHasher hasher_;
  std::array<Fd, 256> shards_;  // directories of blobs, opened when first needed
};

class BlobStore {
 public:
  // `scratch` must be on the same filesystem and outlive the store.
  static Result<BlobStore> open(const std::string& home, Scratch& scratch);

  Result<Digest> put(std::string_view data);
  // Copies the bytes of `fd` (a reflink where the filesystem has them) and hashes the copy.
  Result<BlobInfo> put_copy(int fd);
  // Makes the regular file (nobody may write it any more) a blob by renaming it: no copy.
  Result<BlobInfo> adopt(const std::string& path);

  // kNotFound when absent; kCorrupt when its size is not `expected_size` or, looked at once in a
  // process, its bytes are not what the name says: served, they would be recorded under that name.
  // A corrupt blob is removed, so that the next one to put it is not told that it is there.
  Result<Fd> open_blob(const Digest& digest, std::uint64_t expected_size) const;
  // The same before its bytes are known to be right: somebody has to call open_blob, too.
  Result<Fd> open_unverified(const Digest& digest, std::uint64_t expected_size) const;
  // The whole blob, hashed again; kCorrupt when the bytes are not what the name says.
  Result<std::string> read(const Digest& digest) const;
  // The same into `bytes`, with the errors of open_blob: for small blobs, read and hashed at once.
  Status read_whole(const Digest& digest, std::uint64_t expected_size, std::string& bytes) const;
  // Has the kernel begin to read a blob that is wanted soon; whatever hinders it shows then.
  void read_ahead(const Digest& digest) const;
  // The same for a blob of any size, which is hashed without being held; at its start.
  Result<Fd> open_checked(const Digest& digest, std::uint64_t* size = nullptr) const;
  // Claims it first: what is there now stays while this process lives (claims.h).
  bool has(const Digest& digest, std::uint64_t size) const;
  // Its size, if something that looks like it is there; claims nothing.
  std::optional<std::uint64_t> size(const Digest& digest) const;
  // Hashes it; the errors of `read`.
  Result<std::uint64_t> verified_size(const Digest& digest) const;

  // What this process published since the last call: not on the disk yet, as far as it knows.
  std::vector<Digest> take_unsynced();
  // Of what could not be synced nobody knows the bytes that a power cut will leave.
  void remove(const std::vector<Digest>& blobs);

 private:
  // What this process knows of the blobs.
  struct Known {
    std::mutex mutex;  // guards the rest
    std::vector<Digest> unsynced;
    std::unordered_set<Digest> checked;  // their bytes were hashed
  };
  BlobStore(std::string root, Scratch* scratch)
      : root_(std::move(root)), scratch_(scratch), known_(std::make_unique<Known>()) {}
  std::string path_of(const Digest& digest) const;
  Status check_bytes(const Digest& digest, int fd) const;
  Result<Fd> open_shard(const Digest& digest) const;
  Status publish(const std::string& tmp, const Fd& file, const BlobInfo& info);
  friend class Adoption;

  std::string root_;
  Scratch* scratch_;
  std::unique_ptr<Known> known_;
};

}  // namespace hm::store
