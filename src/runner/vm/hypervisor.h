// Hypervisor: all that virtual machines need of this one, found once, and the machines it starts.
//
// QEMU, a kernel with its modules, our init in an initramfs, KVM or emulation, empty disks, and
// guests booted before. At most as many machines run at once as there are processors. Thread-safe;
// a machine belongs to the thread that asked for it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "runner/vm/machine.h"
#include "runner/vm/scratch_disk.h"
#include "runner/vm/vm_options.h"

namespace hm::runner::vm {

// One thing that is needed, or good to have.
struct Requirement {
  std::string name;
  bool met = false;
  bool needed = true;
  std::string text;  // what there is, or what to do

  std::string line() const;
};

// The folder for kernels and saved guests in a store's home.
std::string vm_directory(const std::string& store_home);

// All of them, looked at now. Nothing is started.
std::vector<Requirement> requirements(const VmOptions& options, const std::string& store_home);

class Hypervisor {
 public:
  using Say = std::function<void(const std::string&)>;

  // kRefused: the line of the first requirement that is not met. `init`: the guest's, or a test's
  // in its place. Unnamed disks are made in `scratch`. `say` takes lines for people.
  static Result<std::unique_ptr<Hypervisor>> open(const VmOptions& options,
                                                  const std::string& store_home,
                                                  const std::string& scratch, std::string_view init,
                                                  Say say);
  virtual ~Hypervisor() = default;

  // One of the places for a machine that runs, given back with the object.
  class Place {
   public:
    explicit Place(Hypervisor& owner) : owner_(&owner) {}
    Place(Place&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    Place& operator=(Place&&) = delete;
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() {
      if (owner_ != nullptr) owner_->give_back();
    }

   private:
    Hypervisor* owner_;
  };
  // Waits for one; nothing when `stop` is requested.
  virtual std::optional<Place> take_place(const std::stop_token& stop) = 0;

  struct Started {
    Machine machine;
    QemuUse use;  // how: cold, or from a guest booted before
    Clock::time_point until;
  };
  // Does not wait for the guest: wait_ready(until, …, use) does. `cold`: without a saved guest.
  // `wake` as in Machine; it interrupts the making of a saved guest.
  virtual Result<Started> start(bool network, bool cold, int wake) = 0;
  // The saved guest of the last start did not come to life.
  virtual void forget_saved(bool network) = 0;
  // The command line of such a start.
  virtual std::vector<std::string> command_line(const Started& started, bool network) = 0;

 private:
  friend class Place;
  virtual void give_back() = 0;
};

}  // namespace hm::runner::vm
