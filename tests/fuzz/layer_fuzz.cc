// Layer::decode on any bytes: refused, or a layer that encodes to the same bytes again, also when
// it is built from its entries.
#include <cstdint>
#include <cstdlib>

#include "fs/layer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view blob(reinterpret_cast<const char*>(data), size);
  const auto layer = hm::fs::Layer::decode(blob, "");
  if (!layer) return 0;
  if ((*layer)->encode() != blob) std::abort();
  if (hm::fs::Layer::build((*layer)->entries())->encode() != blob) std::abort();
  for (const hm::fs::LayerEntry& item : (*layer)->entries()) {
    if ((*layer)->find(item.path) != &item) std::abort();
    (void)hm::fs::probe_text(item.entry);
  }
  return 0;
}
