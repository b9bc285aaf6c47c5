// Images of a layout: which one is meant, its configuration, and its layers into a tree.
//
// OCI image-layout and image-spec 1.x, and what `docker save` writes. Everything that is read has
// to have the digest by which it is named: index to manifest, manifest to configuration and layers,
// configuration to the uncompressed layers.
#pragma once

#include <string>

#include "image/config.h"
#include "image/layout.h"
#include "image/tar.h"

namespace hm::image {

// `ref`: the tag of the image that is meant, or "" where there is only one. `said`: lines for the
// user while it works.
Result<ImageConfig> read_image(Layout& layout, const std::string& ref, Target& target);

}  // namespace hm::image
