// The operations that change something. Each answers with one line: a count, or an error's name.
#pragma once

#include <ctime>
#include <string>

#include "text.h"

namespace torture {

// What is written after it is newer than all that was written before.
std::string next_tick();

std::string write_text(const std::string& path, int flags, const std::string& text);
std::string write_at(const std::string& path, off_t offset, const std::string& text);
std::string pattern(std::size_t size, unsigned seed);
// Through a mapping; a private one must leave the file alone.
std::string map_write(const std::string& path, bool shared, std::size_t offset,
                      const std::string& text);
std::string allocate(const std::string& path, const std::string& how, off_t offset, off_t size);
std::string copy_range(const std::string& from, const std::string& to);
std::string send_file(const std::string& from, const std::string& to);
std::string temporary_file(const std::string& dir, const std::string& name,
                           const std::string& text);
std::string rename_to(const std::string& from, const std::string& to, const std::string& how);
std::string link_to(const std::string& from, const std::string& to, bool follow);
// Writes through a descriptor whose name is gone, or another by then.
std::string write_unlinked(const std::string& path, const std::string& text);
std::string write_renamed(const std::string& path, const std::string& to, const std::string& text);
std::string sync_file(const std::string& path);
std::string make_node(const std::string& path, const std::string& kind);
std::string make_socket(const std::string& path);
std::string set_time(const std::string& path, const std::string& seconds);  // or "now"
std::string set_xattr(const std::string& path, const std::string& name, const std::string& value,
                      const std::string& how);
std::string set_acl(const std::string& path);

// rm -rf and cp -r; the result is how many entries went, or came. With `ticks` no two files that
// are copied have the same time.
int remove_tree(const std::string& path);
int copy_tree(const std::string& from, const std::string& to, bool ticks, int depth = 0);
// Directories with names of 255 bytes in each other, longer than PATH_MAX, and a file at the end.
std::string make_deep(const std::string& dir, int levels, const std::string& text);

}  // namespace torture
