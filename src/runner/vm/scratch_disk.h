// ScratchDisk: the empty filesystems that guests write to, each a sparse file without a name.
//
// One is made by mke2fs, the others are copies of what it wrote (a few hundred KiB). A guest's file
// goes when QEMU does, whoever kills it. Thread-safe.
#pragma once

#include <string>

#include "store/util/fd.h"

namespace hm::runner::vm {

class ScratchDisk {
 public:
  // Files are made in `directory`. kRefused: no mke2fs, and what to install.
  static Result<ScratchDisk> create(const std::string& directory);
  Result<Fd> fresh() const;

 private:
  ScratchDisk(std::string directory, Fd pattern)
      : directory_(std::move(directory)), pattern_(std::move(pattern)) {}
  std::string directory_;
  Fd pattern_;
};

// The program, or kRefused.
Result<std::string> find_mke2fs();

}  // namespace hm::runner::vm
