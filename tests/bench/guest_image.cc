// bench_guest_image KERNEL INIT COMMAND FILE: writes the initramfs of a guest whose root comes from
// virtiofsd (guest_init.cc), with the same modules as hm's own and that of virtiofs.
#include <array>
#include <cstdio>
#include <string>

#include "runner/vm/cpio.h"
#include "runner/vm/kernel.h"
#include "store/util/fd.h"

namespace hm::runner::vm {
namespace {

constexpr std::array<std::string_view, 8> kModules = {
    "virtio_pci", "virtio_console", "virtiofs", "overlay",
    "virtio_blk", "crc32c_generic", "ext4",     "virtio_net"};

Result<std::string> image_of(const std::string& kernel_image, const std::string& init,
                             const std::string& command) {
  HM_ASSIGN(const Kernel kernel, find_kernel(kernel_image, ""));
  HM_ASSIGN(const auto modules, modules_for(kernel, kModules));
  CpioWriter out;
  for (const char* name : {"dev", "proc", "sys", "modules"}) out.directory(name, 0755);
  out.device("dev/console", 0600, 5, 1);
  HM_ASSIGN(const std::string program, read_file(init));
  out.file("init", 0755, program);
  out.file("command", 0644, command);
  unsigned number = 100;  // their names are sorted
  for (const Module& module : modules) {
    HM_ASSIGN(const std::string bytes, read_file(module.path));
    out.file("modules/" + std::to_string(number++) + "-" + module.name, 0644, bytes);
  }
  return out.finish();
}

}  // namespace
}  // namespace hm::runner::vm

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: bench_guest_image KERNEL INIT COMMAND FILE\n", stderr);
    return 2;
  }
  const auto image = hm::runner::vm::image_of(argv[1], argv[2], argv[3]);
  const auto written = image ? hm::write_file_atomically(argv[4], *image, 0644)
                             : hm::Status(tl::unexpected(image.error()));
  if (written) return 0;
  std::fprintf(stderr, "bench_guest_image: %s\n", written.error().message.c_str());
  return 1;
}
