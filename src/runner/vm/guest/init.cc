// The init of a guest: boots, waits for one step, runs it, sends back what it wrote, turns off.
//
// Order of life: boot.h; the three ports; whatever else is the same for every step; kReady.
// Everything from there on is one step's. This is the only program of the machine besides those
// that the step brings.
#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "fs/upper_writer.h"
#include "runner/vm/guest/boot.h"
#include "runner/vm/guest/command.h"
#include "runner/vm/guest/network.h"
#include "runner/vm/guest/port.h"
#include "runner/vm/guest/relay.h"
#include "runner/vm/guest/root.h"
#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

using runner::vm::FrameType;
using runner::vm::StepEnd;
using runner::vm::StepOrder;

void take_clock_and_entropy(const StepOrder& order) {
  const timespec now{order.clock_ns / 1'000'000'000, order.clock_ns % 1'000'000'000};
  if (::clock_settime(CLOCK_REALTIME, &now) != 0) fail("clock");
  const int random = ::open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  if (random < 0 || !write_all(random, order.entropy) || ::ioctl(random, RNDRESEEDCRNG) != 0) {
    fail("entropy");
  }
  ::close(random);
}

// What the sandbox binds and copies of this machine.
void prepare_mounts(const StepOrder& order) {
  make_directory("/files", 0700);
  for (std::size_t i = 0; i < order.files.size(); ++i) {
    const runner::vm::GuestFile& file = order.files[i];
    const std::string path = "/files/" + std::to_string(i);
    write_file(path, file.content, 0600);
    const timespec mtime{file.mtime_ns / 1'000'000'000, file.mtime_ns % 1'000'000'000};
    const timespec times[] = {mtime, mtime};
    if (::chmod(path.c_str(), file.mode) != 0 ||
        ::utimensat(AT_FDCWD, path.c_str(), static_cast<const timespec*>(times), 0) != 0) {
      fail(path);
    }
  }
  for (const std::string& path : order.masked_directories) {
    if (::access(path.c_str(), F_OK) != 0) continue;
    mount_or_fail("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                  "mode=0755,nr_inodes=1");
  }
}

StepOrder wait_for_order(Port& control) {
  FrameType type{};
  std::string payload;
  StepOrder order;
  do {
    if (!control.receive(type, payload)) fail_plain("hm is gone");
    if (type == FrameType::kHello) control.send(FrameType::kReady, "");
  } while (type == FrameType::kHello);
  if (type != FrameType::kStart || !decode(payload, order)) fail_plain("no order that makes sense");
  return order;
}

void send_changes(Port& changes) {
  const std::string error =
      fs::write_upper(upper_directory(), [&changes](const char* data, std::size_t size) {
        return changes.write({data, size});
      });
  if (!error.empty()) fail_plain("cannot send what the step wrote: " + error);
}

[[noreturn]] void serve_end(Port& control, Port& changes) {
  FrameType type{};
  std::string payload;
  while (control.receive(type, payload) && type != FrameType::kEnd) {
    if (type != FrameType::kSend) continue;  // a kStop that came too late
    send_changes(changes);
    control.send(FrameType::kSent, "");
  }
  ::reboot(RB_AUTOBOOT);
  ::_exit(0);
}

[[noreturn]] void live() {
  boot();
  Port control(runner::vm::kControlPort);
  report_failures_to(&control);
  Port relay(runner::vm::kRelayPort);
  Port changes(runner::vm::kChangesPort);
  make_directory(kServed, 0700);
  ServedRoot served(relay, kServed);
  mount_scratch();
  if (!start_loopback()) fail("loopback");
  if (has_card()) start_card();
  control.send(FrameType::kReady, "");

  const StepOrder order = wait_for_order(control);
  take_clock_and_entropy(order);
  served.start();
  const std::string root = make_root(order);
  served.widen_readahead();
  prepare_mounts(order);
  const StepEnd end = run_command(order, root, control);
  control.send(FrameType::kExit, encode(end));
  serve_end(control, changes);
}

}  // namespace

}  // namespace hm::guest

int main() { hm::guest::live(); }
