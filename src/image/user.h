// Whom the programs of an image run as: its User, looked up in its own /etc/passwd and /etc/group
// by the rules that Docker has. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "fs/layer.h"
#include "image/config.h"
#include "store/blob_store.h"

namespace hm::image {

// `user` is NAME, UID, NAME:GROUP or UID:GID, in any mixture; the others are the two files' texts.
// A name that they do not have is kInvalid; a number need not be in them.
Result<UserIds> resolve_user(std::string_view user, std::string_view passwd,
                             std::string_view group);

// The same with the files of an image, whose blobs are in the store.
Result<UserIds> resolve_user_of(const fs::Layer& tree, const store::BlobStore& blobs,
                                std::string_view user);

}  // namespace hm::image
