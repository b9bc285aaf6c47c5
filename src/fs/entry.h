// Entry: the state of one path in a view, and its canonical text, the value of an observation.
//
// Times are not part of an entry: they are served, never keyed by value (hm-design(7)). Paths are
// relative to the root they belong to, without a leading slash; the root itself is "". Values.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/util/digest.h"

namespace hm::fs {

enum class EntryKind : std::uint8_t {
  kFile = 0,
  kDirectory = 1,
  kSymlink = 2,
  kFifo = 3,
  kSocket = 4,
  kCharDevice = 5,
  kBlockDevice = 6,
};

using Xattrs = std::vector<std::pair<std::string, std::string>>;  // sorted by name

struct Entry {
  EntryKind kind = EntryKind::kFile;
  std::uint32_t mode = 0;  // permission bits, 07777
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t size = 0;  // bytes; files only
  std::string target;      // symlinks only
  std::uint64_t rdev = 0;  // devices only, as in st_rdev
  Xattrs xattrs;
  std::uint32_t nlink = 1;  // names in the link group; always 1 for directories
  std::string link_group;   // first path of the group, "" when nlink is 1

  bool operator==(const Entry&) const = default;
};

struct DirEntry {
  std::string name;
  EntryKind kind = EntryKind::kFile;
  auto operator<=>(const DirEntry&) const = default;
};
using Listing = std::vector<DirEntry>;  // sorted by name

std::optional<EntryKind> kind_of_mode(mode_t mode);
std::optional<EntryKind> kind_of_dirent(unsigned char d_type);  // nullopt: unknown
mode_t type_bits(EntryKind kind);

// The value of a probe: everything of the entry but its content.
std::string probe_text(const std::optional<Entry>& entry);
// Whether the entry of this value may have extended attributes.
bool mentions_xattrs(std::string_view value);
// The value of a content observation of a file.
std::string content_text(const Entry& entry, const Digest& content);
// The value of a list observation of a directory.
std::string list_text(const Entry& entry, const Listing& listing);

// A name that can stand in a directory: not empty, ".", "..", over 255 bytes, or with '/' or NUL.
bool is_valid_name(std::string_view name);
// Deeper trees exist than one system call can name (PATH_MAX): steps build them with relative
// paths.
inline constexpr std::size_t kLongestPath = 65535;
// A path of valid names, or "" (the root); at most kLongestPath bytes.
bool is_valid_path(std::string_view path);
std::string join_path(std::string_view dir, std::string_view name);
std::string_view parent_path(std::string_view path);  // "" for a first-level path
std::string_view base_name(std::string_view path);
// Whether `path` is `dir` or below it.
bool is_within(std::string_view path, std::string_view dir);
// Orders a directory before its children and those before its siblings: '/' sorts lowest.
struct PathLess {
  using is_transparent = void;
  bool operator()(std::string_view a, std::string_view b) const;
};

// Printable form of a path or a value: controls and bytes that are not UTF-8 as \xNN.
std::string printable(std::string_view text);

}  // namespace hm::fs
