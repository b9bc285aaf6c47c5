#include "runner/vm/machine.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "runner/graph.h"

namespace hm::runner::vm {

namespace {

constexpr std::size_t kConsoleTail = 4096;  // bytes kept
constexpr std::size_t kLastWords = 300;     // bytes shown
constexpr int kSocketBuffer = 4 << 20;      // a 1 MiB reply is taken at once

// hm's end and QEMU's.
Result<std::pair<Fd, Fd>> socket_pair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return fail_errno("socketpair");
  }
  for (const int fd : fds) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
  }
  return std::pair(Fd(fds[0]), Fd(fds[1]));
}

int milliseconds_until(const std::optional<Clock::time_point>& until) {
  if (!until) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
}

bool is_from_guest(FrameType type) {
  return type >= FrameType::kReady && type <= FrameType::kFailure;
}

tl::unexpected<Error> broken(const std::string& what) { return fail(ErrorCode::kCorrupt, what); }

}  // namespace

Machine::Machine(QemuProcess process, Fd control, Fd relay, Fd changes, Fd console, Fd monitor)
    : control_(std::move(control)),
      relay_(std::move(relay)),
      changes_(std::move(changes)),
      console_(std::move(console)),
      monitor_(std::move(monitor)),
      process_(std::move(process)) {}

Result<Machine> Machine::start(const MachineParts& parts, QemuUse use) {
  HM_ASSIGN(auto control, socket_pair());
  HM_ASSIGN(auto relay, socket_pair());
  HM_ASSIGN(auto changes, socket_pair());
  HM_ASSIGN(auto console, socket_pair());
  HM_ASSIGN(auto monitor, socket_pair());
  std::vector<std::pair<int, int>> given = {
      {control.second.get(), kControlFd}, {relay.second.get(), kRelayFd},
      {changes.second.get(), kChangesFd}, {console.second.get(), kConsoleFd},
      {parts.scratch, kScratchFd},        {parts.initramfs, kInitramfsFd}};
  if (use != QemuUse::kBoot) {
    given.insert(given.end(), {{parts.state, kStateFd}, {monitor.second.get(), kMonitorFd}});
  }
  if (use == QemuUse::kRestore) HM_TRY(write_all(monitor.first.get(), restore_commands()));
  HM_ASSIGN(QemuProcess process,
            QemuProcess::start(parts.shape.qemu, qemu_arguments(parts.shape, use), given));
  return Machine(std::move(process), std::move(control.first), std::move(relay.first),
                 std::move(changes.first), std::move(console.first), std::move(monitor.first));
}

Status Machine::wait_ready(Clock::time_point until, int wake, QemuUse use) {
  if (use == QemuUse::kRestore) HM_TRY(send(FrameType::kHello, "", until));
  auto frame = receive(until, wake);
  if (!frame) {
    return fail(ErrorCode::kRefused, "the virtual machine did not boot: " + frame.error().message);
  }
  if (!*frame && Clock::now() < until) return fail(ErrorCode::kCancelled, "cancelled");
  if (!*frame) {
    return fail(ErrorCode::kRefused,
                "the virtual machine did not boot in time; it said last: " + last_words());
  }
  if ((*frame)->type == FrameType::kReady) return {};
  return fail(ErrorCode::kRefused,
              "the virtual machine did not boot: " + printable((*frame)->payload));
}

Result<Machine::Event> Machine::wait(std::optional<Clock::time_point> until, int wake,
                                     int changes) {
  while (true) {
    std::array<pollfd, 4> fds = {{{control_.get(), POLLIN, 0},
                                  {console_.get(), POLLIN, 0},
                                  {changes, POLLIN, 0},
                                  {wake, POLLIN, 0}}};
    const int count = ::poll(fds.data(), fds.size(), milliseconds_until(until));
    if (count < 0 && errno != EINTR) return fail_errno("poll");
    if (count <= 0) {
      if (until && Clock::now() >= *until) return Event::kTime;
      continue;
    }
    if (fds[1].revents != 0) drain_console();
    if (fds[2].revents != 0) return Event::kChanges;
    if (fds[0].revents != 0) return Event::kControl;
    if (fds[3].revents != 0) return Event::kWake;
    if (until && Clock::now() >= *until) return Event::kTime;
  }
}

// Never blocks; a guest may print as much as it likes.
void Machine::drain_console() {
  std::array<char, 4096> buffer{};
  const ssize_t n = ::recv(console_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n > 0) tail_.append(buffer.data(), static_cast<std::size_t>(n));
  if (tail_.size() > 2 * kConsoleTail) tail_.erase(0, tail_.size() - kConsoleTail);
  if (n == 0) console_.reset();  // QEMU has ended, which the control port says too
}

Result<std::optional<Frame>> Machine::receive(std::optional<Clock::time_point> until, int wake) {
  while (true) {
    HM_ASSIGN(auto frame, take_frame());
    if (frame) return frame;
    HM_ASSIGN(const Event event, wait(until, wake, -1));
    if (event != Event::kControl) return std::optional<Frame>{};
    HM_TRY(fill());
  }
}

Result<std::optional<Frame>> Machine::take_frame() {
  if (input_.size() < kFrameHead) return std::optional<Frame>{};
  const auto type = static_cast<FrameType>(input_[0]);
  const std::uint32_t length = frame_length(input_);
  if (!is_from_guest(type)) return broken("it sent a message of an unknown kind");
  if (length > kLongestFromGuest) return broken("it sent a message that is too long");
  if (input_.size() < kFrameHead + length) return std::optional<Frame>{};
  Frame frame{type, input_.substr(kFrameHead, length)};
  input_.erase(0, kFrameHead + length);
  return std::optional(std::move(frame));
}

Status Machine::fill() {
  std::array<char, std::size_t{64} << 10> buffer{};
  const ssize_t n = ::recv(control_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return {};
  if (n <= 0) return broken("it ended; it said last: " + last_words());
  input_.append(buffer.data(), static_cast<std::size_t>(n));
  return {};
}

Status Machine::send(FrameType type, std::string_view payload, Clock::time_point until) {
  const std::string frame =
      frame_head(type, static_cast<std::uint32_t>(payload.size())).append(payload);
  std::string_view rest = frame;
  while (!rest.empty()) {
    const ssize_t n = ::send(control_.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      rest.remove_prefix(static_cast<std::size_t>(n));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return broken("it ended; it said last: " + last_words());
    pollfd item{control_.get(), POLLOUT, 0};
    ::poll(&item, 1, milliseconds_until(until));
    if (Clock::now() >= until) return broken("it does not listen");
  }
  return {};
}

Result<std::size_t> Machine::read_changes(std::span<char> buffer, Clock::time_point until,
                                          int wake) {
  while (true) {
    HM_ASSIGN(const Event event, wait(until, wake, changes_.get()));
    if (event == Event::kTime) return broken("it stopped sending what the step wrote");
    if (event == Event::kWake) return fail(ErrorCode::kCancelled, "cancelled");
    if (event == Event::kControl) {
      HM_TRY(fill());
      HM_ASSIGN(const auto frame, take_frame());
      if (frame && frame->type == FrameType::kFailure) return broken(printable(frame->payload));
      if (frame && frame->type != FrameType::kSent) return broken("it sent something out of order");
      if (frame) return std::size_t{0};
      continue;
    }
    const ssize_t n = ::recv(changes_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return fail_errno("changes");
    return static_cast<std::size_t>(n);
  }
}

std::string Machine::last_words() const {
  std::string text = tail_;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  if (text.empty()) text = process_.last_words();
  if (text.size() > kLastWords) text.erase(0, text.size() - kLastWords);
  return text.empty() ? "nothing" : printable(text);
}

}  // namespace hm::runner::vm
