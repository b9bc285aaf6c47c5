// ServedRoot: the served filesystem, and the two threads of the init that copy FUSE messages
// between the kernel and the port.
//
// Mounted with the object, which sends nothing yet: whoever asks for something waits for start().
// Both the object and the port live as long as the machine.
#pragma once

#include <latch>
#include <string>

#include "runner/vm/guest/port.h"

namespace hm::guest {

class ServedRoot {
 public:
  ServedRoot(Port& port, const std::string& target);
  ServedRoot(const ServedRoot&) = delete;
  ServedRoot& operator=(const ServedRoot&) = delete;

  void start() { started_.count_down(); }
  // Only once something has been asked for and answered.
  void widen_readahead() const;

 private:
  void copy_requests();
  void copy_replies();

  Port& port_;
  std::latch started_{1};
  int fuse_ = -1;
  int readahead_ = -1;  // the kernel's figure, in KiB
};

}  // namespace hm::guest
