#include "fs/libarchive.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace hm::libarchive {

namespace {

constexpr const char* kLibrary = "libarchive.so.13";

// Never unloaded. The error of a library that cannot be had is asked for once, too.
struct Library {
  void* handle = ::dlopen(kLibrary, RTLD_LAZY | RTLD_LOCAL);
  std::string error = handle == nullptr ? ::dlerror() : "";
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

}  // namespace

Status load() {
  const Library& loaded = library();
  if (loaded.handle != nullptr) return {};
  return fail(ErrorCode::kRefused,
              "archives cannot be read: " + loaded.error + " (install libarchive)");
}

void* address(const char* name) {
  const Library& loaded = library();
  void* at = loaded.handle != nullptr ? ::dlsym(loaded.handle, name) : nullptr;
  if (at == nullptr) throw std::runtime_error(std::string(kLibrary) + " has no " + name);
  return at;
}

}  // namespace hm::libarchive
