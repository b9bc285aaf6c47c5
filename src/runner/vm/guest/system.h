// What all parts of the guest's init share: failing, descriptors, and whole reads and writes.
//
// The init is the only program of its machine. Whatever it cannot do ends the machine: fail() sends
// one line to hm and turns it off. In the processes that it forks fail() must not be used; they
// tell their parent. Thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace hm::guest {

class Port;
// Where fail() sends its line, from now on; the console has it too.
void report_failures_to(Port* control);
[[noreturn]] void fail(const std::string& what);           // with the text of errno
[[noreturn]] void fail_plain(const std::string& message);  // as it is

// Mounts, or fails with `target` and the reason.
void mount_or_fail(const char* source, const std::string& target, const char* type,
                   unsigned long flags, const std::string& options = "");
void make_directory(const std::string& path, unsigned mode);  // there already is fine
void write_file(const std::string& path, std::string_view bytes, unsigned mode);
std::string read_file(const std::string& path);  // "" when it cannot be read

// write(2) until all is written; false with errno.
bool write_all(int fd, std::string_view bytes);

}  // namespace hm::guest
