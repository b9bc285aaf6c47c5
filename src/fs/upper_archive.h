// From a guest's upper directory, sent as one archive, to the layer of its step: the same layer,
// bit for bit, that capture.h makes of that directory.
//
// The archive is tar in pax format. UpperWriter (upper_writer.h) writes it in the guest; whoever
// writes another must do the same:
//   - One entry per path of the upper, all of them, in the order of a walk: a directory, then what
//     is in it, sorted by name (as bytes). The first entry is the root, a directory named "."; the
//     others are named as the step names them, without a leading "/" or "./" and without a trailing
//     "/". Raw bytes, at most kLongestPath of them.
//   - Before each entry an extended header (type x): hdrcharset=BINARY, path, uid, gid, mtime
//     (tv_sec, ".", tv_nsec in nine digits), linkpath of links, size of files. The mode's twelve
//     bits and a device's numbers are in the ustar header, and of a link anything but nothing.
//   - The root has an atime too: what the guest's clock shows when all processes of the step are
//     gone.
//   - Types: 0 file, 1 another name of an earlier entry that is no directory (linkpath is that
//     entry's name; only when st_nlink > 1; whiteouts are never links), 2 symlink, 3 and 4 devices,
//     5 directory, 6 fifo. A socket is an empty file with the attribute "hm.socket".
//   - Extended attributes as SCHILY.xattr.NAME, where % and = in NAME are %25 and %3D. All that
//     listxattr shows, with overlayfs's own: the upper is one of an overlay mounted with
//     userxattr,redirect_dir=off,metacopy=off,index=off,xino=off (userxattr implies the first; on
//     tmpfs user attributes need Linux 6.6). A whiteout is a character device 0:0 as it lies there.
//   - Files in full, holes too. Two blocks of zeros end the archive. Nothing follows.
// Paths that the sandbox mounts over are dropped here, the guest need not know them.
//
// Nothing in the archive is trusted: libarchive parses it, then types, names, numbers, attributes,
// order and sizes are checked, whiteouts hide something that the view has, and files are hashed
// here. They are kept in the scratch until all of it is known to be right: an archive that is
// refused leaves nothing in the store. One thread per call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "fs/capture.h"

namespace hm::fs {

struct ArchiveLimits {
  std::uint64_t entries = 1'000'000;
  std::uint64_t bytes = std::uint64_t{64} << 30;   // of all files together
  std::uint64_t names = std::uint64_t{512} << 20;  // bytes: paths, targets and attributes together
};

// Waits for bytes of the archive and puts some into the buffer: how many, 0 when there are no more.
// An error ends the capture. What bounds the waiting is up to whoever makes it.
using ArchiveSource = std::function<Result<std::size_t>(std::span<char> buffer)>;

// Reads to the end of the archive and no further. `times` are on the guest's clock, which set those
// of the files. kInvalid: the archive is not what it must be; the message names the path.
Result<std::shared_ptr<const Layer>> capture_archive(const ArchiveSource& source, const View& below,
                                                     const StepTimes& times,
                                                     store::Scratch& scratch,
                                                     store::BlobStore& blobs,
                                                     const ArchiveLimits& limits = {});

}  // namespace hm::fs
