#include "fs/posix_acl.h"

#include <cstdint>

namespace hm::fs {

namespace {

constexpr std::size_t kHeader = 4;     // bytes: the version
constexpr std::size_t kEntrySize = 8;  // bytes: tag, permissions (16 bits each), id (32 bits)
constexpr std::uint16_t kUser = 0x02;  // tags whose id means something
constexpr std::uint16_t kGroup = 0x08;
constexpr std::uint32_t kForeign = ~0U;

// Little-endian, as the kernel keeps them on every machine.
std::uint32_t number(std::string_view bytes) {
  std::uint32_t out = 0;
  for (std::size_t i = bytes.size(); i-- > 0;)
    out = out << 8 | static_cast<unsigned char>(bytes[i]);
  return out;
}

bool is_foreign(std::string_view entry) {
  const std::uint32_t tag = number(entry.substr(0, 2));
  return (tag == kUser || tag == kGroup) && number(entry.substr(4, 4)) == kForeign;
}

}  // namespace

std::string without_foreign_ids(std::string_view value) {
  if (value.size() < kHeader || (value.size() - kHeader) % kEntrySize != 0) {
    return std::string(value);
  }
  std::string out(value.substr(0, kHeader));
  for (std::size_t at = kHeader; at < value.size(); at += kEntrySize) {
    const std::string_view entry = value.substr(at, kEntrySize);
    if (!is_foreign(entry)) out.append(entry);
  }
  return out;
}

}  // namespace hm::fs
