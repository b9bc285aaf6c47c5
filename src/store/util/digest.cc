#include "store/util/digest.h"

// The plain functions, which later versions deprecate: EVP's first digest costs 2 ms, as it makes
// ready whatever else OpenSSL can do.
#define OPENSSL_API_COMPAT 0x10100000L
#include <openssl/sha.h>

#include <cstring>

namespace hm {

std::string Digest::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(64);
  for (const std::uint8_t byte : bytes) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

std::string_view Digest::raw() const {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

namespace {
int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}
}  // namespace

std::optional<Digest> Digest::from_hex(std::string_view hex) {
  if (hex.size() != 64) return std::nullopt;
  Digest out;
  for (std::size_t i = 0; i < 32; ++i) {
    const int high = hex_value(hex[2 * i]);
    const int low = hex_value(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return out;
}

std::optional<Digest> Digest::from_raw(std::string_view raw) {
  if (raw.size() != 32) return std::nullopt;
  Digest out;
  std::memcpy(out.bytes.data(), raw.data(), 32);
  return out;
}

Digest Digest::of(std::string_view data) {
  Hasher hasher;
  hasher.update(data);
  return hasher.finish();
}

struct Hasher::Context {
  SHA256_CTX sha256;
};

Hasher::Hasher() : context_(std::make_unique<Context>()) { restart(); }

void Hasher::restart() { SHA256_Init(&context_->sha256); }

Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(std::string_view data) {
  SHA256_Update(&context_->sha256, data.data(), data.size());
}

void Hasher::field(std::uint64_t number) {
  std::array<char, 8> bytes{};
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(number >> (8 * i));
  update({bytes.data(), bytes.size()});
}

void Hasher::field(std::string_view data) {
  field(static_cast<std::uint64_t>(data.size()));
  update(data);
}

Digest Hasher::finish() {
  Digest out;
  SHA256_Final(out.bytes.data(), &context_->sha256);
  return out;
}

}  // namespace hm

std::size_t std::hash<hm::Digest>::operator()(const hm::Digest& digest) const noexcept {
  std::size_t out = 0;
  std::memcpy(&out, digest.bytes.data(), sizeof out);
  return out;
}
