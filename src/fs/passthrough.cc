// The words of the FUSE protocol that libfuse 3.14 and the kernel headers of Debian 12 lack; their
// source is include/uapi/linux/fuse.h of Linux 6.9.
#include "fs/passthrough.h"

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstring>

namespace hm::fs {

namespace {

constexpr std::uint32_t kPassthroughBit = 1U << (37 - 32);  // of flags2, in INIT and its answer
constexpr std::uint32_t kStackDepth = 1;  // our own; an overlay over it makes the kernel's two
constexpr std::uint32_t kOpenPassthrough = 1U << 7;

struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);
constexpr unsigned long kBackingClose = _IOW(229, 2, std::uint32_t);

struct OpenAnswer {
  std::uint64_t fh;
  std::uint32_t open_flags;
  std::int32_t backing_id;
};

// In fuse_init_out the depth is the word after flags2.
constexpr std::size_t kDepthOffset = offsetof(fuse_init_out, flags2) + sizeof(std::uint32_t);

std::int32_t register_file(int device, const Fd& file) {
  BackingMap map{file.get(), 0, 0};
  return ::ioctl(device, kBackingOpen, &map);
}

}  // namespace

std::optional<PassthroughMode> parse_passthrough(std::string_view text) {
  if (text == "off") return PassthroughMode::kOff;
  if (text == "auto") return PassthroughMode::kAuto;
  if (text == "require") return PassthroughMode::kRequire;
  return std::nullopt;
}

void Passthrough::see_request(const void* message, std::size_t size) {
  if (state_ != State::kAsking || size < sizeof(fuse_in_header) + sizeof(fuse_init_in)) return;
  fuse_in_header header{};
  fuse_init_in init{};
  std::memcpy(&header, message, sizeof header);
  if (header.opcode != FUSE_INIT) return;
  std::memcpy(&init, static_cast<const char*>(message) + sizeof header, sizeof init);
  const bool offered = (init.flags & FUSE_INIT_EXT) != 0 && (init.flags2 & kPassthroughBit) != 0;
  if (offered) init_ = header.unique;
}

void Passthrough::amend_answer(iovec* parts, int count) {
  if (init_ == 0 || count < 2 || parts[0].iov_len != sizeof(fuse_out_header)) return;
  fuse_out_header header{};
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  if (header.unique != init_ || header.error != 0) return;
  if (parts[1].iov_len < kDepthOffset + sizeof kStackDepth) return;
  char* const bytes = static_cast<char*>(parts[1].iov_base);
  fuse_init_out init{};
  std::memcpy(&init, bytes, std::min(sizeof init, parts[1].iov_len));
  init.flags |= FUSE_INIT_EXT;
  init.flags2 |= kPassthroughBit;
  std::memcpy(bytes, &init, kDepthOffset);
  std::memcpy(bytes + kDepthOffset, &kStackDepth, sizeof kStackDepth);
  init_ = 0;
  accepted_ = true;
}

Status Passthrough::settle(int device, const Fd& file) {
  if (state_ != State::kAsking) return {};
  Status outcome;
  if (!accepted_) {
    outcome = fail(ErrorCode::kRefused, "passthrough: this kernel does not offer it (Linux 6.9)");
  } else if (const std::int32_t id = register_file(device, file); id >= 0) {
    ::ioctl(device, kBackingClose, &id);
  } else {
    outcome = fail(ErrorCode::kRefused,
                   std::string("passthrough: the kernel refuses it: ") + std::strerror(errno) +
                       (errno == EPERM   ? " (it needs root of the machine)"
                        : errno == ELOOP ? " (the store is on a stacked filesystem)"
                                         : ""));
  }
  state_ = outcome ? State::kOn : State::kOff;
  return outcome;
}

std::optional<std::int32_t> Passthrough::backing(std::uint32_t node, int device, const Fd& blob) {
  if (state_ != State::kOn) return std::nullopt;
  const std::lock_guard lock(mutex_);
  auto known = ids_.find(node);
  if (known == ids_.end()) known = ids_.emplace(node, register_file(device, blob)).first;
  if (known->second < 0) return std::nullopt;
  return known->second;
}

std::vector<char> passthrough_open_answer(std::int32_t backing) {
  const OpenAnswer answer{0, kOpenPassthrough, backing};
  std::vector<char> out(sizeof answer);
  std::memcpy(out.data(), &answer, sizeof answer);
  return out;
}

}  // namespace hm::fs
