#include "runner/vm/saved_guest.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "runner/vm/kernel.h"
#include "runner/vm/scratch_disk.h"
#include "store/util/bytes.h"

namespace hm::runner::vm {

namespace {

constexpr const char* kPrefix = "guest-";
constexpr std::int64_t kUnusedForNs = std::int64_t{30} * 24 * 3600 * 1'000'000'000;

std::string processor() {
  std::string out;
  const std::string all = read_file("/proc/cpuinfo").value_or("");
  for (const char* field : {"model name", "microcode", "flags"}) {
    const std::size_t at = all.find(field);
    if (at != std::string::npos) out += all.substr(at, all.find('\n', at) - at) + "\n";
  }
  return out;
}

off_t memory_of(const MachineShape& shape) { return static_cast<off_t>(shape.memory_mib) << 20; }

// QEMU's monitor protocol: one JSON object a line, answers by "return" or "error", events between.
class Monitor {
 public:
  Monitor(Fd socket, Clock::time_point until) : socket_(std::move(socket)), until_(until) {}

  Status save_to(int file) {
    HM_TRY(ask(monitor_command("qmp_capabilities")));
    HM_TRY(ask(leave_out_shared_memory()));
    HM_TRY(ask(monitor_command("getfd", R"({"fdname":"state"})"), file));
    HM_TRY(ask(monitor_command("migrate-set-parameters", R"({"max-bandwidth":17179869184})")));
    HM_TRY(ask(monitor_command("migrate", R"({"uri":"fd:state"})")));
    while (Clock::now() < until_) {
      HM_ASSIGN(const nlohmann::json answer, ask(monitor_command("query-migrate")));
      const std::string state = answer.value("status", "");
      if (state == "completed") return {};
      if (state == "failed" || state == "cancelled") {
        return fail(ErrorCode::kRefused, "QEMU did not save the virtual machine: " +
                                             answer.value("error-desc", "it does not say why"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return fail(ErrorCode::kRefused, "QEMU did not save the virtual machine in time");
  }

 private:
  Result<nlohmann::json> ask(const std::string& command, int fd = -1) {
    HM_TRY(send(command, fd));
    while (true) {
      HM_ASSIGN(const std::string line, next_line());
      auto answer = nlohmann::json::parse(line, nullptr, false);
      if (!answer.is_object()) break;
      if (answer.contains("error")) return fail(ErrorCode::kRefused, "QEMU refuses: " + line);
      if (answer.contains("return")) return std::move(answer["return"]);
    }
    return fail(ErrorCode::kRefused, "QEMU's monitor says something else than JSON");
  }

  Status send(const std::string& text, int fd) const {
    iovec part{const_cast<char*>(text.data()), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    if (fd >= 0) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    return n == static_cast<ssize_t>(text.size()) ? Status() : Status(fail_errno("monitor"));
  }

  Result<std::string> next_line() {
    while (true) {
      if (const std::size_t end = input_.find('\n'); end != std::string::npos) {
        std::string line = input_.substr(0, end);
        input_.erase(0, end + 1);
        return line;
      }
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until_ - Clock::now());
      pollfd item{socket_.get(), POLLIN, 0};
      if (left.count() <= 0 || ::poll(&item, 1, static_cast<int>(left.count())) <= 0) break;
      std::array<char, 4096> buffer{};
      const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
      if (n <= 0) break;
      input_.append(buffer.data(), static_cast<std::size_t>(n));
    }
    return fail(ErrorCode::kRefused, "QEMU's monitor does not answer");
  }

  Fd socket_;
  const Clock::time_point until_;
  std::string input_;
};

Status boot_and_save(MachineParts& parts, int file, std::chrono::milliseconds patience, int wake) {
  const off_t memory = memory_of(parts.shape);
  if (::ftruncate(file, memory) != 0 || ::lseek(file, memory, SEEK_SET) != memory) {
    return fail_errno("saved virtual machine");
  }
  parts.state = file;
  HM_ASSIGN(Machine machine, Machine::start(parts, QemuUse::kSave));
  HM_TRY(machine.wait_ready(Clock::now() + patience, wake, QemuUse::kSave));
  return Monitor(machine.take_monitor(), Clock::now() + patience).save_to(file);
}

// Behind all else.
Status append_disk(int file, int disk) {
  HM_ASSIGN(const std::string content, content_of(disk));
  Writer size;
  size.number(content.size());
  if (::lseek(file, 0, SEEK_END) < 0) return fail_errno("saved virtual machine");
  HM_TRY(write_all(file, content));
  return write_all(file, size.take());
}

Result<std::string> read_part(int file, off_t at, std::size_t size) {
  std::string out(size, '\0');
  if (::pread(file, out.data(), size, at) != static_cast<ssize_t>(size)) {
    return fail(ErrorCode::kCorrupt, "saved virtual machine");
  }
  return out;
}

// `memory`: where that ends.
Result<std::string> read_disk(int file, off_t memory) {
  const off_t end = ::lseek(file, 0, SEEK_END) - static_cast<off_t>(sizeof(std::uint64_t));
  HM_ASSIGN(const std::string last, read_part(file, end, sizeof(std::uint64_t)));
  const std::uint64_t size = Reader(last).number();
  if (end < memory || size > static_cast<std::uint64_t>(end - memory)) {
    return fail(ErrorCode::kCorrupt, "saved virtual machine");
  }
  return read_part(file, end - static_cast<off_t>(size), size);
}

// Those of an earlier kernel or hm.
void remove_unused(int directory, const std::string& kept) {
  const auto names = names_at(directory);
  if (!names) return;
  for (const std::string& name : *names) {
    struct stat st {};
    if (!name.starts_with(kPrefix) || name == kept) continue;
    if (::fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (now_ns() - to_ns(st.st_mtim) > kUnusedForNs) ::unlinkat(directory, name.c_str(), 0);
  }
}

}  // namespace

Result<std::string> saved_guest_name(const MachineShape& shape, const Digest& initramfs) {
  Hasher hasher;
  for (const std::string& path : {shape.qemu, shape.kernel}) {
    HM_ASSIGN(const std::string identity, identity_of(path));
    hasher.field(identity);
  }
  for (const std::string& argument : qemu_arguments(shape, QemuUse::kRestore))
    hasher.field(argument);
  hasher.field(initramfs.hex());
  if (shape.kvm) hasher.field(processor());
  return kPrefix + hasher.finish().hex().substr(0, 32);
}

std::optional<SavedGuest> open_saved_guest(const std::string& directory, const std::string& name,
                                           const MachineShape& shape) {
  auto file = open_file(directory + "/" + name, O_RDONLY);
  if (!file) return std::nullopt;
  auto disk = read_disk(file->get(), memory_of(shape));
  if (!disk || ::lseek(file->get(), memory_of(shape), SEEK_SET) < 0) return std::nullopt;
  ::futimens(file->get(), nullptr);  // it is in use
  return SavedGuest{std::move(*file), std::move(*disk)};
}

void drop_saved_guest(const std::string& directory, const std::string& name) {
  ::unlink((directory + "/" + name).c_str());
}

Status save_guest(const std::string& directory, const std::string& name, MachineParts parts,
                  std::chrono::milliseconds patience, int wake) {
  HM_ASSIGN(const Fd lock, open_file(directory + "/lock", O_RDWR | O_CREAT, 0600));
  if (::flock(lock.get(), LOCK_EX) != 0) return fail_errno(directory);
  if (open_saved_guest(directory, name, parts.shape)) return {};
  HM_ASSIGN(const Fd folder, open_file(directory, O_RDONLY | O_DIRECTORY));
  remove_unused(folder.get(), name);
  HM_ASSIGN(const Fd file, open_at(folder.get(), ".", O_RDWR | O_TMPFILE, 0600));
  HM_TRY(boot_and_save(parts, file.get(), patience, wake));
  HM_TRY(append_disk(file.get(), parts.scratch));
  if (::fdatasync(file.get()) != 0) return fail_errno(name);  // a part of a memory must not be used
  drop_saved_guest(directory, name);                          // one that cannot be read
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  if (::linkat(AT_FDCWD, path.c_str(), folder.get(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return fail_errno(name);
  }
  return {};
}

}  // namespace hm::runner::vm
