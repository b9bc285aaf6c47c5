#include "runner/vm/guest/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

constexpr const char* kPorts = "/sys/class/virtio-ports";
constexpr int kTries = 5000;  // of a millisecond each

std::string device_of(const std::string& wanted) {
  std::string found;
  DIR* ports = ::opendir(kPorts);
  if (ports == nullptr) return found;
  while (const dirent* entry = ::readdir(ports)) {
    const std::string device = entry->d_name;
    if (read_file(std::string(kPorts) + "/" + device + "/name") == wanted + "\n") {
      found = "/dev/" + device;
    }
  }
  ::closedir(ports);
  return found;
}

void wait_for(int fd, short events) {
  pollfd item{fd, events, 0};
  ::poll(&item, 1, 1000);
}

}  // namespace

Port::Port(const char* name) {
  for (int tries = 0; tries < kTries && fd_ < 0; ++tries) {
    const std::string device = device_of(name);
    if (!device.empty()) fd_ = ::open(device.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) ::usleep(1000);
  }
  if (fd_ < 0) fail_plain(std::string("there is no port ") + name);
}

bool Port::read(char* buffer, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::read(fd_, buffer, size);
    if (n > 0) {
      heard_ = true;
      buffer += n;
      size -= static_cast<std::size_t>(n);
    } else if (n == 0) {
      if (heard_) return false;
      ::usleep(1000);
    } else if (errno == EAGAIN) {
      wait_for(fd_, POLLIN);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool Port::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(fd_, POLLOUT);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

void Port::send(runner::vm::FrameType type, std::string_view payload) {
  const std::lock_guard lock(sending_);
  do {
    const std::string_view part =
        payload.substr(0, std::min<std::size_t>(payload.size(), runner::vm::kLongestFromGuest));
    std::string frame = runner::vm::frame_head(type, static_cast<std::uint32_t>(part.size()));
    frame += part;
    (void)write(frame);
    payload.remove_prefix(part.size());
  } while (!payload.empty());
}

bool Port::receive(runner::vm::FrameType& type, std::string& payload) {
  char head[runner::vm::kFrameHead];
  if (!read(head, sizeof head)) return false;
  const std::uint32_t length = runner::vm::frame_length({head, sizeof head});
  if (length > runner::vm::kLongestToGuest) return false;
  type = static_cast<runner::vm::FrameType>(head[0]);
  payload.resize(length);
  return read(payload.data(), length);
}

}  // namespace hm::guest
