#include "runner/step_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace hm::runner {

namespace {
constexpr std::string_view kMagic = "hmlog001";
// A line without an end must not fill the memory: it is cut here.
constexpr std::size_t kLongestLine = std::size_t{1} << 20;
constexpr std::size_t kFrameHead = 5;
// A longer frame, which we never write, is given out in pieces.
constexpr std::size_t kLongestPiece = std::size_t{1} << 20;

// Reads a log from its start, with no more of it in memory than is asked for at once.
class LogReader {
 public:
  explicit LogReader(const Fd& fd) : fd_(fd) {}

  // The next `size` bytes, less at the end; valid until the next call.
  Result<std::string_view> take(std::size_t size) {
    while (held_.size() - at_ < size) {
      held_.erase(0, std::exchange(at_, 0));
      const std::size_t had = held_.size();
      held_.resize(had + std::max(size, kChunk));
      const ssize_t n = ::pread(fd_.get(), held_.data() + had, held_.size() - had, offset_);
      held_.resize(had + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("log");
      if (n == 0) break;
      offset_ += n;
    }
    const auto out = std::string_view(held_).substr(at_, size);
    at_ += out.size();
    return out;
  }

 private:
  static constexpr std::size_t kChunk = std::size_t{16} * 1024;
  const Fd& fd_;
  off_t offset_ = 0;  // read so far
  std::string held_;
  std::size_t at_ = 0;  // given out of held_
};
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
  HM_ASSIGN(const Fd fd, blobs.open_checked(log));
  LogReader reader(fd);
  HM_ASSIGN(const std::string_view magic, reader.take(kMagic.size()));
  if (magic != kMagic) return fail(ErrorCode::kCorrupt, "log: unknown format");
  while (true) {
    HM_ASSIGN(const std::string_view head, reader.take(kFrameHead));
    if (head.empty()) return {};
    if (head.size() < kFrameHead || (head[0] != 1 && head[0] != 2)) {
      return fail(ErrorCode::kCorrupt, "log: malformed");
    }
    const auto stream = static_cast<Stream>(head[0]);
    std::size_t left = 0;
    for (std::size_t i = 4; i > 0; --i) left = left << 8 | static_cast<unsigned char>(head[i]);
    do {
      const std::size_t wanted = std::min(left, kLongestPiece);
      HM_ASSIGN(const std::string_view piece, reader.take(wanted));
      if (piece.size() < wanted) return fail(ErrorCode::kCorrupt, "log: malformed");
      frame(stream, piece);
      left -= wanted;
    } while (left > 0);
  }
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
