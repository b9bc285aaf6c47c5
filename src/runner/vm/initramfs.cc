#include "runner/vm/initramfs.h"

#include <array>
#include <cstdio>

#include "runner/vm/cpio.h"
#include "store/util/fd.h"

extern "C" {
// From embed.sh, which the build runs.
extern const char hm_guest_init_begin[];
extern const char hm_guest_init_end[];
}

namespace hm::runner::vm {

namespace {

// What a guest is made of: its bus, the ports, both filesystems of the step's root, the scratch
// disk and its filesystem, the network card.
constexpr std::array<std::string_view, 8> kModules = {
    "virtio_pci", "virtio_console", "fuse", "overlay",
    "virtio_blk", "crc32c_generic", "ext4", "virtio_net"};

}  // namespace

std::string_view guest_init() {
  return {hm_guest_init_begin, static_cast<std::size_t>(hm_guest_init_end - hm_guest_init_begin)};
}

Result<Initramfs> Initramfs::of(const Kernel& kernel, std::string_view init) {
  HM_ASSIGN(auto modules, modules_for(kernel, kModules));
  return Initramfs(std::move(modules), init);
}

Result<Digest> Initramfs::identity() const {
  Hasher hasher;
  hasher.field(init_);
  for (const Module& module : modules_) {
    hasher.field(module.name);
    HM_ASSIGN(const std::string identity, identity_of(module.path));
    hasher.field(identity);
  }
  return hasher.finish();
}

Result<std::string> Initramfs::make() const {
  CpioWriter out;
  for (const char* name : {"dev", "proc", "sys", "modules"}) out.directory(name, 0755);
  out.device("dev/console", 0600, 5, 1);
  out.file("init", 0755, init_);
  unsigned number = 0;
  for (const Module& module : modules_) {
    HM_ASSIGN(const std::string bytes, read_file(module.path));
    std::array<char, 8> order{};
    std::snprintf(order.data(), order.size(), "%03u-", number++ % 1000);
    out.file("modules/" + std::string(order.data()) + module.name, 0644, bytes);
  }
  return out.finish();
}

}  // namespace hm::runner::vm
