#include "runner/vm/guest/system.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "runner/vm/guest/port.h"

namespace hm::guest {

namespace {

std::atomic<Port*> failures{nullptr};

}  // namespace

void report_failures_to(Port* control) { failures = control; }

void fail(const std::string& what) { fail_plain(what + ": " + std::strerror(errno)); }

void fail_plain(const std::string& message) {
  const int console = ::open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
  if (console >= 0) (void)write_all(console, "<3>hm: " + message + "\n");
  if (Port* control = failures.exchange(nullptr)) {
    control->send(runner::vm::FrameType::kFailure, message.substr(0, 4096));
    ::usleep(100'000);  // the host takes it out of the port's buffers meanwhile
  }
  ::reboot(RB_AUTOBOOT);
  ::_exit(1);
}

void mount_or_fail(const char* source, const std::string& target, const char* type,
                   unsigned long flags, const std::string& options) {
  if (::mount(source, target.c_str(), type, flags, options.c_str()) != 0) {
    fail("cannot mount " + std::string(type) + " on " + target);
  }
}

void make_directory(const std::string& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) fail("cannot make " + path);
}

void write_file(const std::string& path, std::string_view bytes, unsigned mode) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0 || !write_all(fd, bytes)) fail("cannot write " + path);
  ::close(fd);
}

std::string read_file(const std::string& path) {
  std::string out;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return out;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd, buffer, sizeof buffer)) > 0;) {
    out.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(fd);
  return out;
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace hm::guest
