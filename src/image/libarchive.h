// The few things that every use of libarchive here needs: owned handles, a Stream as the input,
// and its errors as ours. Private to this directory.
#pragma once

#include <memory>
#include <string>

#include "fs/libarchive.h"
#include "image/stream.h"

namespace hm::image {

struct FreeArchive {
  void operator()(struct archive* archive) const { libarchive::read_free(archive); }
};
using ArchiveHandle = std::unique_ptr<struct archive, FreeArchive>;

// What libarchive reads from, and what went wrong there: it keeps no error of ours.
struct ArchiveInput {
  Stream* stream = nullptr;
  Status status;
};

// `input` must stay where it is as long as the archive is read.
Status open_archive(struct archive* archive, ArchiveInput& input);

// The error of the last call.
Error archive_error(struct archive* archive, const ArchiveInput& input);

}  // namespace hm::image
