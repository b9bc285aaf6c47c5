// RelayChannel: FUSE messages over a stream instead of /dev/fuse, for a Session whose kernel is
// that of a virtual machine.
//
// Messages are as the kernel has them, one after the other: each begins with its own length (the
// first four bytes, little-endian), requests one way, replies the other. The guest's part is to
// copy whole messages between its /dev/fuse and its port:
//   - mount("hmfs", DIR, "fuse.hmfs", MS_RDONLY | MS_NODEV | MS_NOSUID,
//     "fd=N,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"), nothing else:
//     the options of a mount on the host. Writing requests are refused, so it must be MS_RDONLY.
//   - read(2) /dev/fuse with a buffer of exactly kRelayMessage bytes (a larger one would let the
//     kernel send larger batches of FORGET), and write what it gave to the port, all of it.
//   - write(2) each reply to /dev/fuse in one call; ENOENT and EINTR there belong to requests that
//     were aborted. A reply has at most kRelayMessage bytes, too.
//   - end when the port's other side is closed: /dev/fuse closed, the step gets ENOTCONN.
// The kernel is Linux 5.11 or newer (overlayfs with userxattr needs that) and asks for whatever it
// likes in FUSE_INIT; what is served does not depend on it.
//
// Here, every request is checked before libfuse sees it (relay_check.h), and no read or write waits
// longer than the limits say inside a message. Between messages the stream may be silent for as
// long as the step is. Thread-safe: any number of server threads read and write.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "fs/relay_check.h"
#include "store/util/result.h"

namespace hm::fs {

// The largest message either way: the data of one READ, and room for headers.
inline constexpr std::size_t kRelayMessage = kRelayTransfer + 4096;  // bytes

class RelayChannel {
 public:
  // `fd` is a stream socket, and not owned.
  RelayChannel(int fd, std::chrono::milliseconds patience);

  // As read(2) and writev(2) on /dev/fuse, for fuse_custom_io. As on a device that does not block,
  // a read without a message is EAGAIN, and the descriptor can be polled for one. Both fail when
  // the stream has ended, with errors that libfuse is silent about.
  ssize_t read(void* buffer, std::size_t size);
  ssize_t write(std::span<const iovec> reply);
  // Ends both, whoever waits in them.
  void shut_down() const;

  // What the guest did wrong, if that ended the stream.
  std::optional<std::string> fault() const;
  // Whether it ended the way that a filesystem does which is unmounted.
  bool destroyed() const { return check_.destroyed(); }

 private:
  Result<std::optional<std::size_t>> next_message();
  bool wait_for(short events) const;
  void end(const std::string& fault);

  const int fd_;
  const std::chrono::milliseconds patience_;
  RelayCheck check_;

  std::mutex read_mutex_;  // guards the next three
  std::unique_ptr<char[]> input_;
  std::size_t begin_ = 0, end_ = 0;  // of what was received and is not handed on

  std::mutex write_mutex_;  // held while a reply is sent: one after the other

  mutable std::mutex fault_mutex_;
  std::optional<std::string> fault_;
};

}  // namespace hm::fs
