#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "runner/vm/cpio.h"
#include "runner/vm/kernel.h"
#include "runner/vm/protocol.h"
#include "runner/vm/qemu.h"
#include "runner/vm/scratch_disk.h"
#include "runner/vm/vm_options.h"
#include "test_support.h"

namespace hm::runner::vm {
namespace {

using test::must;
using test::TempDir;

TEST(Cpio, HasAHeaderForEachEntryAndPadsToFour) {
  CpioWriter out;
  out.directory("d", 0755);
  out.file("d/f", 0644, "hello");
  const std::string archive = out.finish();
  // 110 bytes of header, then the name with its NUL.
  EXPECT_EQ(archive.substr(0, 6), "070701");
  EXPECT_EQ(archive.substr(14, 8), "000041ED");  // mode of the directory
  EXPECT_EQ(archive.substr(110, 2), std::string("d\0", 2));
  EXPECT_EQ(archive.substr(112, 6), "070701");         // already a multiple of four
  EXPECT_EQ(archive.substr(112 + 54, 8), "00000005");  // size of the file
  EXPECT_EQ(archive.substr(112 + 116, 8), std::string("hello\0\0\0", 8));
  EXPECT_NE(archive.find("TRAILER!!!"), std::string::npos);
  EXPECT_EQ(archive.size() % 4, 0U);
}

// As much of a bzImage as is looked at.
std::string image_of(const std::string& text) {
  std::string image(0x2000, '\0');
  image.replace(0x202, 4, "HdrS");
  image[0x20e] = '\x00';
  image[0x20f] = '\x10';
  image.replace(0x1200, text.size(), text);
  return image;
}

TEST(Kernel, SaysItsRelease) {
  const TempDir dir;
  test::write_file(dir / "vmlinuz", image_of("6.1.0-9-cloud-amd64 (builder) #1 SMP"));
  EXPECT_EQ(must(release_of(dir / "vmlinuz")), "6.1.0-9-cloud-amd64");
  test::write_file(dir / "other", "ELF");
  EXPECT_FALSE(release_of(dir / "other"));
  test::write_file(dir / "endless", image_of(std::string(0xe00, 'x')));
  EXPECT_FALSE(release_of(dir / "endless"));
}

TEST(Kernel, IsOnlyOneWithModules) {
  const TempDir dir;
  test::write_file(dir / "boot/vmlinuz-9.9.9-test", image_of("9.9.9-test x"));
  const auto without = find_kernel(dir / "boot/vmlinuz-9.9.9-test", dir.path());
  ASSERT_FALSE(without);
  EXPECT_NE(without.error().message.find("no modules"), std::string::npos);
  test::write_file(dir / "lib/modules/9.9.9-test/modules.builtin", "kernel/fs/fuse/fuse.ko\n");
  const auto kernel = find_kernel(dir / "boot/vmlinuz-9.9.9-test", dir.path());
  ASSERT_TRUE(kernel) << kernel.error().message;
  EXPECT_EQ(kernel->release, "9.9.9-test");
}

// A module with nothing but a .modinfo section.
std::string module_of(const std::string& info) {
  const std::string names = std::string("\0.modinfo\0.names\0", 17);
  Elf64_Ehdr head{};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_shoff = sizeof head + info.size() + names.size();
  head.e_shnum = 3;
  head.e_shstrndx = 2;
  Elf64_Shdr sections[3] = {};
  sections[1].sh_name = 1;
  sections[1].sh_offset = sizeof head;
  sections[1].sh_size = info.size();
  sections[2].sh_name = 10;
  sections[2].sh_offset = sizeof head + info.size();
  sections[2].sh_size = names.size();
  std::string out(sizeof head, '\0');
  std::memcpy(out.data(), &head, sizeof head);
  out += info + names;
  std::string table(sizeof sections, '\0');
  std::memcpy(table.data(), sections, sizeof sections);
  return out + table;
}

TEST(Kernel, LoadsWhatAModuleDependsOnFirst) {
  const TempDir dir;
  const std::string modules = dir / "lib/modules/9.9.9-test";
  test::write_file(dir / "boot/vmlinuz", image_of("9.9.9-test x"));
  test::write_file(modules + "/kernel/a.ko",
                   module_of(std::string("license=GPL\0depends=b-c,d\0", 26)));
  test::write_file(modules + "/kernel/b_c.ko", module_of(std::string("depends=d\0", 10)));
  test::write_file(modules + "/kernel/d.ko", module_of(std::string("depends=\0", 9)));
  test::write_file(modules + "/modules.builtin", "kernel/e.ko\n");
  const Kernel kernel = must(find_kernel(dir / "boot/vmlinuz", ""));
  const std::string_view wanted[] = {"a", "e"};
  std::string order;
  for (const Module& module : must(modules_for(kernel, wanted))) order += module.name + " ";
  EXPECT_EQ(order, "d b_c a ");
  const std::string_view missing[] = {"f"};
  EXPECT_FALSE(modules_for(kernel, missing));
  EXPECT_FALSE(depends_of("no module"));
  std::string cut = module_of(std::string("depends=d\0", 10));
  for (std::size_t size = 0; size < cut.size(); ++size) (void)depends_of(cut.substr(0, size));
}

TEST(Protocol, OrdersAreReadAsTheyWereWritten) {
  StepOrder order;
  order.clock_ns = 42;
  order.argv = {"sh", "-c", ""};
  order.env = {"A=b"};
  order.files = {{"/etc/hosts", std::string("a\0b", 3), 0755, 42}};
  order.limits = {{7, 1, ~std::uint64_t{0}}};
  order.capabilities = {0, 31, 40};
  order.directories = {{"tmp", 01777, 1, 2, true, {{"user.x", "y"}}}};
  order.pids = 9;
  const std::string bytes = encode(order);
  StepOrder read;
  ASSERT_TRUE(decode(bytes, read));
  EXPECT_EQ(encode(read), bytes);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    StepOrder part;
    EXPECT_FALSE(decode(bytes.substr(0, size), part)) << size;
  }
}

TEST(Protocol, AnEndIsOneThatMakesSense) {
  StepEnd end;
  end.number = 3;
  StepEnd read;
  EXPECT_TRUE(decode(encode(end), read));
  end.number = 256;
  EXPECT_FALSE(decode(encode(end), read));
  EXPECT_FALSE(decode("", read));
}

TEST(Qemu, HasNoDriveButTheScratch) {
  MachineShape shape{"/usr/bin/qemu", "/boot/vmlinuz", false, false, 512, 1};
  std::string line;
  for (const std::string& word : qemu_arguments(shape, QemuUse::kRestore)) line += word + " ";
  EXPECT_EQ(line.find("-drive"), std::string::npos);
  EXPECT_EQ(line.find("-blockdev"), line.rfind("-blockdev"));
  EXPECT_EQ(line.find("-netdev"), std::string::npos);
  shape.network = true;
  line.clear();
  for (const std::string& word : qemu_arguments(shape, QemuUse::kRestore)) line += word + " ";
  EXPECT_NE(line.find("-netdev user"), std::string::npos);
}

TEST(Qemu, OnlyWhoSavesAGuestWritesItsMemory) {
  const MachineShape shape{"/usr/bin/qemu", "/boot/vmlinuz", false, false, 512, 1};
  const auto line = [&shape](QemuUse use) {
    std::string out;
    for (const std::string& word : qemu_arguments(shape, use)) out += word + " ";
    return out;
  };
  EXPECT_EQ(line(QemuUse::kBoot).find("mem-path"), std::string::npos);
  EXPECT_NE(line(QemuUse::kSave).find("share=on"), std::string::npos);
  EXPECT_NE(line(QemuUse::kRestore).find("share=off"), std::string::npos);
}

// What a saved guest's disk is made from.
TEST(ScratchDisks, AreMadeFromTheContentOfOthers) {
  const TempDir dir;
  const ScratchDisks disks(dir.path());
  const Fd first = must(disks.make_from(""));
  EXPECT_EQ(must(content_of(first.get())), "");
  const std::string far = "far behind";
  ASSERT_EQ(::pwrite(first.get(), "x", 1, 4096), 1);
  ASSERT_EQ(::pwrite(first.get(), far.data(), far.size(), off_t{60} << 30), 10);
  const std::string content = must(content_of(first.get()));
  EXPECT_LT(content.size(), 300U << 10);
  const Fd second = must(disks.make_from(content));
  EXPECT_EQ(::lseek(first.get(), 0, SEEK_END), ::lseek(second.get(), 0, SEEK_END));
  std::string read(far.size(), '\0');
  ASSERT_EQ(::pread(second.get(), read.data(), read.size(), off_t{60} << 30), 10);
  EXPECT_EQ(read, far);
  EXPECT_EQ(must(content_of(second.get())), content);
  EXPECT_FALSE(disks.make_from(content.substr(0, content.size() - 1)));
  EXPECT_TRUE(must(names_at(must(open_file(dir.path(), O_RDONLY | O_DIRECTORY)).get())).empty());
}

TEST(VmOptions, AreThoseOfTheProject) {
  const TempDir dir;
  EXPECT_FALSE(must(load_vm_options(dir.path())).kernel);
  const auto load = [&](const std::string& text) {
    test::write_file(dir / ".hm/config.toml", text);
    return load_vm_options(dir.path());
  };
  const VmOptions options = must(load("[vm]\nkernel = \"/k\"\nmemory = \"512M\"\ncpus = 3\n"));
  EXPECT_EQ(options.kernel, "/k");
  EXPECT_EQ(options.memory, std::uint64_t{512} << 20);
  EXPECT_EQ(options.cpus, 3U);
  for (const char* wrong : {"vm = 1", "[vm]\nkernel = \"k\"", "[vm]\nmemory = 5",
                            "[vm]\nmemory = \"4M\"", "[vm]\ncpus = 0", "[vm]\ncpu = 1", "[vm"}) {
    const auto refused = load(wrong);
    ASSERT_FALSE(refused) << wrong;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalid) << wrong;
    EXPECT_NE(refused.error().message.find("config.toml"), std::string::npos) << wrong;
  }
}

}  // namespace
}  // namespace hm::runner::vm
