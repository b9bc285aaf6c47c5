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

// --- archives (fs/upper_archive.h) ---

constexpr std::size_t kBlock = 512;

std::string octal(std::size_t value, std::size_t digits) {
  std::string out(digits, '0');
  for (; digits > 0; value >>= 3) out[--digits] = static_cast<char>('0' + (value & 7));
  return out;
}

std::string header_block(char type, std::size_t size) {
  std::string block(kBlock, '\0');
  block.replace(0, 5, "entry");
  block.replace(100, 7, octal(0644, 7));
  block.replace(124, 11, octal(size, 11));
  block.replace(148, 8, "        ");
  block[156] = type;
  block.replace(257, 8, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  block.replace(148, 7, octal(sum, 6) + '\0');
  return block;
}

// An entry without data. `path`: less than 85 bytes.
std::string entry(const std::string& path, char type) {
  const std::string record = " path=" + path + "\n";
  std::string data = std::to_string(record.size() + 2) + record;
  const std::string head = header_block('x', data.size());
  data.resize(kBlock, '\0');
  return head + data + header_block(type, 0);
}

void send_end(Ports& ports) {
  (void)ports.changes.write(std::string(2 * kBlock, '\0'));
  ports.control.send(FrameType::kSent, "");
}

// Each a right one, in order; more than a layer may have.
void send_a_million_entries(Ports& ports) {
  constexpr std::size_t kEntries = 1'100'000, kDigits = 7;
  std::string one = entry("f0000000", '0');
  const std::size_t at = one.find("f0000000") + 1;
  std::string many;
  for (std::size_t i = 0; i < kEntries; ++i) {
    one.replace(at, kDigits, octal(i, kDigits));
    many += one;
    if (many.size() < 200'000 && i + 1 < kEntries) continue;
    if (!ports.changes.write(many)) return;
    many.clear();
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
    {"climbing-archive",
     [](Ports& ports) {
       claim_success(ports);
       (void)ports.changes.write(entry(".", '5') + entry("../escaped", '0'));
       send_end(ports);
     }},
    {"climbing-inside",
     [](Ports& ports) {
       claim_success(ports);
       (void)ports.changes.write(entry(".", '5') + entry("a", '5') + entry("a/../../escaped", '0'));
       send_end(ports);
     }},
    {"million",
     [](Ports& ports) {
       claim_success(ports);
       (void)ports.changes.write(entry(".", '5'));
       send_a_million_entries(ports);
       send_end(ports);
     }},
    {"endless-archive",
     [](Ports& ports) {
       claim_success(ports);
       const std::string one = entry(".", '5');
       for (std::size_t i = 0; ports.changes.write(one.substr(i % one.size(), 1)); ++i) {
         ::usleep(500'000);
       }
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
