// UpperWriter: an upper directory as an archive, see upper_archive.h; the guest's half of it.
//
// Linked into the guest's init, so it needs nothing but the C and C++ libraries. No process of the
// step may be alive. One thread.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace hm::fs {

// Takes all of the bytes; false ends the writing.
using ArchiveSink = std::function<bool(const char* data, std::size_t size)>;

// "" when the whole archive, its end included, was handed to the sink; else one line that says what
// could not be read (or "the sink is closed"): the archive is then unfinished.
std::string write_upper(const std::string& upper, const ArchiveSink& sink);

}  // namespace hm::fs
