#include "runner/step_log.h"

#include <fcntl.h>

#include <array>

namespace hm::runner {

namespace {
constexpr std::string_view kMagic = "hmlog001";
// A line without an end must not fill the memory: it is cut here.
constexpr std::size_t kLongestLine = std::size_t{1} << 20;
}  // namespace

Result<StepLog> StepLog::create(store::Scratch& scratch) {
  const std::string path = scratch.fresh("log");
  HM_ASSIGN(Fd fd, open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  HM_TRY(write_all(fd.get(), kMagic));
  return StepLog(path, std::move(fd));
}

Status StepLog::append(Stream stream, std::string_view bytes) {
  std::string frame;
  frame.reserve(bytes.size() + 5);
  frame.push_back(static_cast<char>(stream));
  for (int shift = 0; shift < 32; shift += 8) {
    frame.push_back(static_cast<char>(bytes.size() >> shift));
  }
  frame.append(bytes);
  return write_all(fd_.get(), frame);
}

Result<Digest> StepLog::finish(store::BlobStore& blobs) {
  fd_.reset();
  HM_ASSIGN(const store::BlobInfo info, blobs.adopt(path_));
  return info.digest;
}

Status replay_log(const store::BlobStore& blobs, const Digest& log,
                  const std::function<void(Stream, std::string_view)>& frame) {
  HM_ASSIGN(const std::string data, blobs.read(log));
  std::string_view rest = data;
  if (!rest.starts_with(kMagic)) return fail(ErrorCode::kCorrupt, "log: unknown format");
  rest.remove_prefix(kMagic.size());
  while (!rest.empty()) {
    if (rest.size() < 5 || (rest[0] != 1 && rest[0] != 2)) {
      return fail(ErrorCode::kCorrupt, "log: malformed");
    }
    std::size_t size = 0;
    for (std::size_t i = 4; i > 0; --i) size = size << 8 | static_cast<unsigned char>(rest[i]);
    if (size > rest.size() - 5) return fail(ErrorCode::kCorrupt, "log: malformed");
    frame(static_cast<Stream>(rest[0]), rest.substr(5, size));
    rest.remove_prefix(5 + size);
  }
  return {};
}

void LineSplitter::add(Stream stream, std::string_view bytes) {
  std::string& held = pending(stream);
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    held.append(bytes.substr(0, newline));
    const bool ended = newline != std::string_view::npos;
    const bool only_the_end = ended && held.empty() && cut(stream);  // of a line given in pieces
    if (!only_the_end && (ended || held.size() > kLongestLine)) {
      line_(stream, held);
      held.clear();
      cut(stream) = !ended;
    }
    if (ended) cut(stream) = false;
    if (!ended) return;
    bytes.remove_prefix(newline + 1);
  }
}

void LineSplitter::finish() {
  for (const Stream stream : {Stream::kStdout, Stream::kStderr}) {
    std::string& held = pending(stream);
    if (!held.empty()) line_(stream, held);
    held.clear();
  }
}

}  // namespace hm::runner
