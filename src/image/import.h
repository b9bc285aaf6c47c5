// Importing: a directory, an archive, an OCI layout or what `docker save` wrote becomes an image of
// the store, whole or not at all.
//
// Afterwards its files are blobs, its tree a layer, and its name a row of the database, durable
// when the call returns. Nothing of an archive that is refused is left in the store.
#pragma once

#include <string>

#include "image/config.h"
#include "image/tar.h"
#include "store/store.h"

namespace hm::image {

// A name that an image can have: like debian:12 or registry.example/team/image:tag. "host" is
// taken.
bool is_image_name(std::string_view name);

struct ImportOptions {
  Limits limits;
  std::string source;  // what is said about where it came from; "" is the path
  Progress progress;
  // While an image is pulled: how many bytes have arrived so far; a few times a second.
  std::function<void(std::uint64_t bytes)> fetched;
};

// `path` is a directory with a root filesystem or an OCI layout, or an archive of either, or of
// `docker save`; PATH:TAG names one image of several. kNotFound when there is no such path;
// kInvalid when it is refused.
Result<store::Image> import_image(store::Store& store, const std::string& name,
                                  const std::string& path, const ImportOptions& options);

}  // namespace hm::image
