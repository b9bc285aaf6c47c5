// Reading a tar archive into the tree of an image: a root filesystem, or one layer of several.
//
// Names are bytes, whatever the locale. Everything that libarchive has to say against an archive
// refuses it (kInvalid), but that a name is not in the locale's character set.
#pragma once

#include <functional>

#include "image/stage.h"
#include "image/stream.h"
#include "image/tree_builder.h"

namespace hm::image {

// How far an import is; called often.
using Progress = std::function<void(std::uint64_t entries, std::uint64_t bytes)>;

struct Target {
  TreeBuilder& tree;
  Stage& stage;
  const Progress& progress;
  std::uint64_t entries = 0, bytes = 0;  // so far

  void count(std::uint64_t more) {
    entries += 1;
    bytes += more;
    if (progress) progress(entries, bytes);
  }
};

enum class TarKind {
  kTree,   // names are names; must have its end
  kLayer,  // .wh. names are whiteouts; its digest says that it is whole
};

// Uncompressed. Reads `stream` to its end.
Status read_tar(Stream& stream, TarKind kind, Target& target);

}  // namespace hm::image
