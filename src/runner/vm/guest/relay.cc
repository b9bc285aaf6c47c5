// The rules of both directions are those of fs/relay_channel.h.
#include "runner/vm/guest/relay.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "fs/relay_channel.h"
#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

constexpr std::size_t kReplyHead = 16;  // of a reply without data, linux/fuse.h

using Buffer = std::unique_ptr<char[]>;

// STATX_DONT_SYNC: nothing is asked.
int open_readahead(const std::string& target) {
  struct statx st {};
  if (::statx(AT_FDCWD, target.c_str(), AT_STATX_DONT_SYNC, 0, &st) != 0) fail("statx");
  const std::string path = "/sys/class/bdi/" + std::to_string(st.stx_dev_major) + ":" +
                           std::to_string(st.stx_dev_minor) + "/read_ahead_kb";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) fail(path);
  return fd;
}

}  // namespace

ServedRoot::ServedRoot(Port& port, const std::string& target)
    : port_(port), fuse_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
  if (fuse_ < 0) fail("/dev/fuse");
  mount_or_fail("hmfs", target, "fuse.hmfs", MS_RDONLY | MS_NOSUID | MS_NODEV,
                "fd=" + std::to_string(fuse_) +
                    ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other");
  readahead_ = open_readahead(target);
  std::thread([this] { copy_requests(); }).detach();
  std::thread([this] { copy_replies(); }).detach();
}

// A new mount reads 128 KiB ahead, which is a request for every piece of a program that is mapped.
// INIT, the first answer of all, settles the mount's own figure.
void ServedRoot::widen_readahead() const {
  if (!write_all(readahead_, std::to_string(fs::kRelayTransfer >> 10))) fail("readahead");
}

void ServedRoot::copy_requests() {
  const Buffer buffer(new char[fs::kRelayMessage]);
  started_.wait();
  while (true) {
    const ssize_t n = ::read(fuse_, buffer.get(), fs::kRelayMessage);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (n <= 0) return;  // unmounted
    if (!port_.write({buffer.get(), static_cast<std::size_t>(n)})) return;
  }
}

void ServedRoot::copy_replies() {
  const Buffer buffer(new char[fs::kRelayMessage]);
  std::uint32_t length = 0;
  while (port_.read(buffer.get(), sizeof length)) {
    std::memcpy(&length, buffer.get(), sizeof length);
    if (length < kReplyHead || length > fs::kRelayMessage) break;
    if (!port_.read(buffer.get() + sizeof length, length - sizeof length)) break;
    // A request that was interrupted has nobody who waits for its reply.
    if (::write(fuse_, buffer.get(), length) < 0 && errno != ENOENT && errno != EINTR) break;
  }
  ::close(fuse_);
}

}  // namespace hm::guest
