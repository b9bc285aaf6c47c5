// RelayCheck in front of libfuse on any stream of requests: what it lets through has nothing that
// libfuse complains about or an operation could trip over. The stream ends where it refuses.
#define FUSE_USE_VERSION 312
#include <fuse_log.h>
#include <fuse_lowlevel.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fs/relay_channel.h"
#include "fs/relay_check.h"

namespace {

using hm::fs::RelayCheck;

constexpr std::uint64_t kNodes = 5;  // that lookups give

void require(bool holds) {
  if (!holds) std::abort();
}

void look_up(fuse_req_t req, fuse_ino_t parent, const char* name) {
  const std::size_t length = std::strlen(name);
  require(parent >= 1 && parent <= kNodes && length > 0 && std::strchr(name, '/') == nullptr);
  fuse_entry_param entry{};
  entry.ino = length % (kNodes + 1);  // 0: absent
  fuse_reply_entry(req, &entry);
}

void read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info* info) {
  require(ino >= 1 && ino <= kNodes && size <= hm::fs::kRelayTransfer && offset >= 0);
  require(info->fh == 0);
  fuse_reply_buf(req, nullptr, 0);
}

void list_with_nodes(fuse_req_t req, fuse_ino_t /*ino*/, std::size_t size, off_t /*offset*/,
                     fuse_file_info* /*info*/) {
  const std::unique_ptr<char[]> data(new char[size]);
  fuse_entry_param entry{};
  std::size_t used = 0;
  for (entry.ino = 0; entry.ino <= kNodes; ++entry.ino) {
    const std::size_t took =
        fuse_add_direntry_plus(req, data.get() + used, size - used, "name", &entry, 1);
    if (took > size - used) break;
    used += took;
  }
  fuse_reply_buf(req, data.get(), used);
}

fuse_lowlevel_ops operations() {
  fuse_lowlevel_ops ops{};
  ops.lookup = look_up;
  ops.getattr = [](fuse_req_t req, fuse_ino_t ino, fuse_file_info* info) {
    require(ino >= 1 && ino <= kNodes && (info == nullptr || info->fh == 0));
    const struct stat st {};
    fuse_reply_attr(req, &st, 1.0);
  };
  ops.readlink = [](fuse_req_t req, fuse_ino_t) { fuse_reply_readlink(req, "target"); };
  ops.open = [](fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, ENOSYS); };
  ops.read = read;
  ops.opendir = [](fuse_req_t req, fuse_ino_t, fuse_file_info* info) {
    fuse_reply_open(req, info);
  };
  ops.readdir = read;
  ops.readdirplus = list_with_nodes;
  ops.releasedir = [](fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); };
  ops.getxattr = [](fuse_req_t req, fuse_ino_t, const char* name, std::size_t size) {
    require(std::strlen(name) <= 255 && size <= 65536);
    fuse_reply_xattr(req, 7);
  };
  ops.listxattr = [](fuse_req_t req, fuse_ino_t, std::size_t size) {
    require(size <= 65536);
    fuse_reply_xattr(req, 7);
  };
  return ops;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuse_set_log_func([](fuse_log_level, const char*, va_list) { std::abort(); });
  RelayCheck check;
  char name[] = "fuzz";
  char* argv[] = {name};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  const fuse_lowlevel_ops ops = operations();
  fuse_session* session = fuse_session_new(&args, &ops, sizeof ops, &check);
  fuse_opt_free_args(&args);
  fuse_custom_io io{};
  io.read = [](int, void*, std::size_t, void*) -> ssize_t { return -1; };
  io.writev = [](int, iovec* parts, int count, void* checker) -> ssize_t {
    static_cast<RelayCheck*>(checker)->reply({parts, static_cast<std::size_t>(count)});
    return 1;
  };
  fuse_session_custom_io(session, &io, 1000);  // no descriptor of ours
  while (size >= sizeof(std::uint32_t)) {
    std::uint32_t length = 0;
    std::memcpy(&length, data, sizeof length);
    if (length > size || length < hm::fs::kRelayHeader) break;
    // In memory of its own, so that every byte behind its end is noticed.
    const std::unique_ptr<char[]> message(new char[length]);
    std::memcpy(message.get(), data, length);
    data += length;
    size -= length;
    const auto verdict = check.request({message.get(), length});
    if (!verdict) break;
    if (*verdict == RelayCheck::Verdict::kDrop) continue;
    fuse_buf buffer{};
    buffer.size = length;
    buffer.mem = message.get();
    fuse_session_process_buf(session, &buffer);
  }
  fuse_session_destroy(session);
  return 0;
}
