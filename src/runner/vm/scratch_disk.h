// ScratchDisks: the filesystems that guests write to, each a sparse file without a name.
//
// An empty one is made by mke2fs, that of a saved guest from what was on its disk when it was saved
// (a few hundred KiB either way). A guest's file goes when QEMU does, whoever kills it.
// Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "store/util/fd.h"

namespace hm::runner::vm {

class ScratchDisks {
 public:
  // Files are made in `directory`.
  explicit ScratchDisks(std::string directory) : directory_(std::move(directory)) {}

  // kRefused: no mke2fs, and what to install.
  Result<Fd> make() const;
  // kCorrupt: not what content_of() gave.
  Result<Fd> make_from(std::string_view content) const;

 private:
  std::string directory_;
};

// What is on a disk; nobody writes to it meanwhile.
Result<std::string> content_of(int disk);

// The program, or kRefused.
Result<std::string> find_mke2fs();

}  // namespace hm::runner::vm
