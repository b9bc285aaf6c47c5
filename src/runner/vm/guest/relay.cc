// The rules of both directions are those of fs/relay_channel.h.
#include "runner/vm/guest/relay.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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

void copy_requests(int fuse, Port& port) {
  const Buffer buffer(new char[fs::kRelayMessage]);
  while (true) {
    const ssize_t n = ::read(fuse, buffer.get(), fs::kRelayMessage);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (n <= 0) return;  // unmounted
    if (!port.write({buffer.get(), static_cast<std::size_t>(n)})) return;
  }
}

void copy_replies(int fuse, Port& port) {
  const Buffer buffer(new char[fs::kRelayMessage]);
  std::uint32_t length = 0;
  while (port.read(buffer.get(), sizeof length)) {
    std::memcpy(&length, buffer.get(), sizeof length);
    if (length < kReplyHead || length > fs::kRelayMessage) break;
    if (!port.read(buffer.get() + sizeof length, length - sizeof length)) break;
    // A request that was interrupted has nobody who waits for its reply.
    if (::write(fuse, buffer.get(), length) < 0 && errno != ENOENT && errno != EINTR) break;
  }
  ::close(fuse);
}

// A new mount reads 128 KiB ahead, which is a request for every piece of a program that is mapped.
// STATFS is answered after INIT, which settles the mount's own figure. STATX_DONT_SYNC: it is
// nobody's observation.
void widen_readahead(const std::string& target) {
  struct statfs ignored {};
  struct statx st {};
  if (::statfs(target.c_str(), &ignored) != 0) fail("statfs");
  if (::statx(AT_FDCWD, target.c_str(), AT_STATX_DONT_SYNC, 0, &st) != 0) fail("statx");
  write_file("/sys/class/bdi/" + std::to_string(st.stx_dev_major) + ":" +
                 std::to_string(st.stx_dev_minor) + "/read_ahead_kb",
             std::to_string(fs::kRelayTransfer >> 10), 0644);
}

}  // namespace

void serve_root(Port& port, const std::string& target) {
  const int fuse = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fuse < 0) fail("/dev/fuse");
  mount_or_fail("hmfs", target, "fuse.hmfs", MS_RDONLY | MS_NOSUID | MS_NODEV,
                "fd=" + std::to_string(fuse) +
                    ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other");
  std::thread([fuse, &port] { copy_requests(fuse, port); }).detach();
  std::thread([fuse, &port] { copy_replies(fuse, port); }).detach();
  widen_readahead(target);
}

}  // namespace hm::guest
