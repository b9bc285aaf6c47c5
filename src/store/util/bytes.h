// Writer and Reader of our stored formats: little-endian integers and length-prefixed strings.
// The Reader never reads past its end: after the first short or absurd field it is failed for good
// and yields zeros, so a decoder checks once. Thread-safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hm {

class Writer {
 public:
  void number(std::uint64_t value) {
    std::array<char, 8> bytes{};
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    out_.append(bytes.data(), bytes.size());
  }
  void byte(std::uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void raw(std::string_view data) { out_.append(data); }
  void text(std::string_view data) {
    number(data.size());
    out_.append(data);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  std::uint64_t number() {
    const std::string_view bytes = raw(8);
    std::uint64_t value = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) {
      value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
    }
    return value;
  }
  std::uint8_t byte() {
    const std::string_view bytes = raw(1);
    return bytes.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(bytes[0]);
  }
  std::string_view raw(std::size_t size) {
    if (failed_ || size > data_.size()) {
      failed_ = true;
      return {};
    }
    const std::string_view out = data_.substr(0, size);
    data_.remove_prefix(size);
    return out;
  }
  std::string_view text() { return raw(number()); }

  bool failed() const { return failed_; }
  bool done() const { return !failed_ && data_.empty(); }
  std::size_t left() const { return data_.size(); }

 private:
  std::string_view data_;
  bool failed_ = false;
};

}  // namespace hm
