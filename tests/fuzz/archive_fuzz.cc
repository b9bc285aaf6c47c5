// capture_archive on any bytes: refused, or a layer that its own decoder takes. Never a file
// outside the store that it was given.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "fs/upper_archive.h"

namespace {

struct Fixture {
  Fixture() {
    std::string name = (std::filesystem::temp_directory_path() / "hm-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    home = name;
    store = std::move(*hm::store::Store::open(home));
  }
  ~Fixture() {
    store.reset();
    std::error_code error;
    std::filesystem::remove_all(home, error);
  }
  std::string home;
  std::unique_ptr<hm::store::Store> store;
};

constexpr std::size_t kBlock = 512;  // bytes
constexpr std::size_t kMagic = 257, kChecksum = 148, kChecksumSize = 8;

void set_checksums(std::string& archive) {
  for (std::size_t at = 0; at + kBlock <= archive.size(); at += kBlock) {
    if (archive.compare(at + kMagic, 5, "ustar") != 0) continue;
    archive.replace(at + kChecksum, kChecksumSize, kChecksumSize, ' ');
    unsigned sum = 0;
    for (std::size_t i = 0; i < kBlock; ++i) sum += static_cast<unsigned char>(archive[at + i]);
    char text[kChecksumSize];
    std::snprintf(text, sizeof text, "%06o", sum);
    archive.replace(at + kChecksum, kChecksumSize - 1, text, kChecksumSize - 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Fixture fixture;
  const hm::fs::View below({}, {}, 0);
  std::string bytes(reinterpret_cast<const char*>(data), size);
  set_checksums(bytes);
  std::size_t at = 0;
  const auto source = [&](std::span<char> buffer) -> hm::Result<std::size_t> {
    const std::size_t got = std::min(buffer.size(), bytes.size() - at);
    bytes.copy(buffer.data(), got, at);
    at += got;
    return got;
  };
  const hm::fs::ArchiveLimits limits{.entries = 1000, .bytes = 1 << 20, .names = 1 << 20};
  const auto layer = hm::fs::capture_archive(source, below, {}, fixture.store->scratch(),
                                             fixture.store->blobs(), limits);
  if (!layer) {
    if (layer.error().code != hm::ErrorCode::kInvalid) std::abort();
    return 0;
  }
  if (!hm::fs::Layer::decode((*layer)->encode(), (*layer)->encode_mtimes())) std::abort();
  return 0;
}
