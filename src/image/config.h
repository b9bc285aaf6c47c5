// ImageConfig: what an image says about the programs in it, as the OCI image configuration has it.
// Values.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "store/util/result.h"

namespace hm::image {

struct ImageConfig {
  std::map<std::string, std::string> env;
  std::string working_dir;  // absolute, or ""
  std::string user;         // as the image names it, or ""
  std::string platform;     // "linux/amd64", or "" where nothing is said
  bool operator==(const ImageConfig&) const = default;
};

// From an OCI (or Docker) configuration object. kInvalid for what cannot be.
Result<ImageConfig> parse_oci_config(std::string_view json);

// As the store keeps it.
std::string encode_config(const ImageConfig& config);
Result<ImageConfig> decode_config(std::string_view text);

// "linux/amd64": what the images of this machine are for.
std::string own_platform();

}  // namespace hm::image
