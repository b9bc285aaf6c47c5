// StepLog: what a step printed, byte for byte and in the order it arrived, kept as a blob.
//
// Format 1: "hmlog001", then frames of stream byte (1 stdout, 2 stderr), 4 bytes length, bytes.
// LineSplitter turns frames into the lines of `step_log` events. One thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "store/blob_store.h"
#include "store/scratch.h"
#include "store/util/fd.h"

namespace hm::runner {

enum class Stream { kStdout = 1, kStderr = 2 };

class StepLog {
 public:
  static Result<StepLog> create(store::Scratch& scratch);
  Status append(Stream stream, std::string_view bytes);
  Result<Digest> finish(store::BlobStore& blobs);  // once

 private:
  StepLog(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  Fd fd_;
};

// Calls `frame` for each stored frame, reading as it goes. kCorrupt when the blob is not a log, or
// damaged: then nothing was given out.
Status replay_log(const store::BlobStore& blobs, const Digest& log,
                  const std::function<void(Stream, std::string_view)>& frame);

class LineSplitter {
 public:
  using Line = std::function<void(Stream, std::string_view)>;
  explicit LineSplitter(Line line) : line_(std::move(line)) {}
  void add(Stream stream, std::string_view bytes);
  void finish();  // the last lines, where no newline ended them

 private:
  std::string& pending(Stream stream) { return stream == Stream::kStdout ? out_ : err_; }
  bool& cut(Stream stream) { return stream == Stream::kStdout ? out_cut_ : err_cut_; }
  Line line_;
  std::string out_, err_;
  bool out_cut_ = false, err_cut_ = false;  // the last piece was a part of a line
};

}  // namespace hm::runner
