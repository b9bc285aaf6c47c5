// RequestCounts: how many requests of each kind a FUSE server received, for whoever measures.
//
// Counts by the opcode of the request itself, so also what libfuse answers by itself. One thread;
// the counts of several server threads are added up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace hm::fs {

class RequestCounts {
 public:
  // `request` as read from the device, `size` bytes of it.
  void count(const void* request, std::size_t size);
  void add(const RequestCounts& other);
  // "lookup=N getattr=N …", every kind, always in the same order.
  std::string text() const;

 private:
  static constexpr std::size_t kOpcodes = 64;  // those above count as other
  std::array<std::uint64_t, kOpcodes> by_opcode_{};
};

}  // namespace hm::fs
