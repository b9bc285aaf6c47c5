// Stream: bytes that are read once, from front to back: of a file, of a member of an archive,
// decompressed, or checked against a digest on the way.
//
// Memory: one block at a time. One thread. Errors: kIo; kInvalid for bytes that are not what they
// are said to be.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "store/util/digest.h"
#include "store/util/fd.h"

namespace hm::image {

class Stream {
 public:
  virtual ~Stream() = default;
  // The next bytes, valid until the next call; empty at the end.
  virtual Result<std::string_view> next() = 0;
};

// All of a file from its current offset.
std::unique_ptr<Stream> file_stream(Fd file);

// What gzip, bzip2, xz, lzma, lzip, zstd, lz4 or compress made of it; anything else as it is.
Result<std::unique_ptr<Stream>> decompressed(std::unique_ptr<Stream> from);

// At the end the bytes must have had this digest (and size); `what` names them for people.
std::unique_ptr<Stream> checked(std::unique_ptr<Stream> from, const Digest& digest,
                                std::optional<std::uint64_t> size, std::string what);

// Reads to the end, for the checks that come there.
Status drain(Stream& stream);
// All of it as one text; kInvalid when it is longer.
Result<std::string> read_text(Stream& stream, std::size_t longest);

}  // namespace hm::image
