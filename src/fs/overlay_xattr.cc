#include "fs/overlay_xattr.h"

#include <sys/xattr.h>

#include <algorithm>
#include <array>

namespace hm::fs {

namespace {

constexpr std::string_view kOpaque = "user.overlay.opaque";

// `list` and `get` are the calls on one file, as of llistxattr and lgetxattr.
template <class List, class Get>
Result<UpperXattrs> read_xattrs(List list, Get get) {
  UpperXattrs out;
  std::array<char, XATTR_LIST_MAX> names;  // NOLINT: the kernel fills it
  const ssize_t size = list(names.data(), names.size());
  if (size < 0 && errno == ENOTSUP) return out;
  if (size < 0) return fail_errno("listxattr");
  const std::string_view all(names.data(), static_cast<std::size_t>(size));
  for (std::size_t at = 0; at < all.size(); at = all.find('\0', at) + 1) {
    const std::string name = all.data() + at;
    if (!is_upper_xattr(name)) continue;
    std::string value(XATTR_SIZE_MAX, '\0');
    const ssize_t n = get(name.c_str(), value.data(), value.size());
    if (n < 0) return fail_errno(name);
    value.resize(static_cast<std::size_t>(n));
    add_upper_xattr(out, name, std::move(value));
  }
  std::sort(out.kept.begin(), out.kept.end());
  return out;
}

}  // namespace

bool is_upper_xattr(std::string_view name) {
  return name == kOpaque || (!is_overlays_own_xattr(name) && is_kept_xattr(name));
}

void add_upper_xattr(UpperXattrs& out, const std::string& name, std::string value) {
  if (name == kOpaque) {
    out.opaque = value == "y";
  } else {
    out.kept.emplace_back(unescape_overlay_xattr(name), std::move(value));
  }
}

Result<UpperXattrs> upper_xattrs(int fd) {
  return read_xattrs([&](char* names, std::size_t size) { return ::flistxattr(fd, names, size); },
                     [&](const char* name, char* value, std::size_t size) {
                       return ::fgetxattr(fd, name, value, size);
                     });
}

Result<UpperXattrs> upper_xattrs(int dir_fd, std::string_view name) {
  const std::string path = "/proc/self/fd/" + std::to_string(dir_fd) + "/" + std::string(name);
  return read_xattrs(
      [&](char* names, std::size_t size) { return ::llistxattr(path.c_str(), names, size); },
      [&](const char* attribute, char* value, std::size_t size) {
        return ::lgetxattr(path.c_str(), attribute, value, size);
      });
}

}  // namespace hm::fs
