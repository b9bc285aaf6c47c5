// VmOptions: what `[vm]` of .hm/config.toml says about virtual machines.
//
//   [vm]
//   kernel = "/path/to/vmlinuz"   an image; default: found (kernel.h)
//   memory = "2G"                 of each machine
//   cpus   = 2                    of each machine; default: as many as this one has
//
// Values; errors are kInvalid and name the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "store/util/result.h"

namespace hm::runner {

struct VmOptions {
  std::optional<std::string> kernel;
  std::uint64_t memory = std::uint64_t{2} << 30;  // bytes
  unsigned cpus = 1;
};

// Of the project in `root`; the defaults where there is no such file or table.
Result<VmOptions> load_vm_options(const std::string& root);

}  // namespace hm::runner
