// ImageConfig: what an image says about the programs in it, as the OCI image configuration has it.
// Values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "store/util/result.h"

namespace hm::image {

// What an image's user means in it.
struct UserIds {
  std::uint32_t uid = 0, gid = 0;
  std::vector<std::uint32_t> groups;  // all that it is in, gid too; sorted
  std::string home;
  bool is_root() const { return uid == 0 && gid == 0; }
  bool operator==(const UserIds&) const = default;
};

struct ImageConfig {
  std::map<std::string, std::string> env;
  std::string working_dir;     // absolute, or ""
  std::string user;            // as the image names it, or ""
  std::optional<UserIds> ids;  // of `user`; nullopt: the image does not say who that is
  std::string platform;        // "linux/amd64", or "" where nothing is said
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
