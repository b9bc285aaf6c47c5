// What hm and the init of a guest say to each other: frames on a virtio-serial port.
//
// A frame is a byte that says what it is, four bytes of length (little-endian) and that many bytes.
// The life of a guest: it boots, sends kReady and waits (here the pre-booted copy of it is taken);
// kStart tells it everything about one step; then come kStarted, kStdout and kStderr, and kExit. To
// a command that passed hm answers kSend: the guest writes its upper directory to the port of
// changes and ends with kSent. kEnd turns it off. kFailure, at any time, is the guest's last word:
// one line. Both ends are of one build, since the guest's init is a part of hm: there is no
// version. The guest is not trusted: hm takes no frame that is longer than kLongestFromGuest.
// Header only, for both ends; without anything of the runner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/util/bytes.h"

namespace hm::runner::vm {

enum class FrameType : std::uint8_t {
  // from the guest
  kReady = 1,
  kStarted,  // the command
  kStdout,
  kStderr,
  kExit,  // StepEnd
  kSent,
  kFailure,
  // to the guest
  kHello = 32,  // answered with another kReady
  kStart,       // StepOrder
  kStop,        // TERM to all processes of the command
  kSend,
  kEnd,
};

inline constexpr std::size_t kFrameHead = 5;
inline constexpr std::uint32_t kLongestFromGuest = 1U << 16;
inline constexpr std::uint32_t kLongestToGuest = 1U << 26;

inline std::string frame_head(FrameType type, std::uint32_t length) {
  std::string head(1, static_cast<char>(type));
  for (unsigned shift = 0; shift < 32; shift += 8) {
    head.push_back(static_cast<char>(length >> shift));
  }
  return head;
}

inline std::uint32_t frame_length(std::string_view head) {
  std::uint32_t length = 0;
  for (std::size_t i = kFrameHead; i-- > 1;) {
    length = length << 8 | static_cast<std::uint8_t>(head[i]);
  }
  return length;
}

// The ports, by name (/sys/class/virtio-ports/*/name in the guest).
inline constexpr const char* kControlPort = "hm.control";
inline constexpr const char* kRelayPort = "hm.fuse";
inline constexpr const char* kChangesPort = "hm.changes";

// A file of the sandbox's own, shown read-only at `path`.
struct GuestFile {
  std::string path;
  std::string content;
  std::uint32_t mode = 0644;
  std::int64_t mtime_ns = 0;
};

struct GuestLimit {
  std::uint64_t resource = 0;  // RLIMIT_…
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
};

// A directory that the upper has before the command starts; parents come first, the root is "".
struct GuestDirectory {
  std::string path;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  bool opaque = false;
  std::vector<std::pair<std::string, std::string>> xattrs;  // by the names that overlayfs stores
};

// Everything about one step.
struct StepOrder {
  std::int64_t clock_ns = 0;  // of the host, now
  std::string entropy;
  std::vector<std::string> argv;
  std::vector<std::string> env;  // NAME=VALUE
  std::string cwd;
  std::string hostname;
  std::vector<GuestFile> files;
  std::vector<std::string> masked_directories;
  std::vector<GuestLimit> limits;
  std::vector<std::uint32_t> capabilities;
  std::string filter;  // of system calls: struct sock_filter[]
  std::vector<GuestDirectory> directories;
  std::uint64_t memory = 0;  // limits of its cgroup; 0: none
  std::uint64_t pids = 0;
  std::uint32_t uid = 0;  // the user that the command runs as
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;
};

// How the command ended.
struct StepEnd {
  enum class Kind : std::uint8_t { kExited, kSignalled, kNoDirectory, kNoProgram, kNotExecutable };
  Kind kind = Kind::kExited;
  std::uint32_t number = 0;  // exit code or signal
  bool over_memory = false;
  bool over_pids = false;
};

inline std::string encode(const StepOrder& order) {
  Writer out;
  const auto texts = [&out](const std::vector<std::string>& list) {
    out.number(list.size());
    for (const std::string& text : list) out.text(text);
  };
  out.number(static_cast<std::uint64_t>(order.clock_ns));
  out.text(order.entropy);
  texts(order.argv);
  texts(order.env);
  out.text(order.cwd);
  out.text(order.hostname);
  out.number(order.files.size());
  for (const GuestFile& file : order.files) {
    out.text(file.path);
    out.text(file.content);
    out.number(file.mode);
    out.number(static_cast<std::uint64_t>(file.mtime_ns));
  }
  texts(order.masked_directories);
  out.number(order.limits.size());
  for (const GuestLimit& limit : order.limits) {
    out.number(limit.resource);
    out.number(limit.soft);
    out.number(limit.hard);
  }
  out.number(order.capabilities.size());
  for (const std::uint32_t capability : order.capabilities) out.number(capability);
  out.text(order.filter);
  out.number(order.directories.size());
  for (const GuestDirectory& directory : order.directories) {
    out.text(directory.path);
    out.number(directory.mode);
    out.number(directory.uid);
    out.number(directory.gid);
    out.byte(directory.opaque ? 1 : 0);
    out.number(directory.xattrs.size());
    for (const auto& [name, value] : directory.xattrs) {
      out.text(name);
      out.text(value);
    }
  }
  out.number(order.memory);
  out.number(order.pids);
  out.number(order.uid);
  out.number(order.gid);
  out.number(order.groups.size());
  for (const std::uint32_t group : order.groups) out.number(group);
  return out.take();
}

// Whether all of `bytes` was an order.
inline bool decode(std::string_view bytes, StepOrder& order) {
  Reader in(bytes);
  const auto each = [&in](auto take) {
    for (std::uint64_t left = in.number(); left > 0 && !in.failed(); --left) take();
  };
  const auto texts = [&](std::vector<std::string>& list) {
    each([&] { list.emplace_back(in.text()); });
  };
  const auto number32 = [&in] { return static_cast<std::uint32_t>(in.number()); };
  order.clock_ns = static_cast<std::int64_t>(in.number());
  order.entropy = in.text();
  texts(order.argv);
  texts(order.env);
  order.cwd = in.text();
  order.hostname = in.text();
  each([&] {
    GuestFile& file = order.files.emplace_back();
    file.path = in.text();
    file.content = in.text();
    file.mode = number32();
    file.mtime_ns = static_cast<std::int64_t>(in.number());
  });
  texts(order.masked_directories);
  each([&] {
    GuestLimit& limit = order.limits.emplace_back();
    limit.resource = in.number();
    limit.soft = in.number();
    limit.hard = in.number();
  });
  each([&] { order.capabilities.push_back(number32()); });
  order.filter = in.text();
  each([&] {
    GuestDirectory& directory = order.directories.emplace_back();
    directory.path = in.text();
    directory.mode = number32();
    directory.uid = number32();
    directory.gid = number32();
    directory.opaque = in.byte() != 0;
    each([&] {
      std::string name(in.text());
      directory.xattrs.emplace_back(std::move(name), in.text());
    });
  });
  order.memory = in.number();
  order.pids = in.number();
  order.uid = number32();
  order.gid = number32();
  each([&] { order.groups.push_back(number32()); });
  return in.done();
}

inline std::string encode(const StepEnd& end) {
  Writer out;
  out.byte(static_cast<std::uint8_t>(end.kind));
  out.number(end.number);
  out.byte(end.over_memory ? 1 : 0);
  out.byte(end.over_pids ? 1 : 0);
  return out.take();
}

inline bool decode(std::string_view bytes, StepEnd& end) {
  Reader in(bytes);
  const std::uint8_t kind = in.byte();
  const std::uint64_t number = in.number();
  end.kind = static_cast<StepEnd::Kind>(kind);
  end.number = static_cast<std::uint32_t>(number);
  end.over_memory = in.byte() != 0;
  end.over_pids = in.byte() != 0;
  return in.done() && kind <= static_cast<std::uint8_t>(StepEnd::Kind::kNotExecutable) &&
         number < 256;
}

}  // namespace hm::runner::vm
