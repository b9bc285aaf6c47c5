// RelayCheck: what a request from a virtual machine must be before libfuse sees it.
//
// libfuse believes the kernel it talks to: it reads arguments behind the end of a short message,
// runs names up to a NUL that may not come, and hands node ids and sizes on as they are. The
// kernel of a guest is whatever the guest made of it. So a request passes only if it is one that a
// kernel sends to a read-only filesystem which answers OPEN with ENOSYS: its lengths agree, its
// names end, its numbers are within what a session serves, its node was handed out and not
// forgotten since, its order is right. Anything else is an error, and the end of the session.
//
// Requests that were checked and not answered yet are as many as the server has threads.
// Thread-safe.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "store/util/result.h"

namespace hm::fs {

inline constexpr std::size_t kRelayHeader = 40;  // bytes of a request's header, linux/fuse.h
inline constexpr std::uint32_t kRelayTransfer = std::uint32_t{1} << 20;  // most bytes of one READ

class RelayCheck {
 public:
  enum class Verdict {
    kServe,
    kDrop,  // FUSE_INTERRUPT: every request is answered anyhow, and libfuse would pile them up
  };
  // A whole message. The error says what a kernel would not have sent.
  Result<Verdict> request(std::string_view message);
  // A reply, as libfuse gives it to writev, before it is sent: its request is over, and the nodes
  // in it are known.
  void reply(std::span<const iovec> parts);
  // Whether the guest said goodbye (FUSE_DESTROY).
  bool destroyed() const;

 private:
  enum class State { kNew, kInit, kOpen, kDestroyed };
  struct Pending {
    std::uint64_t unique;
    std::uint32_t opcode;
  };
  bool is_known(std::uint64_t node) const;
  Status forget(std::uint64_t node, std::uint64_t lookups);
  void hand_out(std::uint64_t node);

  mutable std::mutex mutex_;  // guards everything below
  State state_ = State::kNew;
  std::vector<Pending> pending_;
  std::vector<std::uint64_t> lookups_ = {0, 1};  // by node id: handed out, less those forgotten
};

}  // namespace hm::fs
