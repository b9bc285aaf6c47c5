// Reading a directory of this machine into the tree of an image.
//
// As it stands: owners, modes, times, attributes, hard links within it, devices. Left out are
// sockets, which no archive has either, and what `without` names. It must not change meanwhile:
// kInvalid, with the path, when a file does.
#pragma once

#include <string>

#include "image/tar.h"

namespace hm::image {

// `without`: a directory of the host that is not to be in it (the store).
Status read_directory(const std::string& root, const std::string& without, Target& target);

}  // namespace hm::image
