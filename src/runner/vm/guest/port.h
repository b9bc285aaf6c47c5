// Port: one named virtio-serial port, with whole reads and writes.
//
// Opened non-blocking and waited for with poll: the driver's blocking write spins until the host
// has taken the bytes. Reading yields nothing, without an end, as long as the host has not
// connected; it always has here, so an end after the first byte is one. send() is thread-safe, the
// rest is for one reader and one writer.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>

#include "runner/vm/protocol.h"

namespace hm::guest {

class Port {
 public:
  // Waits until the driver has it.
  explicit Port(const char* name);

  bool read(char* buffer, std::size_t size);  // false: the host is gone
  bool write(std::string_view bytes);
  int fd() const { return fd_; }

  void send(runner::vm::FrameType type, std::string_view payload);
  // The next frame from the host; false when it is gone.
  bool receive(runner::vm::FrameType& type, std::string& payload);

 private:
  int fd_ = -1;
  bool heard_ = false;
  std::mutex sending_;
};

}  // namespace hm::guest
