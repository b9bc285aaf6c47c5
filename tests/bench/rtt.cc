// bench_rtt: what one FUSE round trip costs on this machine, at its least.
//
//   bench_rtt DIR COUNT       DIR: an empty directory
//
// Mounts a server that answers LOOKUP at once, looks up COUNT distinct names through the kernel and
// prints "round_trip NANOSECONDS": the median of the means of ten parts of them.
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "fs/request_wait.h"

namespace {

constexpr double kForEver = 1e9;
constexpr std::size_t kParts = 10;

struct stat attributes(fuse_ino_t ino, mode_t mode) {
  struct stat st {};
  st.st_ino = ino;
  st.st_mode = mode;
  st.st_nlink = 1;
  return st;
}

void lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  fuse_entry_param entry{};
  entry.ino = std::strtoull(name, nullptr, 10) + 2;
  entry.attr = attributes(entry.ino, S_IFREG | 0444);
  entry.attr_timeout = kForEver;
  ::fuse_reply_entry(request, &entry);
}

void getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  const struct stat st = attributes(ino, ino == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0444);
  ::fuse_reply_attr(request, &st, kForEver);
}

bool measure(const std::string& dir, std::size_t count) {
  std::size_t name = 0;
  std::array<long long, kParts> means{};
  for (std::size_t part = 0; part < kParts; ++part) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < count / kParts; ++i) {
      struct stat st {};
      if (::stat((dir + "/" + std::to_string(name++)).c_str(), &st) != 0) return false;
    }
    const auto took = std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now() - start);
    means[part] = took.count() / static_cast<long long>(count / kParts);
  }
  std::sort(means.begin(), means.end());
  std::printf("round_trip %lld\n", means[kParts / 2]);
  return true;
}

// Waits for requests as hm does.
void serve(fuse_session* session) {
  const int fd = ::fuse_session_fd(session);
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  fuse_buf buffer{};
  hm::fs::RequestWait wait;
  while (!::fuse_session_exited(session)) {
    wait.begin();
    int size = ::fuse_session_receive_buf(session, &buffer);
    while (size == -EAGAIN) {
      pollfd device{fd, POLLIN, 0};
      if (!wait.watch()) ::poll(&device, 1, -1);
      size = ::fuse_session_receive_buf(session, &buffer);
    }
    wait.end();
    if (size == -EINTR) continue;
    if (size <= 0) break;
    ::fuse_session_process_buf(session, &buffer);
  }
  std::free(buffer.mem);  // NOLINT: allocated by libfuse with malloc
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  fuse_lowlevel_ops ops{};
  ops.lookup = lookup;
  ops.getattr = getattr;
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  fuse_session* session = ::fuse_session_new(&args, &ops, sizeof ops, nullptr);
  if (session == nullptr || ::fuse_session_mount(session, argv[1]) != 0) return 4;
  std::thread server(serve, session);
  const bool done = measure(argv[1], std::strtoull(argv[2], nullptr, 10));
  ::fuse_session_exit(session);
  ::fuse_session_unmount(session);  // ends the wait for a request, too
  server.join();
  ::fuse_session_destroy(session);
  return done ? 0 : 1;
}
