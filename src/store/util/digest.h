// Digest: a SHA-256, the name of a blob and the value of every key. 64 hex digits when printed.
// Hasher: incremental SHA-256, OpenSSL's.
// Thread-safety: Digest is a value; a Hasher belongs to one thread.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hm {

struct Digest {
  std::array<std::uint8_t, 32> bytes{};

  auto operator<=>(const Digest&) const = default;
  bool is_zero() const { return *this == Digest{}; }
  std::string hex() const;
  std::string_view raw() const;  // the 32 bytes

  static std::optional<Digest> from_hex(std::string_view hex);  // lower-case, exactly 64 digits
  static std::optional<Digest> from_raw(std::string_view raw);  // exactly 32 bytes
  static Digest of(std::string_view data);
};

class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(std::string_view data);
  // Adds a length-prefixed field, so that ("a","bc") and ("ab","c") differ.
  void field(std::string_view data);
  void field(std::uint64_t number);
  Digest finish();  // once, until `restart`
  void restart();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace hm

template <>
struct std::hash<hm::Digest> {
  std::size_t operator()(const hm::Digest& digest) const noexcept;
};
