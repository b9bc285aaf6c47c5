// Passthrough: large blobs that the kernel reads by itself, without a request for each READ.
//
// Linux 6.9 and later (Documentation/filesystems/fuse-passthrough.rst): the answer to an OPEN may
// name a backing file that was registered with the connection; the page cache is then the blob's
// own. Registering needs CAP_SYS_ADMIN in the first user namespace and a store that is on no
// stacked filesystem. The observation is then the OPEN's, so this mount answers OPEN, which costs
// every open a round trip; and nothing stacked can be mounted over an overlay over it.
//
// libfuse before 3.17 knows nothing of this: the offer is read from the kernel's INIT request and
// accepted in its answer, both as they pass by (fuse_session_custom_io).
//
// Thread-safe.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/util/fd.h"
#include "store/util/result.h"

namespace hm::fs {

enum class PassthroughMode { kOff, kAuto, kRequire };

std::optional<PassthroughMode> parse_passthrough(std::string_view text);

class Passthrough {
 public:
  // From this size on (bytes): below it registering costs more than the one READ it saves.
  static constexpr std::uint64_t kFromSize = std::uint64_t{1} << 20;

  explicit Passthrough(PassthroughMode mode) : mode_(mode), state_(first_state(mode)) {}
  PassthroughMode mode() const { return mode_; }

  // A request and an answer of the connection; of all but INIT they keep nothing and change
  // nothing.
  void see_request(const void* message, std::size_t size);
  void amend_answer(iovec* parts, int count);
  // After INIT: registers `file`, which is on the store's filesystem, and forgets it again. What
  // comes back is why this mount has to do without.
  Status settle(int device, const Fd& file);

  // Whether OPEN has to be answered.
  bool answers_open() const { return state_ != State::kOff; }
  // The id of the blob behind `node`, registered at the first call; the same for the life of the
  // connection, since two ways to one inode must not mix. nullopt: it is served by READ.
  std::optional<std::int32_t> backing(std::uint32_t node, int device, const Fd& blob);

 private:
  // kAsking: until settle; opens are answered but not passed through.
  enum class State { kOff, kAsking, kOn };
  static State first_state(PassthroughMode mode) {
    return mode == PassthroughMode::kOff ? State::kOff : State::kAsking;
  }

  const PassthroughMode mode_;
  std::atomic<State> state_;
  std::atomic<std::uint64_t> init_{0};  // the unique id of an INIT that offers it
  std::atomic<bool> accepted_{false};
  std::mutex mutex_;                                     // guards ids_
  std::unordered_map<std::uint32_t, std::int32_t> ids_;  // by node; negative: refused
};

// What is sent for an OPEN: passed through to `backing`.
std::vector<char> passthrough_open_answer(std::int32_t backing);

}  // namespace hm::fs
