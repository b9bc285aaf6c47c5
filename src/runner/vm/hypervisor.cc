#include "runner/vm/hypervisor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "runner/step_limits.h"
#include "runner/vm/initramfs.h"
#include "runner/vm/kernel.h"
#include "runner/vm/program.h"
#include "runner/vm/saved_guest.h"

namespace hm::runner::vm {

namespace {

constexpr const char* kQemu = "qemu-system-x86_64";

// How long a guest may take to boot when nothing else runs; more, the more waits for processors.
constexpr std::chrono::seconds kBootEmulated{30};
constexpr std::chrono::seconds kBootKvm{10};
constexpr double kMostPatience = 10;

constexpr unsigned kMostFailedSaves = 2;  // each takes as long as a boot

double busyness() {
  double load = 0;
  if (::getloadavg(&load, 1) != 1) return 1;
  const double processors = std::max(1U, std::thread::hardware_concurrency());
  return std::clamp(load / processors, 1.0, kMostPatience);
}

std::chrono::milliseconds boot_patience(bool kvm) {
  const std::chrono::milliseconds base = kvm ? kBootKvm : kBootEmulated;
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(static_cast<double>(base.count()) * busyness()));
}

Result<std::string> find_qemu() {
#if defined(__x86_64__)
  if (auto path = find_program(kQemu)) return *path;
  return fail(ErrorCode::kRefused,
              std::string(kQemu) + " is not installed: install qemu-system-x86");
#else
  return fail(ErrorCode::kRefused, "virtual machines are made on x86_64 only");
#endif
}

// Why there is no KVM, or nothing. A module that lends the device without the processor's own
// extensions (PVM) runs no kernel but its own.
std::optional<std::string> lacks_kvm() {
  const std::string processor = read_file("/proc/cpuinfo").value_or("");
  const bool has_extensions =
      processor.find(" vmx") != std::string::npos || processor.find(" svm") != std::string::npos;
  if (!has_extensions) return "the processor's extensions are not to be seen here";
  if (!open_file("/dev/kvm", O_RDWR)) return "this user cannot open /dev/kvm";
  return std::nullopt;
}

std::uint64_t available_memory() {
  const std::string text = read_file("/proc/meminfo").value_or("");
  const std::size_t at = text.find("MemAvailable:");
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 13, nullptr, 10) << 10;
}

template <class T>
Requirement requirement(std::string name, const Result<T>& found, std::string text) {
  return {std::move(name), found.has_value(), true,
          found ? std::move(text) : found.error().message};
}

// What there is of the programs and files that are needed, or why there is not.
struct Inventory {
  Result<std::string> qemu;
  Result<Kernel> kernel;
  Result<Initramfs> initramfs;
  Result<std::string> mke2fs;
};

Inventory take_inventory(const VmOptions& options, const std::string& store_home,
                         std::string_view init) {
  auto kernel = find_kernel(options.kernel, vm_directory(store_home) + "/kernel");
  auto initramfs = kernel ? Initramfs::of(*kernel, init) : Result<Initramfs>(fail(kernel.error()));
  return {find_qemu(), std::move(kernel), std::move(initramfs), find_mke2fs()};
}

std::vector<Requirement> requirements_of(const Inventory& found, const VmOptions& options) {
  std::vector<Requirement> out;
  out.push_back(requirement("QEMU", found.qemu, found.qemu.value_or("")));
  out.push_back(requirement("kernel", found.kernel, found.kernel ? found.kernel->image : ""));
  if (found.kernel) {
    out.push_back(requirement("modules", found.initramfs, found.kernel->modules));
  }
  out.push_back(requirement("mke2fs", found.mke2fs, found.mke2fs.value_or("")));
  const auto no_kvm = lacks_kvm();
  out.push_back({"KVM", !no_kvm, false,
                 no_kvm ? *no_kvm + ": machines are emulated, which is slow" : "/dev/kvm"});
  const std::uint64_t memory = available_memory();
  const bool enough = memory >= options.memory;
  out.push_back({"memory", enough, true,
                 memory_text(options.memory) + " for each machine, " +
                     std::to_string(memory >> 20) + "M are free" +
                     (enough ? "" : ": set [vm] memory in .hm/config.toml")});
  return out;
}

Result<Fd> file_in_memory(std::string_view bytes) {
  Fd fd(::memfd_create("hm-initramfs", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  HM_TRY(write_all(fd.get(), bytes));
  return fd;
}

class QemuHypervisor final : public Hypervisor {
 public:
  QemuHypervisor(MachineShape shape, std::string directory, ScratchDisks disks, Initramfs initramfs,
                 const Digest& digest, Fd nothing, Say say)
      : shape_(std::move(shape)),
        directory_(std::move(directory)),
        disks_(std::move(disks)),
        initramfs_(std::move(initramfs)),
        digest_(digest),
        nothing_(std::move(nothing)),
        say_(std::move(say)) {}

  std::optional<Place> take_place(const std::stop_token& stop) override {
    std::unique_lock lock(mutex_);
    if (!freed_.wait(lock, stop, [this] { return free_ > 0; })) return std::nullopt;
    free_ -= 1;
    return Place(*this);
  }

  Result<Started> start(bool network, bool cold, int wake) override {
    MachineParts parts{shape_of(network), nothing_.get(), -1, -1};
    std::optional<SavedGuest> saved;
    if (!cold) {
      HM_ASSIGN(saved, saved_guest(parts, wake));
    }
    if (saved) parts.state = saved->state.get();
    HM_ASSIGN(const Fd disk, saved ? disks_.make_from(saved->disk) : disks_.make());
    parts.scratch = disk.get();
    if (!saved) {
      HM_ASSIGN(parts.initramfs, initramfs());
    }
    const QemuUse use = saved ? QemuUse::kRestore : QemuUse::kBoot;
    const auto until = Clock::now() + boot_patience(shape_.kvm);
    HM_ASSIGN(Machine machine, Machine::start(parts, use));
    return Started{std::move(machine), use, until};
  }

  void forget_saved(bool network) override {
    if (const auto name = saved_guest_name(shape_of(network), digest_)) {
      drop_saved_guest(directory_, *name);
    }
  }

  std::vector<std::string> command_line(const Started& started, bool network) override {
    const MachineShape shape = shape_of(network);
    std::vector<std::string> line = {shape.qemu};
    for (std::string& argument : qemu_arguments(shape, started.use)) {
      line.push_back(std::move(argument));
    }
    return line;
  }

  // Whether a guest boots with KVM; asked once for each store and processor.
  bool works_with_kvm() {
    MachineShape shape = shape_of(false);
    shape.kvm = true;
    const auto name = saved_guest_name(shape, digest_);
    if (!name) return false;
    const std::string note = directory_ + "/kvm-" + *name;
    if (const auto known = read_file(note)) return *known == "yes\n";
    const auto disk = disks_.make();
    const auto file = initramfs();
    if (!disk || !file) return false;
    const MachineParts parts{shape, *file, disk->get(), -1};
    auto machine = Machine::start(parts, QemuUse::kBoot);
    const bool works =
        machine && machine->wait_ready(Clock::now() + boot_patience(true), -1, QemuUse::kBoot);
    (void)write_file_atomically(note, works ? "yes\n" : "no\n", 0600);
    return works;
  }
  void use_kvm() { shape_.kvm = true; }

 private:
  MachineShape shape_of(bool network) const {
    MachineShape shape = shape_;
    shape.network = network;
    return shape;
  }

  // The file for guests that boot, made for the first of them.
  Result<int> initramfs() {
    const std::lock_guard lock(making_);
    if (!made_) {
      HM_ASSIGN(const std::string bytes, initramfs_.make());
      HM_ASSIGN(made_, file_in_memory(bytes));
    }
    return made_.get();
  }

  // Made if there is none: the first step of all waits for a boot either way. Without one the
  // guest boots by itself.
  Result<std::optional<SavedGuest>> saved_guest(MachineParts parts, int wake) {
    HM_ASSIGN(const std::string name, saved_guest_name(parts.shape, digest_));
    auto found = open_saved_guest(directory_, name, parts.shape);
    if (found || failed_saves_ >= kMostFailedSaves) return found;
    HM_ASSIGN(const Fd disk, disks_.make());
    parts.scratch = disk.get();
    HM_ASSIGN(parts.initramfs, initramfs());
    const auto saved = save_guest(directory_, name, parts, boot_patience(parts.shape.kvm), wake);
    if (saved) return open_saved_guest(directory_, name, parts.shape);
    if (saved.error().code == ErrorCode::kCancelled) return fail(saved.error());
    if (failed_saves_++ == 0) {
      say_("steps wait for their virtual machines to boot, since none could be saved: " +
           saved.error().message);
    }
    return std::optional<SavedGuest>{};
  }

  void give_back() override {
    const std::lock_guard lock(mutex_);
    free_ += 1;
    freed_.notify_one();
  }

  MachineShape shape_;
  const std::string directory_;
  const ScratchDisks disks_;
  const Initramfs initramfs_;
  const Digest digest_;
  const Fd nothing_;  // an initramfs for guests that have booted
  const Say say_;
  std::atomic<unsigned> failed_saves_ = 0;
  std::mutex making_;  // guards made_
  Fd made_;
  std::mutex mutex_;  // guards free_
  std::condition_variable_any freed_;
  unsigned free_ = std::max(1U, std::thread::hardware_concurrency());
};

}  // namespace

std::string Requirement::line() const {
  return name + ": " + (met ? "" : needed ? "missing, " : "not used, ") + text;
}

std::string vm_directory(const std::string& store_home) { return store_home + "/vm"; }

std::vector<Requirement> requirements(const VmOptions& options, const std::string& store_home) {
  return requirements_of(take_inventory(options, store_home, guest_init()), options);
}

Result<std::unique_ptr<Hypervisor>> Hypervisor::open(const VmOptions& options,
                                                     const std::string& store_home,
                                                     const std::string& scratch,
                                                     std::string_view init, Say say) {
  const Inventory found = take_inventory(options, store_home, init);
  for (const Requirement& item : requirements_of(found, options)) {
    if (item.needed && !item.met) return fail(ErrorCode::kRefused, item.line());
  }
  const std::string directory = vm_directory(store_home);
  HM_TRY(make_directories(directory, 0700));
  HM_ASSIGN(const Digest digest, found.initramfs->identity());
  HM_ASSIGN(Fd nothing, file_in_memory(std::string_view("\0", 1)));
  MachineShape shape;
  shape.qemu = *found.qemu;
  shape.kernel = found.kernel->image;
  shape.memory_mib = options.memory >> 20;
  shape.cpus = options.cpus;
  auto out = std::make_unique<QemuHypervisor>(std::move(shape), directory, ScratchDisks(scratch),
                                              *found.initramfs, digest, std::move(nothing), say);
  auto no_kvm = lacks_kvm();
  if (!no_kvm && !out->works_with_kvm()) no_kvm = "a guest did not boot with it";
  if (no_kvm) {
    say("virtual machines are emulated, which is slow: no KVM, " + *no_kvm);
  } else {
    out->use_kvm();
  }
  return std::unique_ptr<Hypervisor>(std::move(out));
}

}  // namespace hm::runner::vm
