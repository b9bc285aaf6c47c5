// Pulling: an image of a registry through skopeo, which knows registries, their credentials and
// mirrors. What it brings is an OCI layout in the scratch, and becomes an image as any other.
#pragma once

#include <string>

#include "image/import.h"

namespace hm::image {

// Whether skopeo is in PATH.
bool can_pull();

// `ref` as skopeo and docker have it: debian:12, registry.example/team/image:tag. Of a registry on
// this machine no TLS is expected. kRefused when there is no skopeo, or with what it says.
Result<store::Image> pull_image(store::Store& store, const std::string& name,
                                const std::string& ref, ImportOptions options);

}  // namespace hm::image
