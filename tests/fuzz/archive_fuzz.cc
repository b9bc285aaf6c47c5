// capture_archive on any bytes: refused, or a layer that its own decoder takes. Never a file
// outside the store that it was given.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "fs/upper_archive.h"
#include "fuzz/fuzz_store.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static hm::fuzz::FuzzStore store;
  const hm::fs::View below({}, {}, 0);
  std::string bytes(reinterpret_cast<const char*>(data), size);
  hm::fuzz::set_checksums(bytes);
  std::size_t at = 0;
  const auto source = [&](std::span<char> buffer) -> hm::Result<std::size_t> {
    const std::size_t got = std::min(buffer.size(), bytes.size() - at);
    bytes.copy(buffer.data(), got, at);
    at += got;
    return got;
  };
  const hm::fs::ArchiveLimits limits{.entries = 1000, .bytes = 1 << 20, .names = 1 << 20};
  const auto layer =
      hm::fs::capture_archive(source, below, {}, store->scratch(), store->blobs(), limits);
  if (!layer) {
    if (layer.error().code != hm::ErrorCode::kInvalid) std::abort();
    return 0;
  }
  if (!hm::fs::Layer::decode((*layer)->encode(), (*layer)->encode_mtimes())) std::abort();
  return 0;
}
