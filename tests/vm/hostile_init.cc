// A guest whose init has gone over: it boots and takes its order like ours, and then does what the
// first word of the command says (hostile_guest_test.cc).
#include <fcntl.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <string>

#include "runner/vm/guest/boot.h"
#include "runner/vm/guest/port.h"
#include "runner/vm/guest/system.h"

namespace {

using namespace hm::guest;
using hm::runner::vm::FrameType;
using hm::runner::vm::StepEnd;
using hm::runner::vm::StepOrder;

struct Ports {
  Port control{hm::runner::vm::kControlPort};
  Port relay{hm::runner::vm::kRelayPort};
  Port changes{hm::runner::vm::kChangesPort};
};

StepOrder take_order(Ports& ports) {
  FrameType type{};
  std::string payload;
  StepOrder order;
  ports.control.send(FrameType::kReady, "");
  while (ports.control.receive(type, payload) && type == FrameType::kHello) {
    ports.control.send(FrameType::kReady, "");
  }
  (void)decode(payload, order);
  return order;
}

[[noreturn]] void sleep_for_ever() {
  while (true) ::pause();
}

void claim_success(Ports& ports) {
  ports.control.send(FrameType::kStarted, "");
  ports.control.send(FrameType::kExit, encode(StepEnd{}));
  FrameType type{};
  std::string payload;
  while (ports.control.receive(type, payload) && type != FrameType::kSend) {
  }
}

const std::map<std::string, std::function<void(Ports&)>> kDeeds = {
    {"unknown", [](Ports& ports) { ports.control.send(static_cast<FrameType>(99), "?"); }},
    {"long",
     [](Ports& ports) { (void)ports.control.write(std::string("\x03\xff\xff\xff\xff", 5)); }},
    {"early", [](Ports& ports) { ports.control.send(FrameType::kStdout, "before it starts"); }},
    {"twice",
     [](Ports& ports) {
       ports.control.send(FrameType::kStarted, "");
       ports.control.send(FrameType::kStarted, "");
     }},
    {"exit",
     [](Ports& ports) {
       ports.control.send(FrameType::kStarted, "");
       ports.control.send(FrameType::kExit, "\xff\xff");
     }},
    {"off", [](Ports&) { ::reboot(RB_AUTOBOOT); }},
    {"silence", [](Ports&) {}},
    {"silent-command", [](Ports& ports) { ports.control.send(FrameType::kStarted, ""); }},
    {"flood",
     [](Ports& ports) {
       ports.control.send(FrameType::kStarted, "");
       const std::string line(60'000, 'x');
       while (true) ports.control.send(FrameType::kStdout, line);
     }},
    {"console",
     [](Ports& ports) {
       ports.control.send(FrameType::kStarted, "");
       const int console = ::open("/dev/console", O_WRONLY);
       while (write_all(console, "a line that nobody wants to read\n")) {
       }
     }},
    {"fuse",
     [](Ports& ports) {
       (void)ports.relay.write(std::string(4096, '\x01'));
       claim_success(ports);
     }},
    {"archive",
     [](Ports& ports) {
       claim_success(ports);
       (void)ports.changes.write(std::string(100'000, 'x'));
     }},
    {"no-archive", claim_success},
    {"no-end-of-archive",
     [](Ports& ports) {
       claim_success(ports);
       ports.control.send(FrameType::kSent, "");
     }},
};

}  // namespace

int main() {
  boot();
  Ports ports;
  const StepOrder order = take_order(ports);
  const auto deed = order.argv.empty() ? kDeeds.end() : kDeeds.find(order.argv.front());
  if (deed != kDeeds.end()) deed->second(ports);
  sleep_for_ever();
}
