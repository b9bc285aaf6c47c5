#include "runner/vm/kernel.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "store/util/fd.h"

namespace hm::runner::vm {

namespace {

constexpr std::size_t kMagicAt = 0x202;           // "HdrS"
constexpr std::size_t kVersionTextAt = 0x20e;     // where the text with the release is, less 0x200
constexpr std::size_t kHeaderBytes = 0x200 * 40;  // the text is in the set-up sectors
constexpr const char* kHowToGetOne =
    "install linux-image-cloud-amd64, run `hm vm setup`, or name one as [vm] kernel in "
    ".hm/config.toml";

bool is_directory(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

Result<std::string> read_start(const std::string& path, std::size_t size) {
  HM_ASSIGN(const Fd fd, open_file(path, O_RDONLY));
  std::string bytes(size, '\0');
  const ssize_t n = ::pread(fd.get(), bytes.data(), size, 0);
  if (n < 0) return fail_errno(path);
  bytes.resize(static_cast<std::size_t>(n));
  return bytes;
}

// The modules of a kernel lie in lib/modules beside its boot directory, or on this machine.
Result<Kernel> kernel_of(const std::string& image) {
  Kernel kernel;
  kernel.image = real_path(image);
  HM_ASSIGN(kernel.release, release_of(kernel.image));
  const std::string beside = kernel.image.substr(0, kernel.image.rfind('/'));
  for (const std::string& root : {beside + "/..", beside, std::string(), std::string("/usr")}) {
    kernel.modules = root + "/lib/modules/" + kernel.release;
    if (is_directory(kernel.modules)) return kernel;
  }
  return fail(ErrorCode::kRefused, kernel.image + ": there are no modules for it (" +
                                       kernel.release +
                                       ") in lib/modules beside or on this machine");
}

// Cloud kernels first, which are smaller, then by version.
std::vector<std::string> images_in(const std::string& boot) {
  std::vector<std::string> images;
  std::error_code error;
  for (std::filesystem::directory_iterator it(boot, error), end; !error && it != end;
       it.increment(error)) {
    std::string path = it->path().string();
    const bool usable =
        it->path().filename().string().starts_with("vmlinuz-") && ::access(path.c_str(), R_OK) == 0;
    if (usable) images.push_back(std::move(path));
  }
  const auto is_cloud = [](const std::string& path) {
    return path.find("cloud") != std::string::npos;
  };
  std::sort(images.begin(), images.end(), [&](const std::string& a, const std::string& b) {
    if (is_cloud(a) != is_cloud(b)) return is_cloud(a);
    return ::strverscmp(a.c_str(), b.c_str()) > 0;
  });
  return images;
}

std::string module_name(std::string text) {
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

// By module name: where each is, and which are built in (an empty path).
Result<std::map<std::string, std::string>> list_modules(const Kernel& kernel) {
  std::map<std::string, std::string> modules;
  const auto add = [&modules](const std::filesystem::path& path, const std::string& where) {
    if (path.extension() == ".ko") modules.emplace(module_name(path.stem().string()), where);
  };
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(kernel.modules, error), end;
       !error && it != end; it.increment(error)) {
    add(it->path(), it->path().string());
  }
  if (error) return fail(system_error(kernel.modules, error.value()));
  const std::string built_in = read_file(kernel.modules + "/modules.builtin").value_or("");
  for (std::size_t at = 0; at < built_in.size();) {
    const std::size_t end = std::min(built_in.find('\n', at), built_in.size());
    add(built_in.substr(at, end - at), "");
    at = end + 1;
  }
  return modules;
}

class Choice {
 public:
  Choice(const Kernel& kernel, std::map<std::string, std::string> known)
      : kernel_(kernel), known_(std::move(known)) {}

  Status add(const std::string& name) {
    if (!chosen_.insert(name).second) return {};
    const auto it = known_.find(name);
    if (it == known_.end()) {
      return fail(ErrorCode::kRefused, "the kernel " + kernel_.release + " has no module " + name +
                                           " that is not compressed in " + kernel_.modules);
    }
    if (it->second.empty()) return {};
    HM_ASSIGN(const std::string bytes, read_file(it->second));
    auto depends = depends_of(bytes);
    if (!depends) return fail(std::move(depends).error().in(it->second));
    for (const std::string& other : *depends) HM_TRY(add(module_name(other)));
    ordered_.push_back({name, it->second});
    return {};
  }

  std::vector<Module> take() { return std::move(ordered_); }

 private:
  const Kernel& kernel_;
  const std::map<std::string, std::string> known_;
  std::set<std::string> chosen_;
  std::vector<Module> ordered_;
};

// Part `[offset, offset + size)` of the file, or nothing where it has no such part.
std::string_view part_of(std::string_view file, std::uint64_t offset, std::uint64_t size) {
  if (offset > file.size() || size > file.size() - offset) return {};
  return file.substr(offset, size);
}

std::string_view section_of(std::string_view file, std::string_view wanted) {
  Elf64_Ehdr head{};
  if (file.size() < sizeof head) return {};
  std::memcpy(&head, file.data(), sizeof head);
  const bool is_elf =
      std::memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 && head.e_ident[EI_CLASS] == ELFCLASS64;
  if (!is_elf) return {};
  const auto section = [&](std::size_t index) {
    Elf64_Shdr out{};
    const auto bytes = part_of(file, head.e_shoff + index * sizeof out, sizeof out);
    if (!bytes.empty()) std::memcpy(&out, bytes.data(), sizeof out);
    return out;
  };
  const Elf64_Shdr names = section(head.e_shstrndx);
  const std::string_view text = part_of(file, names.sh_offset, names.sh_size);
  for (std::size_t i = 0; i < head.e_shnum; ++i) {
    const Elf64_Shdr item = section(i);
    if (item.sh_name >= text.size()) continue;
    const std::string_view name = text.substr(item.sh_name);
    if (name.substr(0, name.find('\0')) == wanted) {
      return part_of(file, item.sh_offset, item.sh_size);
    }
  }
  return {};
}

}  // namespace

Result<std::string> identity_of(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return fail_errno(path);
  return path + " " + std::to_string(st.st_dev) + " " + std::to_string(st.st_ino) + " " +
         std::to_string(st.st_size) + " " + std::to_string(to_ns(st.st_mtim)) + " " +
         std::to_string(to_ns(st.st_ctim));
}

Result<std::string> release_of(const std::string& image) {
  HM_ASSIGN(const std::string bytes, read_start(image, kHeaderBytes));
  const auto is_image =
      bytes.size() > kVersionTextAt + 2 && bytes.compare(kMagicAt, 4, "HdrS") == 0;
  std::size_t at = 0;
  if (is_image) {
    at = static_cast<std::uint8_t>(bytes[kVersionTextAt]) +
         (std::size_t{static_cast<std::uint8_t>(bytes[kVersionTextAt + 1])} << 8) + 0x200;
  }
  const std::size_t end = bytes.find(' ', at);
  if (!is_image || at == 0x200 || end == std::string::npos || end == at) {
    return fail(ErrorCode::kRefused, image + " is not the bzImage of a Linux kernel");
  }
  return bytes.substr(at, end - at);
}

Result<Kernel> find_kernel(const std::optional<std::string>& configured,
                           const std::string& fetched) {
  if (configured) {
    auto kernel = kernel_of(*configured);
    if (!kernel) return fail(std::move(kernel).error().in("[vm] kernel"));
    return kernel;
  }
  for (const std::string& boot : {std::string("/boot"), fetched + "/boot"}) {
    for (const std::string& image : images_in(boot)) {
      if (auto kernel = kernel_of(image)) return kernel;
    }
  }
  return fail(ErrorCode::kRefused,
              std::string("there is no kernel for virtual machines: ") + kHowToGetOne);
}

Result<std::vector<std::string>> depends_of(std::string_view module) {
  const std::string_view info = section_of(module, ".modinfo");
  if (info.empty()) return fail(ErrorCode::kRefused, "it is no module of a kernel");
  constexpr std::string_view kKey = "depends=";
  std::vector<std::string> names;
  for (std::size_t at = 0; at < info.size();) {
    const std::size_t end = std::min(info.find('\0', at), info.size());
    std::string_view item = info.substr(at, end - at);
    at = end + 1;
    if (!item.starts_with(kKey)) continue;
    for (item.remove_prefix(kKey.size()); !item.empty();) {
      const std::size_t comma = std::min(item.find(','), item.size());
      if (comma > 0) names.emplace_back(item.substr(0, comma));
      item.remove_prefix(std::min(comma + 1, item.size()));
    }
  }
  return names;
}

Result<std::vector<Module>> modules_for(const Kernel& kernel,
                                        std::span<const std::string_view> names) {
  HM_ASSIGN(auto known, list_modules(kernel));
  Choice choice(kernel, std::move(known));
  for (const std::string_view name : names) HM_TRY(choice.add(std::string(name)));
  return choice.take();
}

}  // namespace hm::runner::vm
