#include "fs/entry.h"

#include <dirent.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "fs/planted_defect.h"

namespace hm::fs {

namespace {

constexpr std::size_t kUsualText = 120;  // bytes of a file's value, its digest included

struct KindRow {
  EntryKind kind;
  mode_t type;
  unsigned char d_type;
  const char* name;
};
constexpr std::array<KindRow, 7> kKinds = {{
    {EntryKind::kFile, S_IFREG, DT_REG, "file"},
    {EntryKind::kDirectory, S_IFDIR, DT_DIR, "dir"},
    {EntryKind::kSymlink, S_IFLNK, DT_LNK, "symlink"},
    {EntryKind::kFifo, S_IFIFO, DT_FIFO, "fifo"},
    {EntryKind::kSocket, S_IFSOCK, DT_SOCK, "socket"},
    {EntryKind::kCharDevice, S_IFCHR, DT_CHR, "char"},
    {EntryKind::kBlockDevice, S_IFBLK, DT_BLK, "block"},
}};

const KindRow& row_of(EntryKind kind) { return kKinds.at(static_cast<std::size_t>(kind)); }

Digest xattr_digest(const Xattrs& xattrs) {
  Hasher hasher;
  for (const auto& [name, value] : xattrs) {
    hasher.field(name);
    hasher.field(value);
  }
  return hasher.finish();
}

// Four digits at least.
void append_octal(std::string& out, std::uint32_t mode) {
  int shift = 9;
  while (shift < 30 && mode >> (shift + 3) != 0) shift += 3;
  for (; shift >= 0; shift -= 3) out.push_back(static_cast<char>('0' + (mode >> shift & 7U)));
}

void append_number(std::string& out, std::uint64_t number) {
  std::array<char, 20> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  out.append(text.data(), end);
}

}  // namespace

std::optional<EntryKind> kind_of_mode(mode_t mode) {
  for (const KindRow& row : kKinds) {
    if ((mode & S_IFMT) == row.type) return row.kind;
  }
  return std::nullopt;
}

std::optional<EntryKind> kind_of_dirent(unsigned char d_type) {
  for (const KindRow& row : kKinds) {
    if (d_type == row.d_type) return row.kind;
  }
  return std::nullopt;
}

mode_t type_bits(EntryKind kind) { return row_of(kind).type; }

std::string probe_text(const std::optional<Entry>& entry) {
  if (!entry) return "absent";
  std::string out;
  out.reserve(kUsualText);
  out += row_of(entry->kind).name;
  out += " mode=";
  append_octal(out, entry->mode);
  out += " owner=";
  append_number(out, entry->uid);
  out += ':';
  append_number(out, entry->gid);
  if (entry->kind == EntryKind::kFile) {
    out += " size=";
    append_number(out, entry->size);
  }
  if (entry->kind == EntryKind::kCharDevice || entry->kind == EntryKind::kBlockDevice) {
    out += " rdev=" + std::to_string(major(entry->rdev)) + ":" + std::to_string(minor(entry->rdev));
  }
  if (!entry->xattrs.empty()) out += " xattrs=" + xattr_digest(entry->xattrs).hex();
  if (entry->nlink > 1) {
    // As a digest: the path may hold anything, and what follows must stay one field.
    out += " links=" + std::to_string(entry->nlink) + ":" + Digest::of(entry->link_group).hex();
  }
  if (entry->kind == EntryKind::kSymlink && kPlanted != Defect::kTarget)
    out += " target=" + entry->target;
  return out;
}

bool mentions_xattrs(std::string_view value) {
  return value.find(" xattrs=") != std::string_view::npos;  // or a symlink's target has that
}

std::string content_text(const Entry& entry, const Digest& content) {
  std::string out = probe_text(entry);
  out += " sha256=";
  out += content.hex();
  return out;
}

std::string list_text(const Entry& entry, const Listing& listing) {
  Hasher hasher;
  for (const DirEntry& child : listing) {
    hasher.field(child.name);
    hasher.field(static_cast<std::uint64_t>(child.kind));
  }
  return probe_text(entry) + " names=" + std::to_string(listing.size()) + ":" +
         hasher.finish().hex();
}

bool is_valid_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

bool is_valid_path(std::string_view path) {
  if (path.size() > kLongestPath) return false;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    if (!is_valid_name(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
    if (path.empty()) return false;
  }
  return true;
}

std::string join_path(std::string_view dir, std::string_view name) {
  std::string out;
  out.reserve(dir.size() + name.size() + 1);
  out.append(dir);
  if (!dir.empty()) out.push_back('/');
  out.append(name);
  return out;
}

std::string_view parent_path(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash);
}

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

bool is_within(std::string_view path, std::string_view dir) {
  if (dir.empty() || path == dir) return true;
  return path.size() > dir.size() && path.starts_with(dir) && path[dir.size()] == '/';
}

bool PathLess::operator()(std::string_view a, std::string_view b) const {
  const auto rank = [](char c) { return c == '/' ? 0 : static_cast<unsigned char>(c) + 1; };
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (x == a.end() || y == b.end()) return y != b.end();
  return rank(*x) < rank(*y);
}

namespace {

// Well-formed UTF-8 by lead byte: its length and the range of the second byte (Unicode, table 3-7).
struct Utf8Row {
  unsigned char first, last, length, second_first, second_last;
};
constexpr std::array<Utf8Row, 9> kUtf8 = {{{0x00, 0x7f, 1, 0, 0},
                                           {0xc2, 0xdf, 2, 0x80, 0xbf},
                                           {0xe0, 0xe0, 3, 0xa0, 0xbf},
                                           {0xe1, 0xec, 3, 0x80, 0xbf},
                                           {0xed, 0xed, 3, 0x80, 0x9f},
                                           {0xee, 0xef, 3, 0x80, 0xbf},
                                           {0xf0, 0xf0, 4, 0x90, 0xbf},
                                           {0xf1, 0xf3, 4, 0x80, 0xbf},
                                           {0xf4, 0xf4, 4, 0x80, 0x8f}}};

// Length of the valid UTF-8 sequence at the start of `text`, 0 if there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto* row = std::find_if(kUtf8.begin(), kUtf8.end(), [&](const Utf8Row& item) {
    return byte(0) >= item.first && byte(0) <= item.last;
  });
  if (row == kUtf8.end() || row->length > text.size()) return 0;
  if (row->length > 1 && (byte(1) < row->second_first || byte(1) > row->second_last)) return 0;
  for (std::size_t i = 2; i < row->length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return row->length;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    // C1 controls (U+0080 to U+009F) drive terminals as the C0 ones do.
    const bool is_c1 = lead == 0xc2 && length == 2 && static_cast<unsigned char>(text[1]) < 0xa0;
    if (length == 0 || is_c1 || lead < 0x20 || lead == 0x7f || lead == '\\') {
      std::array<char, 8> escaped{};
      std::snprintf(escaped.data(), escaped.size(), lead == '\\' ? "\\\\" : "\\x%02x", lead);
      out += escaped.data();
      text.remove_prefix(1);
    } else {
      out.append(text.substr(0, length));
      text.remove_prefix(length);
    }
  }
  return out;
}

}  // namespace hm::fs
