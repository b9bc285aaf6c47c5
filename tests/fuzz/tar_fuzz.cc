// read_tar on any bytes: refused, or a tree. The first byte says which kind of archive the others
// are: a root filesystem, or a layer on top of another one.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "fuzz/fuzz_image.h"

namespace {

using hm::fs::EntryKind;

// What a layer may hide, replace or link to.
void add_lower_layer(hm::image::TreeBuilder& tree) {
  const auto add = [&](const char* path, EntryKind kind, const char* target) {
    hm::image::TreeEntry item;
    item.entry.kind = kind;
    item.entry.mode = kind == EntryKind::kSymlink ? 0777 : 0755;
    item.entry.target = target;
    if (!tree.add(path, std::move(item))) std::abort();
  };
  tree.begin_layer();
  add("", EntryKind::kDirectory, "");
  add("d", EntryKind::kDirectory, "");
  add("d/f", EntryKind::kFile, "");
  add("s", EntryKind::kSymlink, "d");
  if (!tree.add_link("g", "d/f")) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static hm::fuzz::FuzzStore store;
  if (size == 0) return 0;
  const bool is_layer = (data[0] & 1) != 0;
  std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  hm::fuzz::set_checksums(bytes);
  hm::fuzz::TreeInTheMaking making(*store);
  hm::image::Target target = making.target();
  if (is_layer) add_lower_layer(target.tree);
  target.tree.begin_layer();
  hm::fuzz::MemoryStream stream(std::move(bytes));
  const auto kind = is_layer ? hm::image::TarKind::kLayer : hm::image::TarKind::kTree;
  const auto status = hm::image::read_tar(stream, kind, target);
  if (status) {
    making.check();
  } else if (status.error().code != hm::ErrorCode::kInvalid) {
    std::abort();
  }
  return 0;
}
