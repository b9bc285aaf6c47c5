// A store of its own for a fuzz target, gone with the process that ends well; and what makes tar
// headers of mutated bytes believable.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "store/store.h"

namespace hm::fuzz {

class FuzzStore {
 public:
  FuzzStore() {
    std::string name = (std::filesystem::temp_directory_path() / "hm-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    home_ = name;
    store_ = std::move(*store::Store::open(home_));
  }
  FuzzStore(const FuzzStore&) = delete;
  FuzzStore& operator=(const FuzzStore&) = delete;
  ~FuzzStore() {
    store_.reset();
    std::error_code error;
    std::filesystem::remove_all(home_, error);
  }
  store::Store& operator*() { return *store_; }
  store::Store* operator->() { return store_.get(); }

 private:
  std::string home_;
  std::unique_ptr<store::Store> store_;
};

// No mutation hits upon a header's checksum by itself.
inline void set_checksums(std::string& archive) {
  constexpr std::size_t kBlock = 512;  // bytes
  constexpr std::size_t kMagic = 257, kChecksum = 148, kChecksumSize = 8;
  for (std::size_t at = 0; at + kBlock <= archive.size(); at += kBlock) {
    if (archive.compare(at + kMagic, 5, "ustar") != 0) continue;
    archive.replace(at + kChecksum, kChecksumSize, kChecksumSize, ' ');
    unsigned sum = 0;
    for (std::size_t i = 0; i < kBlock; ++i) sum += static_cast<unsigned char>(archive[at + i]);
    char text[kChecksumSize];
    std::snprintf(text, sizeof text, "%06o", sum);
    archive.replace(at + kChecksum, kChecksumSize - 1, text, kChecksumSize - 1);
  }
}

}  // namespace hm::fuzz
