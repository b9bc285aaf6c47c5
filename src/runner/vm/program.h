// run_program: a short-lived program of this machine (mke2fs, apt-get, dpkg-deb), to its end.
// Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "store/util/result.h"

namespace hm::runner::vm {

// A file of that name in PATH or in the directories for administrators that can be executed.
std::optional<std::string> find_program(const std::string& name);

// What it printed, stderr included. kRefused with the last line when it does not exit with 0.
// `directory`: where it runs. `open_fd` (-1: none) stays open in it under its own number.
Result<std::string> run_program(const std::vector<std::string>& argv, const std::string& directory,
                                int open_fd = -1);

}  // namespace hm::runner::vm
