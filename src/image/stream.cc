#include "image/stream.h"

#include <fcntl.h>
#include <unistd.h>

#include "image/libarchive.h"

namespace hm::image {

namespace {

constexpr std::size_t kBlock = std::size_t{256} * 1024;

class FileStream final : public Stream {
 public:
  explicit FileStream(Fd file) : file_(std::move(file)), buffer_(kBlock, '\0') {
    ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  }

  Result<std::string_view> next() override {
    while (true) {
      const ssize_t n = ::read(file_.get(), buffer_.data(), buffer_.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("read");
      return std::string_view(buffer_.data(), static_cast<std::size_t>(n));
    }
  }

 private:
  const Fd file_;
  std::string buffer_;
};

class Decompressed final : public Stream {
 public:
  explicit Decompressed(std::unique_ptr<Stream> from)
      : from_(std::move(from)), archive_(libarchive::read_new()) {}

  Status open() {
    input_.stream = from_.get();
    struct archive* archive = archive_.get();
    // Only those that libarchive has in itself: others it leaves to whatever program is in PATH.
    libarchive::read_support_filter_gzip(archive);
    libarchive::read_support_filter_bzip2(archive);
    libarchive::read_support_filter_xz(archive);
    libarchive::read_support_filter_lzma(archive);
    libarchive::read_support_filter_lzip(archive);
    libarchive::read_support_filter_zstd(archive);
    libarchive::read_support_filter_lz4(archive);
    libarchive::read_support_filter_compress(archive);
    libarchive::read_support_format_raw(archive);
    libarchive::read_support_format_empty(archive);
    HM_TRY(open_archive(archive, input_));
    struct archive_entry* entry = nullptr;
    const int result = libarchive::read_next_header(archive, &entry);
    if (result == ARCHIVE_EOF) at_end_ = true;
    if (result != ARCHIVE_OK && result != ARCHIVE_EOF) return fail(archive_error(archive, input_));
    return {};
  }

  Result<std::string_view> next() override {
    while (!at_end_) {
      const void* data = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int result = libarchive::read_data_block(archive_.get(), &data, &size, &offset);
      if (result == ARCHIVE_EOF) {
        at_end_ = true;
        break;
      }
      if (result != ARCHIVE_OK) return fail(archive_error(archive_.get(), input_));
      if (size > 0) return std::string_view(static_cast<const char*>(data), size);
    }
    HM_TRY(input_.status);
    // What is behind the compressed bytes is nobody's, but belongs to what is checked.
    HM_TRY(drain(*from_));
    return std::string_view();
  }

 private:
  std::unique_ptr<Stream> from_;
  ArchiveInput input_;
  ArchiveHandle archive_;
  bool at_end_ = false;
};

class Checked final : public Stream {
 public:
  Checked(std::unique_ptr<Stream> from, const Digest& digest, std::optional<std::uint64_t> size,
          std::string what)
      : from_(std::move(from)), digest_(digest), size_(size), what_(std::move(what)) {}

  Result<std::string_view> next() override {
    // Whoever asks again is told again: libarchive takes some errors for the end.
    if (verdict_ && !*verdict_) return fail(verdict_->error());
    if (verdict_) return std::string_view();
    HM_ASSIGN(const std::string_view bytes, from_->next());
    hasher_.update(bytes);
    read_ += bytes.size();
    if (!bytes.empty() && (!size_ || read_ <= *size_)) return bytes;
    verdict_ = judge();
    HM_TRY(*verdict_);
    return std::string_view();
  }

 private:
  Status judge() {
    if (size_ && read_ != *size_) {
      return fail(ErrorCode::kInvalid, what_ + " has another size than is said of it (" +
                                           std::to_string(*size_) + " bytes)");
    }
    if (hasher_.finish() == digest_) return {};
    return fail(ErrorCode::kInvalid, what_ + " has another digest than sha256:" + digest_.hex());
  }

  std::unique_ptr<Stream> from_;
  const Digest digest_;
  const std::optional<std::uint64_t> size_;
  const std::string what_;
  Hasher hasher_;
  std::uint64_t read_ = 0;
  std::optional<Status> verdict_;  // when all was read
};

la_ssize_t read_block(struct archive*, void* data, const void** buffer) {
  auto* input = static_cast<ArchiveInput*>(data);
  auto bytes = input->stream->next();
  if (!bytes) {
    input->status = fail(std::move(bytes).error());
    return -1;
  }
  *buffer = bytes->data();
  return static_cast<la_ssize_t>(bytes->size());
}

}  // namespace

Status open_archive(struct archive* archive, ArchiveInput& input) {
  const int result = libarchive::read_open(archive, &input, nullptr, read_block, nullptr);
  if (result != ARCHIVE_OK) return fail(archive_error(archive, input));
  return {};
}

Error archive_error(struct archive* archive, const ArchiveInput& input) {
  if (!input.status) return input.status.error();
  const char* text = libarchive::error_string(archive);
  std::string message = text != nullptr ? text : "not an archive";
  while (!message.empty() && (message.back() == '\n' || message.back() == '.')) message.pop_back();
  return Error{ErrorCode::kInvalid, 0, std::move(message)};
}

std::unique_ptr<Stream> file_stream(Fd file) {
  return std::make_unique<FileStream>(std::move(file));
}

Result<std::unique_ptr<Stream>> decompressed(std::unique_ptr<Stream> from) {
  HM_TRY(libarchive::load());
  auto stream = std::make_unique<Decompressed>(std::move(from));
  HM_TRY(stream->open());
  return std::unique_ptr<Stream>(std::move(stream));
}

std::unique_ptr<Stream> checked(std::unique_ptr<Stream> from, const Digest& digest,
                                std::optional<std::uint64_t> size, std::string what) {
  return std::make_unique<Checked>(std::move(from), digest, size, std::move(what));
}

Status drain(Stream& stream) {
  while (true) {
    HM_ASSIGN(const std::string_view bytes, stream.next());
    if (bytes.empty()) return {};
  }
}

Result<std::string> read_text(Stream& stream, std::size_t longest) {
  std::string text;
  while (true) {
    HM_ASSIGN(const std::string_view bytes, stream.next());
    if (bytes.empty()) return text;
    if (text.size() + bytes.size() > longest) {
      return fail(ErrorCode::kInvalid,
                  "a document of more than " + std::to_string(longest) + " bytes");
    }
    text.append(bytes);
  }
}

}  // namespace hm::image
