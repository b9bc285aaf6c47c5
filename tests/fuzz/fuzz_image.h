// What the targets for images share: a tree in the making, and bytes as a stream.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "fs/stored_source.h"
#include "fuzz/fuzz_store.h"
#include "image/tar.h"

namespace hm::fuzz {

class MemoryStream final : public image::Stream {
 public:
  explicit MemoryStream(std::string bytes) : bytes_(std::move(bytes)) {}
  Result<std::string_view> next() override {
    return std::exchange(given_, true) ? std::string_view() : std::string_view(bytes_);
  }

 private:
  const std::string bytes_;
  bool given_ = false;
};

class TreeInTheMaking {
 public:
  explicit TreeInTheMaking(store::Store& store) : stage_(image::Stage::create(store)) {
    if (!stage_) std::abort();
  }
  image::Target target() { return {tree_, **stage_, progress_}; }

  // Of input that was taken: whatever the decoder takes is a tree. An import refuses the rest.
  void check() {
    if (!(*stage_)->finish()) std::abort();
    const auto layer = tree_.build(**stage_);
    const std::string bytes = layer->encode();
    const auto read = fs::Layer::decode(bytes, layer->encode_mtimes());
    if (read && (!fs::is_whole_tree(**read) || (*read)->encode() != bytes)) std::abort();
  }

 private:
  image::TreeBuilder tree_{image::Limits{.bytes = 1 << 20, .entries = 1000, .metadata = 1 << 20}};
  Result<std::unique_ptr<image::Stage>> stage_;
  const image::Progress progress_;
};

}  // namespace hm::fuzz
