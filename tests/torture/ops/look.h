// The operations that look without changing anything, and the dump of a whole tree. Each answers
// with one line of what it learned (dump: one for each entry), never an inode number or a time.
#pragma once

#include <functional>
#include <string>

#include "text.h"

namespace torture {

std::string stat_of(const std::string& path);
std::string lstat_of(const std::string& path);
// statx with only some fields asked for: letters of t(ype), m(ode), l(inks), o(wner), s(ize);
// f forces a look at the server, d forbids one.
std::string statx_of(const std::string& path, const std::string& letters);
std::string access_to(const std::string& path, int mode, bool follow);
std::string open_and_stat(const std::string& path, const std::string& letters);
std::string read_whole(const std::string& path, const std::string& letters);
std::string read_part(const std::string& path, off_t offset, std::size_t size);
std::string map_read(const std::string& path, bool shared, off_t offset, std::size_t size);
std::string seek_in(const std::string& path, bool hole, off_t offset);
// An O_PATH descriptor: what it refuses, and what a second open through it reads.
std::string path_descriptor(const std::string& path, const std::string& letters);
std::string open_beneath(const std::string& path, const std::string& letters);
std::string read_link(const std::string& path);
std::string get_xattr(const std::string& path, const std::string& name);
std::string xattr_text(const std::string& path);  // all of them, sorted
std::string execute(const std::string& path);
std::string older_or_newer(const std::string& a, const std::string& b);

// Sorted "name/kind" of a directory. `count` bounds how many entries are read (their number is the
// result then: which come first is not defined), and `again` reads all after that.
std::string list(const std::string& path, std::size_t count = SIZE_MAX, bool again = false);
std::string each_file(const std::string& dir, const std::function<std::string(std::string)>& ask);
// What is at the end of a chain of directories with names of 255 bytes, longer than PATH_MAX.
std::string look_deep(const std::string& dir, int levels);

// Every entry below a directory, one a line: kind, mode, owner, size, links, bytes, target,
// extended attributes. A link group is named by its first path.
std::string dump(const std::string& root);

}  // namespace torture
