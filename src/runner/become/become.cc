// become UID GID GROUP,… PROGRAM [ARG…]: takes these ids, and becomes the program.
//
// bubblewrap has no way to do that for a root that has no user namespace. Static, since it runs in
// the root of a step, where nothing of the host is: bubblewrap starts it from a descriptor, so no
// path leads to it, and it is gone when the step's command begins.
#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runner/become/take_ids.h"

namespace {

std::uint32_t number(const char* text, char** end) {
  return static_cast<std::uint32_t>(std::strtoul(text, end, 10));
}

std::vector<std::uint32_t> numbers(char* text) {
  std::vector<std::uint32_t> out;
  while (*text != '\0') {
    char* end = text;
    out.push_back(number(text, &end));
    if (end == text) break;
    text = *end == ',' ? end + 1 : end;
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 126;
  const std::uint32_t uid = number(argv[1], nullptr);
  const std::uint32_t gid = number(argv[2], nullptr);
  if (!hm::runner::take_ids(uid, gid, numbers(argv[3]))) {
    std::fprintf(stderr, "hm: cannot run as %s:%s here: %s\n", argv[1], argv[2],
                 std::strerror(errno));
    return 126;
  }
  ::fcntl(hm::runner::kBecomeFd, F_SETFD, FD_CLOEXEC);
  ::execvp(argv[4], argv + 4);
  return errno == ENOENT ? 127 : 126;  // as a shell would say
}
