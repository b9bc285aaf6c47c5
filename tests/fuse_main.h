// For tests that mount: main is fuse_main.cc's, which enters private namespaces first.
#pragma once

namespace hm::test {

// Whether this process can mount; a test that needs it skips without.
bool can_mount();
inline constexpr const char* kCannotMount = "needs /dev/fuse and root or a user namespace";

}  // namespace hm::test
