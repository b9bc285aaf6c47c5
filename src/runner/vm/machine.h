// Machine: one running guest, seen from hm: its frames, its console, its end.
//
// States: started → ready (wait_ready) → whatever the frames say → gone with the object, QEMU and
// all. What comes from the guest is untrusted: frames are bounded, and an unknown or over-long one
// is kCorrupt, as is a guest that ends without being told to. One thread, which has to live as long
// as the object does.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>

#include "runner/vm/protocol.h"
#include "runner/vm/qemu.h"

namespace hm::runner::vm {

using Clock = std::chrono::steady_clock;

struct Frame {
  FrameType type{};
  std::string payload;
};

// What a guest is started from.
struct MachineParts {
  MachineShape shape;
  int initramfs = -1;
  int scratch = -1;
  int state = -1;  // a saved guest, or the file that is to become one
};

class Machine {
 public:
  static Result<Machine> start(const MachineParts& parts, QemuUse use);
  Machine(Machine&&) noexcept = default;
  Machine& operator=(Machine&&) = delete;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() = default;

  // hm's end of the port that FUSE messages go through; once.
  Fd take_relay() { return std::move(relay_); }

  // hm's end of QEMU's monitor, of a guest that is to be saved; once.
  Fd take_monitor() { return std::move(monitor_); }

  // Errors: kCancelled when `wake` becomes readable, kRefused when it does not boot in time, with
  // the end of its console. A restored guest is asked whether it is there.
  Status wait_ready(Clock::time_point until, int wake, QemuUse use);

  // The next frame; nothing when `until` has come or `wake` (-1: none) became readable.
  Result<std::optional<Frame>> receive(std::optional<Clock::time_point> until, int wake);
  Status send(FrameType type, std::string_view payload, Clock::time_point until);
  // Bytes of the port of changes, as fs::ArchiveSource has it; `until` and `wake` are errors here.
  Result<std::size_t> read_changes(std::span<char> buffer, Clock::time_point until, int wake);

  // What the machine said last, for an error: its console, or QEMU itself.
  std::string last_words() const;

 private:
  Machine(QemuProcess process, Fd control, Fd relay, Fd changes, Fd console, Fd monitor);
  enum class Event { kControl, kChanges, kWake, kTime };
  Result<Event> wait(std::optional<Clock::time_point> until, int wake, int changes);
  void drain_console();
  Result<std::optional<Frame>> take_frame();
  Status fill();

  Fd control_, relay_, changes_, console_, monitor_;
  std::string input_;  // from the control port, not taken yet
  std::string tail_;   // of the console
  QemuProcess process_;
};

}  // namespace hm::runner::vm
