// CpioWriter: an archive that the kernel unpacks as its first root filesystem (initramfs).
//
// The format is "newc", described in the kernel's Documentation/driver-api/early-userspace/
// buffer-format.rst: for each entry 110 bytes of hexadecimal numbers, the name, the content, each
// padded to four bytes. Uncompressed: unpacking costs a guest more than reading. Times are 0, so
// equal contents are equal archives. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hm::runner::vm {

class CpioWriter {
 public:
  // Names without a leading slash; parents first.
  void directory(std::string_view name, std::uint32_t mode);
  void file(std::string_view name, std::uint32_t mode, std::string_view content);
  void device(std::string_view name, std::uint32_t mode, std::uint32_t major, std::uint32_t minor);
  // The whole archive; the writer is used up.
  std::string finish();

 private:
  void entry(std::string_view name, std::uint32_t mode, std::string_view content,
             std::uint32_t major, std::uint32_t minor);
  std::string out_;
  std::uint32_t next_inode_ = 1;
};

}  // namespace hm::runner::vm
