// Layout: a folder of files that describes images — an OCI layout or what `docker save` writes —,
// as a directory or inside an archive.
//
// Nothing outside the folder can be reached. An archive is read in place, member by member; a
// compressed one is decompressed into the scratch first. One thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "image/stream.h"
#include "image/tree_builder.h"
#include "store/store.h"

namespace hm::image {

class Layout {
 public:
  virtual ~Layout() = default;
  virtual bool has(const std::string& path) = 0;  // a regular file
  // kInvalid when there is no such file.
  virtual Result<std::unique_ptr<Stream>> open(const std::string& path) = 0;
};

Result<std::unique_ptr<Layout>> directory_layout(const std::string& path);
Result<std::unique_ptr<Layout>> archive_layout(const std::string& path, const Limits& limits,
                                               store::Store& store);

// Whether the archive looks like a layout, by the first name in it: no root filesystem begins so.
Result<bool> is_layout_archive(const std::string& path);

}  // namespace hm::image
