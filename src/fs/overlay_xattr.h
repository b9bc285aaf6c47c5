// Extended attributes: which are part of an entry, and the names under which overlayfs, mounted
// with userxattr, keeps `user.overlay.*` attributes: its own are plain, what a step itself called
// so is escaped (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts"). A raw one in
// a lower or an upper would be obeyed. Functions without state.
#pragma once

#include <string>
#include <string_view>

#include "fs/entry.h"
#include "fs/posix_acl.h"
#include "store/util/fd.h"

namespace hm::fs {

inline constexpr std::string_view kOverlayXattr = "user.overlay.";
inline constexpr std::string_view kEscapedOverlayXattr = "user.overlay.overlay.";

// From the name a step used to the name on disk or in a served lower.
inline std::string escape_overlay_xattr(const std::string& name) {
  if (!name.starts_with(kOverlayXattr)) return name;
  return std::string(kEscapedOverlayXattr) + name.substr(kOverlayXattr.size());
}

inline bool is_overlays_own_xattr(std::string_view name) {
  return name.starts_with(kOverlayXattr) && !name.starts_with(kEscapedOverlayXattr);
}

// And back; not for overlayfs's own.
inline std::string unescape_overlay_xattr(const std::string& name) {
  if (!name.starts_with(kEscapedOverlayXattr)) return name;
  return std::string(kOverlayXattr) + name.substr(kEscapedOverlayXattr.size());
}

// Extended attributes that are part of an entry: not the host's labels, and not `trusted.`, which
// no step can read.
inline bool is_kept_xattr(std::string_view name) {
  return name.starts_with("user.") || name == "security.capability" || is_posix_acl(name);
}

// What a file of an upper has: those of its entry, sorted, by the step's names for them.
struct UpperXattrs {
  Xattrs kept;
  bool opaque = false;
};
// One attribute under its name on disk: whether it matters, and what of it does (not sorted in).
bool is_upper_xattr(std::string_view name);
void add_upper_xattr(UpperXattrs& out, const std::string& name, std::string value);
Result<UpperXattrs> upper_xattrs(int fd);
// For what cannot be opened: the attributes of `name` in `dir_fd`, not of what a symlink names.
Result<UpperXattrs> upper_xattrs(int dir_fd, std::string_view name);

}  // namespace hm::fs
