// POSIX access control lists as their extended attributes hold them (acl(5); the layout is that of
// linux/posix_acl_xattr.h). Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace hm::fs {

inline bool is_posix_acl(std::string_view name) { return name.starts_with("system.posix_acl_"); }

// The list without what it grants to ids that the reader's user namespace does not have. The kernel
// gives such an id as -1, and takes no list with one. Nobody in the namespace can have the id, so
// what the list means there stays the same. A value that is no list is returned as it is.
std::string without_foreign_ids(std::string_view value);

}  // namespace hm::fs
