// Config: what a user or a project sets once. Later wins: the defaults, ~/.config/hm/config.toml
// ($XDG_CONFIG_HOME/hm), .hm/config.toml of the project, the environment (HM_TABLE__KEY), and then
// the flags of a command, which are the command's matter.
//
// The files are Harmont's, too: tables and keys that are not listed here are its, and left alone;
// but in a table of ours every key has to be known. Values.
#pragma once

#include <string>

#include "store/util/result.h"

namespace hm::runner {

enum class Pull {
  kMissing,  // an image that is not in the store is pulled, where skopeo is there
  kNever,
};

struct Config {
  Pull pull = Pull::kMissing;  // image.pull
};

// "missing" or "never"; kNotFound, naming `where` it stands, for anything else.
Result<Pull> parse_pull(const std::string& text, const std::string& where);

// kInvalid, naming the file and the line or the variable.
Result<Config> load_config(const std::string& workspace);

}  // namespace hm::runner
