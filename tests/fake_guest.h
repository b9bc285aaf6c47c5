// A guest's kernel as a script: FUSE requests go into one end of a socketpair, whose other end a
// relayed session serves. Whole and right by default; every part of a message can be wrong.
#pragma once

#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "test_support.h"

namespace hm::test {

template <class T>
std::string bytes_of(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
template <class T>
T value_of(std::string_view bytes) {
  T value{};
  if (bytes.size() < sizeof value) throw std::runtime_error("a short reply");
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// A request; `length` of 0 is the right one.
inline std::string fuse_request(std::uint32_t opcode, std::uint64_t unique, std::uint64_t node,
                                std::string_view body, std::uint32_t length = 0) {
  fuse_in_header header{};
  header.len = length != 0 ? length : static_cast<std::uint32_t>(sizeof header + body.size());
  header.opcode = opcode;
  header.unique = unique;
  header.nodeid = node;
  return bytes_of(header) + std::string(body);
}
inline std::string init_body(std::uint32_t minor = 37) {
  fuse_init_in init{};
  init.major = 7;
  init.minor = minor;
  init.max_readahead = 131072;
  init.flags = FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_POSIX_ACL |
               FUSE_NO_OPEN_SUPPORT | FUSE_CACHE_SYMLINKS | FUSE_DO_READDIRPLUS | FUSE_INIT_EXT;
  return bytes_of(init);
}
inline std::string name_body(std::string_view name) { return std::string(name) + '\0'; }
inline std::string read_body(std::uint64_t offset, std::uint32_t size) {
  fuse_read_in read{};
  read.offset = offset;
  read.size = size;
  return bytes_of(read);
}

class FakeGuest {
 public:
  struct Reply {
    int error = 0;  // positive
    std::string data;
  };

  FakeGuest() {
    int ends[2];
    must_be_zero(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
    guest_ = Fd(ends[0]);
    host_ = Fd(ends[1]);
  }
  Fd take_host_end() { return std::move(host_); }
  int fd() const { return guest_.get(); }
  void close() { guest_.reset(); }

  // False once the other side is closed.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(guest_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // The number under which it goes.
  std::uint64_t request(std::uint32_t opcode, std::uint64_t node, std::string_view body) {
    next_unique_ += 2;
    send(fuse_request(opcode, next_unique_, node, body));
    return next_unique_;
  }
  Reply await(std::uint64_t unique) {
    while (true) {
      if (const auto it = replies_.find(unique); it != replies_.end()) {
        Reply reply = std::move(it->second);
        replies_.erase(it);
        return reply;
      }
      const auto length = value_of<std::uint32_t>(receive(4));
      const std::string rest = receive(length - 4);
      fuse_out_header header{};
      std::memcpy(&header, (bytes_of(length) + rest).data(), sizeof header);
      replies_[header.unique] = {-header.error, rest.substr(sizeof header - 4)};
    }
  }
  Reply call(std::uint32_t opcode, std::uint64_t node, std::string_view body) {
    return await(request(opcode, node, body));
  }
  // Whether the other side closes the stream by then; what it still says is not looked at.
  bool is_closed_within(std::chrono::milliseconds time) const {
    const auto until = std::chrono::steady_clock::now() + time;
    std::vector<char> buffer(1 << 16);
    while (std::chrono::steady_clock::now() < until) {
      pollfd item{guest_.get(), POLLIN, 0};
      if (::poll(&item, 1, 10) <= 0) continue;
      if (::recv(guest_.get(), buffer.data(), buffer.size(), 0) <= 0) return true;
    }
    return false;
  }

  // --- as a kernel asks -------------------------------------------------------------------------

  Reply init() { return call(FUSE_INIT, 0, init_body()); }
  // The node, 0 of an absent name.
  std::uint64_t lookup(std::uint64_t parent, std::string_view name) {
    const Reply reply = call(FUSE_LOOKUP, parent, name_body(name));
    return reply.error != 0 ? 0 : value_of<fuse_entry_out>(reply.data).nodeid;
  }
  std::uint64_t walk(std::string_view path) {
    std::uint64_t node = FUSE_ROOT_ID;
    while (!path.empty()) {
      const std::size_t slash = std::min(path.find('/'), path.size());
      node = lookup(node, path.substr(0, slash));
      path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return node;
  }
  fuse_attr getattr(std::uint64_t node) {
    return value_of<fuse_attr_out>(call(FUSE_GETATTR, node, bytes_of(fuse_getattr_in{})).data).attr;
  }
  std::string read(std::uint64_t node, std::uint64_t offset = 0, std::uint32_t size = 1 << 17) {
    return call(FUSE_READ, node, read_body(offset, size)).data;
  }
  std::string readlink(std::uint64_t node) { return call(FUSE_READLINK, node, "").data; }
  std::string getxattr(std::uint64_t node, std::string_view name, std::uint32_t size = 4096) {
    return call(FUSE_GETXATTR, node, bytes_of(fuse_getxattr_in{size, 0}) + name_body(name)).data;
  }
  // Without "." and "..".
  std::vector<std::string> readdir(std::uint64_t node) {
    call(FUSE_OPENDIR, node, bytes_of(fuse_open_in{}));
    std::vector<std::string> names;
    std::uint64_t offset = 0;
    while (true) {
      const std::string data = call(FUSE_READDIR, node, read_body(offset, 4096)).data;
      if (data.empty()) break;
      for (std::size_t at = 0; at < data.size();) {
        const auto entry = value_of<fuse_dirent>(std::string_view(data).substr(at));
        const std::string name = data.substr(at + FUSE_NAME_OFFSET, entry.namelen);
        if (name != "." && name != "..") names.push_back(name);
        offset = entry.off;
        at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.namelen);
      }
    }
    call(FUSE_RELEASEDIR, node, bytes_of(fuse_release_in{}));
    return names;
  }
  void forget(std::uint64_t node, std::uint64_t lookups = 1) {
    request(FUSE_FORGET, node, bytes_of(fuse_forget_in{lookups}));
  }

 private:
  std::string receive(std::size_t size) const {
    std::string out(size, '\0');
    for (std::size_t have = 0; have < size;) {
      const ssize_t n = ::recv(guest_.get(), out.data() + have, size - have, 0);
      if (n <= 0) throw std::runtime_error("the session closed the stream");
      have += static_cast<std::size_t>(n);
    }
    return out;
  }

  Fd guest_, host_;
  std::uint64_t next_unique_ = 0;
  std::map<std::uint64_t, Reply> replies_;  // that came before they were awaited
};

}  // namespace hm::test
