// One row per request; the layouts are those of linux/fuse.h.
#include "fs/relay_check.h"

#include <linux/fuse.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

namespace hm::fs {

namespace {

constexpr std::uint32_t kStatx = 52;        // FUSE_STATX, Linux 6.6
constexpr std::size_t kStatxBody = 24;      // bytes
constexpr std::size_t kLongestName = 1024;  // FUSE_NAME_MAX of the kernel; longer than any here
constexpr std::size_t kLongestXattrName = 255;
constexpr std::uint32_t kMostXattr = 65536;   // bytes, XATTR_SIZE_MAX
constexpr std::size_t kMostIoctl = 16384;     // bytes that can follow FUSE_IOCTL
constexpr std::uint32_t kLeastMinor = 31;     // of protocol 7: Linux 5.4
constexpr std::uint32_t kLongInitMinor = 36;  // fuse_init_in has 64 bytes from here on
constexpr std::size_t kShortInit = 16;        // bytes
constexpr std::size_t kNone = SIZE_MAX;

// What follows the header.
enum class Tail {
  kNothing,
  kName,  // of a directory entry
  kXattrName,
  kForgets,    // as many as the count says
  kInitExtra,  // newer kernels send more
  kIoctl,      // as many bytes as in_size says
};
enum class Node { kKnown, kAny };

struct Rule {
  std::uint32_t opcode;
  const char* name;
  std::size_t body;  // bytes before the tail
  Tail tail = Tail::kNothing;
  Node node = Node::kKnown;
  std::size_t handle = kNone;  // where the body has a file handle: all are 0 here
  std::size_t size = kNone;    // where it has the size of the reply's data
  std::uint32_t most = 0;      // what that may be
  std::size_t offset = kNone;  // where it has an offset in a file or directory
  bool answered = true;
};

// All that a kernel asks of a read-only mount, so also what libfuse answers with ENOSYS by itself.
const Rule kRules[] = {
    {FUSE_LOOKUP, "LOOKUP", 0, Tail::kName},
    {.opcode = FUSE_FORGET, .name = "FORGET", .body = sizeof(fuse_forget_in), .answered = false},
    {.opcode = FUSE_BATCH_FORGET,
     .name = "BATCH_FORGET",
     .body = sizeof(fuse_batch_forget_in),
     .tail = Tail::kForgets,
     .node = Node::kAny,
     .answered = false},
    {.opcode = FUSE_GETATTR,
     .name = "GETATTR",
     .body = sizeof(fuse_getattr_in),
     .handle = offsetof(fuse_getattr_in, fh)},
    {FUSE_READLINK, "READLINK", 0},
    {FUSE_OPEN, "OPEN", sizeof(fuse_open_in)},
    {.opcode = FUSE_READ,
     .name = "READ",
     .body = sizeof(fuse_read_in),
     .handle = offsetof(fuse_read_in, fh),
     .size = offsetof(fuse_read_in, size),
     .most = kRelayTransfer,
     .offset = offsetof(fuse_read_in, offset)},
    {FUSE_STATFS, "STATFS", 0},
    {.opcode = FUSE_RELEASE,
     .name = "RELEASE",
     .body = sizeof(fuse_release_in),
     .handle = offsetof(fuse_release_in, fh)},
    {.opcode = FUSE_FSYNC,
     .name = "FSYNC",
     .body = sizeof(fuse_fsync_in),
     .handle = offsetof(fuse_fsync_in, fh)},
    {.opcode = FUSE_GETXATTR,
     .name = "GETXATTR",
     .body = sizeof(fuse_getxattr_in),
     .tail = Tail::kXattrName,
     .size = offsetof(fuse_getxattr_in, size),
     .most = kMostXattr},
    {.opcode = FUSE_LISTXATTR,
     .name = "LISTXATTR",
     .body = sizeof(fuse_getxattr_in),
     .size = offsetof(fuse_getxattr_in, size),
     .most = kMostXattr},
    {.opcode = FUSE_FLUSH,
     .name = "FLUSH",
     .body = sizeof(fuse_flush_in),
     .handle = offsetof(fuse_flush_in, fh)},
    {FUSE_INIT, "INIT", kShortInit, Tail::kInitExtra, Node::kAny},
    {FUSE_OPENDIR, "OPENDIR", sizeof(fuse_open_in)},
    {.opcode = FUSE_READDIR,
     .name = "READDIR",
     .body = sizeof(fuse_read_in),
     .handle = offsetof(fuse_read_in, fh),
     .size = offsetof(fuse_read_in, size),
     .most = kRelayTransfer,
     .offset = offsetof(fuse_read_in, offset)},
    {.opcode = FUSE_READDIRPLUS,
     .name = "READDIRPLUS",
     .body = sizeof(fuse_read_in),
     .handle = offsetof(fuse_read_in, fh),
     .size = offsetof(fuse_read_in, size),
     .most = kRelayTransfer,
     .offset = offsetof(fuse_read_in, offset)},
    {.opcode = FUSE_RELEASEDIR,
     .name = "RELEASEDIR",
     .body = sizeof(fuse_release_in),
     .handle = offsetof(fuse_release_in, fh)},
    {.opcode = FUSE_FSYNCDIR,
     .name = "FSYNCDIR",
     .body = sizeof(fuse_fsync_in),
     .handle = offsetof(fuse_fsync_in, fh)},
    {FUSE_ACCESS, "ACCESS", sizeof(fuse_access_in)},
    {FUSE_INTERRUPT, "INTERRUPT", sizeof(fuse_interrupt_in), Tail::kNothing, Node::kAny},
    {FUSE_DESTROY, "DESTROY", 0, Tail::kNothing, Node::kAny},
    {.opcode = FUSE_IOCTL,
     .name = "IOCTL",
     .body = sizeof(fuse_ioctl_in),
     .tail = Tail::kIoctl,
     .handle = offsetof(fuse_ioctl_in, fh)},
    {.opcode = FUSE_POLL,
     .name = "POLL",
     .body = sizeof(fuse_poll_in),
     .handle = offsetof(fuse_poll_in, fh)},
    {.opcode = FUSE_LSEEK,
     .name = "LSEEK",
     .body = sizeof(fuse_lseek_in),
     .handle = offsetof(fuse_lseek_in, fh)},
    {kStatx, "STATX", kStatxBody},
};

template <class T>
T field(std::string_view bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

const Rule* find_rule(std::uint32_t opcode) {
  const auto* rule = std::find_if(std::begin(kRules), std::end(kRules),
                                  [&](const Rule& item) { return item.opcode == opcode; });
  return rule == std::end(kRules) ? nullptr : rule;
}

tl::unexpected<Error> refuse(const Rule& rule, const std::string& why) {
  return fail(ErrorCode::kInvalid, std::string("the guest sent ") + rule.name + " " + why);
}

tl::unexpected<Error> refuse_length(const Rule& rule, std::size_t size) {
  return refuse(rule, "with " + std::to_string(size) + " bytes behind its header");
}

// Of exactly one NUL, the last byte.
Status check_name(const Rule& rule, std::string_view name, std::size_t longest) {
  if (name.empty() || name.find('\0') != name.size() - 1) {
    return refuse(rule, "with a name that does not end where the message does");
  }
  name.remove_suffix(1);
  if (name.empty()) return refuse(rule, "with an empty name");
  if (name.size() > longest) {
    return refuse(rule, "with a name of " + std::to_string(name.size()) + " bytes");
  }
  return {};
}

Status check_entry_name(const Rule& rule, std::string_view name) {
  HM_TRY(check_name(rule, name, kLongestName));
  name.remove_suffix(1);
  if (name == "." || name == ".." || name.find('/') != std::string_view::npos) {
    return refuse(rule, "with a name that no directory can have");
  }
  return {};
}

Status check_init(const Rule& rule, std::string_view body) {
  const auto major = field<std::uint32_t>(body, offsetof(fuse_init_in, major));
  const auto minor = field<std::uint32_t>(body, offsetof(fuse_init_in, minor));
  if (major != FUSE_KERNEL_VERSION || minor < kLeastMinor) {
    return refuse(rule, "for protocol " + std::to_string(major) + "." + std::to_string(minor));
  }
  // FUSE_INIT_EXT makes libfuse read flags2.
  const std::size_t expected = minor < kLongInitMinor ? kShortInit : sizeof(fuse_init_in);
  const auto flags = field<std::uint32_t>(body, offsetof(fuse_init_in, flags));
  if (body.size() != expected || (expected == kShortInit && (flags & FUSE_INIT_EXT) != 0)) {
    return refuse_length(rule, body.size());
  }
  return {};
}

Status check_tail(const Rule& rule, std::string_view body) {
  const std::string_view tail = body.substr(rule.body);
  switch (rule.tail) {
    case Tail::kNothing:
      break;
    case Tail::kName:
      return check_entry_name(rule, tail);
    case Tail::kXattrName:
      return check_name(rule, tail, kLongestXattrName);
    case Tail::kForgets:
      if (tail.size() != field<std::uint32_t>(body, offsetof(fuse_batch_forget_in, count)) *
                             sizeof(fuse_forget_one)) {
        return refuse_length(rule, body.size());
      }
      return {};
    case Tail::kInitExtra:
      return check_init(rule, body);
    case Tail::kIoctl:
      if (tail.size() > kMostIoctl ||
          tail.size() != field<std::uint32_t>(body, offsetof(fuse_ioctl_in, in_size))) {
        return refuse_length(rule, body.size());
      }
      return {};
  }
  if (!tail.empty()) return refuse_length(rule, body.size());
  return {};
}

Status check_numbers(const Rule& rule, std::string_view body) {
  if (rule.handle != kNone && field<std::uint64_t>(body, rule.handle) != 0) {
    return refuse(rule, "on a file handle that it was not given");
  }
  std::uint32_t size = 0;
  if (rule.size != kNone) size = field<std::uint32_t>(body, rule.size);
  if (size > rule.most) return refuse(rule, "for " + std::to_string(size) + " bytes");
  if (rule.offset == kNone) return {};
  const auto offset = field<std::uint64_t>(body, rule.offset);
  if (offset > static_cast<std::uint64_t>(INT64_MAX) - size) {
    return refuse(rule, "at offset " + std::to_string(offset));
  }
  return {};
}

// The nodes of a READDIRPLUS reply, as libfuse packed them.
template <class Each>
void each_node(std::string_view entries, Each each) {
  while (entries.size() >= FUSE_NAME_OFFSET_DIRENTPLUS) {
    each(field<std::uint64_t>(entries, offsetof(fuse_direntplus, entry_out.nodeid)));
    const auto name = field<std::uint32_t>(entries, offsetof(fuse_direntplus, dirent.namelen));
    const std::size_t whole = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + name);
    entries.remove_prefix(std::min(whole, entries.size()));
  }
}

}  // namespace

bool RelayCheck::is_known(std::uint64_t node) const {
  return node == FUSE_ROOT_ID || (node < lookups_.size() && lookups_[node] > 0);
}

void RelayCheck::hand_out(std::uint64_t node) {
  if (node == 0) return;  // of an absent name
  if (node >= lookups_.size()) lookups_.resize(node + 1);
  lookups_[node] += 1;
}

Status RelayCheck::forget(std::uint64_t node, std::uint64_t lookups) {
  if (node >= lookups_.size() || lookups_[node] < lookups) {
    return fail(ErrorCode::kInvalid, "the guest forgot node " + std::to_string(node) +
                                         " more often than it looked it up");
  }
  lookups_[node] -= lookups;
  return {};
}

Result<RelayCheck::Verdict> RelayCheck::request(std::string_view message) {
  static_assert(kRelayHeader == sizeof(fuse_in_header));
  fuse_in_header header{};
  if (message.size() < sizeof header) {
    return fail(ErrorCode::kInvalid,
                "the guest sent a message of " + std::to_string(message.size()) + " bytes");
  }
  std::memcpy(&header, message.data(), sizeof header);
  const std::string_view body = message.substr(sizeof header);
  const Rule* rule = find_rule(header.opcode);
  if (rule == nullptr) {
    return fail(ErrorCode::kInvalid, "the guest sent request " + std::to_string(header.opcode) +
                                         ", which a read-only filesystem does not get");
  }
  if (header.len != message.size() || body.size() < rule->body) {
    return refuse_length(*rule, body.size());
  }
  if (header.total_extlen != 0 || header.padding != 0) {
    return refuse(*rule, "with extensions that were not agreed on");
  }
  HM_TRY(check_tail(*rule, body));
  HM_TRY(check_numbers(*rule, body));

  const std::lock_guard lock(mutex_);
  const State needed = header.opcode == FUSE_INIT ? State::kNew : State::kOpen;
  if (state_ != needed) return refuse(*rule, "out of order");
  if (rule->node == Node::kKnown && !is_known(header.nodeid)) {
    return refuse(*rule, "for node " + std::to_string(header.nodeid) + ", which it does not have");
  }
  if (header.opcode == FUSE_INTERRUPT) return Verdict::kDrop;
  if (header.opcode == FUSE_FORGET) {
    HM_TRY(forget(header.nodeid, field<std::uint64_t>(body, offsetof(fuse_forget_in, nlookup))));
  }
  if (header.opcode == FUSE_BATCH_FORGET) {
    for (std::size_t at = rule->body; at < body.size(); at += sizeof(fuse_forget_one)) {
      HM_TRY(forget(field<std::uint64_t>(body, at + offsetof(fuse_forget_one, nodeid)),
                    field<std::uint64_t>(body, at + offsetof(fuse_forget_one, nlookup))));
    }
  }
  if (!rule->answered) return Verdict::kServe;
  const bool in_use = std::any_of(pending_.begin(), pending_.end(), [&](const Pending& item) {
    return item.unique == header.unique;
  });
  // 0 is a notification's.
  if (in_use || header.unique == 0) return refuse(*rule, "under a number that is in use");
  if (header.opcode == FUSE_INIT) state_ = State::kInit;
  if (header.opcode == FUSE_DESTROY) state_ = State::kDestroyed;
  pending_.push_back({header.unique, header.opcode});
  return Verdict::kServe;
}

void RelayCheck::reply(std::span<const iovec> parts) {
  fuse_out_header header{};
  if (parts.empty() || parts[0].iov_len < sizeof header) return;
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  const std::lock_guard lock(mutex_);
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& item) { return item.unique == header.unique; });
  if (it == pending_.end()) return;
  const std::uint32_t opcode = it->opcode;
  pending_.erase(it);
  if (opcode == FUSE_INIT) state_ = State::kOpen;
  if (header.error != 0 || parts.size() < 2) return;
  const std::string_view data(static_cast<const char*>(parts[1].iov_base), parts[1].iov_len);
  if (opcode == FUSE_LOOKUP && data.size() >= sizeof(fuse_entry_out)) {
    hand_out(field<std::uint64_t>(data, offsetof(fuse_entry_out, nodeid)));
  }
  if (opcode == FUSE_READDIRPLUS) each_node(data, [this](std::uint64_t id) { hand_out(id); });
}

bool RelayCheck::destroyed() const {
  const std::lock_guard lock(mutex_);
  return state_ == State::kDestroyed;
}

}  // namespace hm::fs
