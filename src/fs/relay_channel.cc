#include "fs/relay_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace hm::fs {

namespace {

constexpr int kSocketBuffer = 4 << 20;  // bytes of replies on their way
constexpr std::size_t kMostParts = 8;   // of one reply; libfuse uses three

// libfuse prints what errno says, but for these two: the end, and "never mind".
ssize_t end_of_stream() {
  errno = ENODEV;
  return -1;
}
ssize_t not_sent() {
  errno = ENOENT;
  return -1;
}

// Removes the first `sent` bytes.
std::span<iovec> rest_of(std::span<iovec> parts, std::size_t sent) {
  while (!parts.empty() && sent >= parts[0].iov_len) {
    sent -= parts[0].iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts[0].iov_base = static_cast<char*>(parts[0].iov_base) + sent;
    parts[0].iov_len -= sent;
  }
  return parts;
}

}  // namespace

RelayChannel::RelayChannel(int fd, std::chrono::milliseconds patience)
    : fd_(fd), patience_(patience), input_(std::make_unique_for_overwrite<char[]>(kRelayMessage)) {
  // Beyond the usual limit where that is allowed.
  if (::setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBuffer, sizeof kSocketBuffer) != 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
  }
}

ssize_t RelayChannel::read(void* buffer, std::size_t size) {
  const std::lock_guard lock(read_mutex_);
  while (true) {
    const auto length = next_message();
    if (!length) {
      end(length.error().message);
      return end_of_stream();
    }
    if (!*length) {
      errno = EAGAIN;
      return -1;
    }
    const std::string_view message(input_.get() + begin_, **length);
    if (message.empty()) return end_of_stream();
    auto verdict = check_.request(message);
    if (verdict && message.size() > size) {
      verdict = fail(ErrorCode::kInvalid, "the guest sent more than it said it would");
    }
    if (!verdict) {
      end(verdict.error().message);
      return end_of_stream();
    }
    begin_ += message.size();
    if (*verdict == RelayCheck::Verdict::kDrop) continue;
    std::memcpy(buffer, message.data(), message.size());
    return static_cast<ssize_t>(message.size());
  }
}

// The length of the message at begin_, once it is there whole; 0 where the stream ends before it,
// nullopt as long as nothing of it has come.
Result<std::optional<std::size_t>> RelayChannel::next_message() {
  while (true) {
    const std::size_t have = end_ - begin_;
    std::uint32_t length = 0;
    if (have >= sizeof length) {
      std::memcpy(&length, input_.get() + begin_, sizeof length);
      if (length < kRelayHeader || length > kRelayMessage) {
        return fail(ErrorCode::kInvalid,
                    "the guest sent a message that claims " + std::to_string(length) + " bytes");
      }
      if (have >= length) return std::optional<std::size_t>(length);
    }
    if (begin_ > 0) {
      std::memmove(input_.get(), input_.get() + begin_, have);
      begin_ = 0;
      end_ = have;
    }
    if (have > 0 && !wait_for(POLLIN)) {
      return fail(ErrorCode::kInvalid, "the guest stopped in the middle of a message");
    }
    const ssize_t got = ::recv(fd_, input_.get() + end_, kRelayMessage - end_, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN && have == 0) return std::optional<std::size_t>();
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return std::optional<std::size_t>(0);
    end_ += static_cast<std::size_t>(got);
  }
}

// Until something can be read or written, or the stream has ended. False: neither, for too long.
bool RelayChannel::wait_for(short events) const {
  const auto until = std::chrono::steady_clock::now() + patience_;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (left.count() < 0) return false;
    pollfd item{fd_, events, 0};
    const int ready = ::poll(&item, 1, static_cast<int>(left.count()) + 1);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
}

ssize_t RelayChannel::write(std::span<const iovec> reply) {
  std::array<iovec, kMostParts> parts{};
  if (reply.size() > parts.size()) return not_sent();
  std::copy(reply.begin(), reply.end(), parts.begin());
  std::span<iovec> rest = std::span(parts).first(reply.size());
  std::size_t size = 0;
  for (const iovec& part : reply) size += part.iov_len;

  const std::lock_guard lock(write_mutex_);
  check_.reply(reply);  // before the guest can ask about what is in it
  while (!rest.empty()) {
    msghdr message{};
    message.msg_iov = rest.data();
    message.msg_iovlen = rest.size();
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      rest = rest_of(rest, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (wait_for(POLLOUT)) continue;
      end("the guest does not take the answers to its requests");
      return not_sent();
    } else if (errno != EINTR) {
      return not_sent();
    }
  }
  return static_cast<ssize_t>(size);
}

void RelayChannel::end(const std::string& fault) {
  {
    const std::lock_guard lock(fault_mutex_);
    if (!fault_) fault_ = fault;
  }
  shut_down();
}

void RelayChannel::shut_down() const { ::shutdown(fd_, SHUT_RDWR); }

std::optional<std::string> RelayChannel::fault() const {
  const std::lock_guard lock(fault_mutex_);
  return fault_;
}

}  // namespace hm::fs
