// replay_log on any bytes, and the lines that come of them: every byte of a frame comes out once.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "runner/step_log.h"

namespace {

struct Blobs {
  std::string home = [] {
    std::string name = (std::filesystem::temp_directory_path() / "hm-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    return name;
  }();
  hm::store::Scratch scratch = std::move(*hm::store::Scratch::open(home));
  hm::store::BlobStore blobs = std::move(*hm::store::BlobStore::open(home, scratch));
  ~Blobs() { std::filesystem::remove_all(home); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Blobs store;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto digest = store.blobs.put(bytes);
  if (!digest) std::abort();
  std::string out;
  std::size_t lines = 0;
  hm::runner::LineSplitter splitter([&](hm::runner::Stream, std::string_view line) {
    if (line.find('\n') != std::string_view::npos) std::abort();
    lines += 1;
  });
  std::size_t newlines = 0;
  const auto status = hm::runner::replay_log(
      store.blobs, *digest, [&](hm::runner::Stream stream, std::string_view frame) {
        out += frame;
        for (const char c : frame) newlines += c == '\n' ? 1 : 0;
        splitter.add(stream, frame);
      });
  splitter.finish();
  if (out.size() > size) std::abort();
  if (lines < newlines || lines > newlines + 2) std::abort();
  std::filesystem::remove(store.home + "/blobs/" + digest->hex().substr(0, 2) + "/" +
                          digest->hex());
  (void)status;
  return 0;
}
