// In what two layers differ, for people. Values; no state.
#pragma once

#include <string>
#include <vector>

#include "fs/layer.h"

namespace hm::fs {

struct LayerDifference {
  std::string path;
  std::string how;  // "gone", "appeared", or what of the entry differs: "content", "mode", ...
};

// By path. Times of writing are no part of a layer; times that a step set are.
std::vector<LayerDifference> layer_differences(const Layer& before, const Layer& after);

}  // namespace hm::fs
