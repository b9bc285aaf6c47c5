#include "runner/vm/cpio.h"

#include <sys/stat.h>

#include <array>
#include <cstdio>

namespace hm::runner::vm {

namespace {

constexpr const char* kMagic = "070701";
constexpr const char* kTrailer = "TRAILER!!!";

void pad(std::string& out) { out.append((4 - out.size() % 4) % 4, '\0'); }

}  // namespace

void CpioWriter::directory(std::string_view name, std::uint32_t mode) {
  entry(name, S_IFDIR | mode, {}, 0, 0);
}

void CpioWriter::file(std::string_view name, std::uint32_t mode, std::string_view content) {
  entry(name, S_IFREG | mode, content, 0, 0);
}

void CpioWriter::device(std::string_view name, std::uint32_t mode, std::uint32_t major,
                        std::uint32_t minor) {
  entry(name, S_IFCHR | mode, {}, major, minor);
}

std::string CpioWriter::finish() {
  entry(kTrailer, 0, {}, 0, 0);
  return std::move(out_);
}

void CpioWriter::entry(std::string_view name, std::uint32_t mode, std::string_view content,
                       std::uint32_t major, std::uint32_t minor) {
  // inode, mode, uid, gid, nlink, mtime, size, device of the file, device it is, name's length
  // with its NUL, checksum (only in another format).
  const std::array<std::uint32_t, 13> fields = {next_inode_++,
                                                mode,
                                                0,
                                                0,
                                                1,
                                                0,
                                                static_cast<std::uint32_t>(content.size()),
                                                0,
                                                0,
                                                major,
                                                minor,
                                                static_cast<std::uint32_t>(name.size() + 1),
                                                0};
  out_ += kMagic;
  for (const std::uint32_t field : fields) {
    std::array<char, 9> hex{};
    std::snprintf(hex.data(), hex.size(), "%08X", field);
    out_ += hex.data();
  }
  out_ += name;
  out_.push_back('\0');
  pad(out_);
  out_ += content;
  pad(out_);
}

}  // namespace hm::runner::vm
