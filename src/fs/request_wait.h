// RequestWait: how the thread that reads a connection's requests waits for the next one.
//
// A client that is answered asks again within microseconds. To go to sleep in between costs both
// sides the waking of a processor: on a virtual machine that is most of a round trip. So while
// requests come close upon each other the thread watches for the next one, and sleeps when none
// came in time or when somebody else wants its processor; and the client's processor is kept from
// sleeping (ProcessorsAwake).
//
// For one thread at a time (Turns).
#pragma once

#include <chrono>

#include "fs/processors_awake.h"

namespace hm::fs {

class RequestWait {
 public:
  explicit RequestWait(ProcessorsAwake awake = ProcessorsAwake::where_waking_is_slow())
      : awake_(std::move(awake)) {}

  // Before the first look for a request.
  void begin();
  // There was none: whether to look again at once. Otherwise sleep until there is one, or for
  // `patience_ms` (-1: for ever), and then say `tired`.
  bool watch();
  int patience_ms() const;
  void tired();
  // There was one.
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point began_;
  bool close_ = false;  // the last request came soon
  bool gave_up_ = false;
  int closeness_ = 0;  // of the last requests
  ProcessorsAwake awake_;
};

}  // namespace hm::fs
