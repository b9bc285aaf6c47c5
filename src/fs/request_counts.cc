#include "fs/request_counts.h"

#include <linux/fuse.h>

#include <cstring>
#include <numeric>

namespace hm::fs {

namespace {

struct Kind {
  std::uint32_t opcode;
  const char* name;
};
constexpr Kind kKinds[] = {
    {FUSE_LOOKUP, "lookup"},     {FUSE_GETATTR, "getattr"},
    {FUSE_READLINK, "readlink"}, {FUSE_OPEN, "open"},
    {FUSE_READ, "read"},         {FUSE_OPENDIR, "opendir"},
    {FUSE_READDIR, "readdir"},   {FUSE_READDIRPLUS, "readdirplus"},
    {FUSE_GETXATTR, "getxattr"}, {FUSE_LISTXATTR, "listxattr"},
    {FUSE_STATFS, "statfs"},
};

}  // namespace

void RequestCounts::count(const void* request, std::size_t size) {
  fuse_in_header header{};
  if (size < sizeof header) return;
  std::memcpy(&header, request, sizeof header);
  by_opcode_[header.opcode < kOpcodes ? header.opcode : 0] += 1;
}

void RequestCounts::add(const RequestCounts& other) {
  for (std::size_t i = 0; i < kOpcodes; ++i) by_opcode_[i] += other.by_opcode_[i];
}

std::string RequestCounts::text() const {
  std::uint64_t other = std::accumulate(by_opcode_.begin(), by_opcode_.end(), std::uint64_t{0});
  std::string out;
  for (const Kind& kind : kKinds) {
    const std::uint64_t count = by_opcode_[kind.opcode];
    other -= count;
    out += std::string(kind.name) + "=" + std::to_string(count) + " ";
  }
  return out + "other=" + std::to_string(other);
}

}  // namespace hm::fs
