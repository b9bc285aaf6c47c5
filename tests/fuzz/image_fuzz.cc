// read_image on any files of a layout: refused, or a tree and a configuration that the store gives
// back as it was.
//
// The input is the files, with a form feed between them: index.json (or, where it is empty, the
// manifest.json of docker save), then those that it leads to. In their texts @0 to @9 stand for the
// digests of the files by number, #0 to #9 for their sizes: no mutation hits upon those itself.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "fuzz/fuzz_image.h"
#include "image/oci.h"

namespace {

using Files = std::map<std::string, std::string>;

std::vector<std::string> split(std::string_view bytes) {
  std::vector<std::string> out;
  while (out.size() < 9) {
    const std::size_t end = bytes.find('\f');
    out.emplace_back(bytes.substr(0, end));
    if (end == std::string_view::npos) return out;
    bytes.remove_prefix(end + 1);
  }
  out.emplace_back(bytes);
  return out;
}

// The last file leads nowhere, so its digest is settled first.
void fill_in(std::vector<std::string>& files) {
  for (std::size_t number = files.size(); number-- > 1;) {
    const std::string digit = std::to_string(number);
    const std::array<std::pair<std::string, std::string>, 2> meanings = {
        {{"@" + digit, hm::Digest::of(files[number]).hex()},
         {"#" + digit, std::to_string(files[number].size())}}};
    for (std::size_t i = 0; i < number; ++i) {
      for (const auto& [mark, text] : meanings) {
        std::size_t at = files[i].find(mark);
        for (; at != std::string::npos; at = files[i].find(mark, at + text.size())) {
          files[i].replace(at, mark.size(), text);
        }
      }
    }
  }
}

class MemoryLayout final : public hm::image::Layout {
 public:
  explicit MemoryLayout(Files files) : files_(std::move(files)) {}
  bool has(const std::string& path) override { return files_.contains(path); }
  hm::Result<std::unique_ptr<hm::image::Stream>> open(const std::string& path) override {
    const auto it = files_.find(path);
    if (it == files_.end()) return hm::fail(hm::ErrorCode::kInvalid, "no such file");
    return std::unique_ptr<hm::image::Stream>(std::make_unique<hm::fuzz::MemoryStream>(it->second));
  }

 private:
  const Files files_;
};

Files layout_of(std::string_view bytes) {
  std::vector<std::string> pieces = split(bytes);
  fill_in(pieces);
  Files files;
  if (pieces[0].empty() && pieces.size() > 1) {
    files["manifest.json"] = pieces[1];
  } else {
    files["oci-layout"] = "{}";
    files["index.json"] = pieces[0];
  }
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    files["blobs/sha256/" + hm::Digest::of(pieces[i]).hex()] = pieces[i];
  }
  return files;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static hm::fuzz::FuzzStore store;
  MemoryLayout layout(layout_of({reinterpret_cast<const char*>(data), size}));
  hm::fuzz::TreeInTheMaking making(*store);
  hm::image::Target target = making.target();
  const auto config = hm::image::read_image(layout, "", target);
  if (!config) {
    if (config.error().code != hm::ErrorCode::kInvalid) std::abort();
    return 0;
  }
  making.check();
  const auto again = hm::image::decode_config(hm::image::encode_config(*config));
  if (!again || !(*again == *config)) std::abort();
  return 0;
}
