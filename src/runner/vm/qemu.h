// QEMU: its command line for a guest of ours, and the process.
//
// A guest has no disk image: its kernel and initramfs come from memory and from a kernel's package,
// its root through a port, and the one drive is an unnamed scratch file. Everything that QEMU is
// given is an open descriptor with a fixed number, so nothing of a guest has a name on the host,
// and nothing is left behind whoever dies. QEMU dies with the thread that started it, runs under
// its own filter of system calls, in a session of its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "store/util/fd.h"

namespace hm::runner::vm {

// The numbers of the descriptors in QEMU.
enum QemuFd : int {
  kControlFd = 10,
  kRelayFd,
  kChangesFd,
  kConsoleFd,
  kScratchFd,
  kInitramfsFd,
  kStateFd,    // a saved guest, see saved_guest.h; at the end of its memory
  kMonitorFd,  // QMP, to save one and to start from one
};

// What makes one guest another one; a pre-booted guest fits one shape only.
struct MachineShape {
  std::string qemu;    // the program
  std::string kernel;  // the image
  bool kvm = false;
  bool network = false;
  std::uint64_t memory_mib = 0;
  unsigned cpus = 1;
};

// A guest that is saved, or was, has the file of kStateFd as its memory: shared to save it, copied
// on write to start from it.
enum class QemuUse { kBoot, kSave, kRestore };

// All but the program itself.
std::vector<std::string> qemu_arguments(const MachineShape& shape, QemuUse use);

// One command of QMP, QEMU's monitor protocol, as a line.
std::string monitor_command(const std::string& name, const std::string& arguments = "{}");
// Memory that is a shared file is no part of a saved state. For who saves and who starts from it.
std::string leave_out_shared_memory();
// Makes a QEMU that was started to restore do so. A failure ends it.
std::string restore_commands();

// A running QEMU; killed and reaped when it goes out of scope.
class QemuProcess {
 public:
  // `given`: descriptors and the numbers they get; they stay open here.
  static Result<QemuProcess> start(const std::string& program,
                                   const std::vector<std::string>& arguments,
                                   const std::vector<std::pair<int, int>>& given);
  QemuProcess(QemuProcess&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), said_(std::move(other.said_)) {}
  QemuProcess& operator=(QemuProcess&&) = delete;
  QemuProcess(const QemuProcess&) = delete;
  QemuProcess& operator=(const QemuProcess&) = delete;
  ~QemuProcess() { end(); }

  void end();
  // The last line that it printed itself, or "".
  std::string last_words() const;

 private:
  QemuProcess(pid_t pid, Fd said) : pid_(pid), said_(std::move(said)) {}
  pid_t pid_;
  Fd said_;  // its stdout and stderr
};

}  // namespace hm::runner::vm
