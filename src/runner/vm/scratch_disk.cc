#include "runner/vm/scratch_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "runner/vm/program.h"

namespace hm::runner::vm {

namespace {

constexpr off_t kBytes = off_t{64} << 30;  // what a step can write at most
constexpr std::size_t kChunk = std::size_t{64} << 10;

Result<Fd> nameless_file(const std::string& directory) {
  std::string path = directory + "/disk-XXXXXX";
  Fd fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd || ::unlink(path.c_str()) != 0) return fail_errno(path);
  if (::ftruncate(fd.get(), kBytes) != 0) return fail_errno(path);
  return fd;
}

// The parts of `from` that hold data; the rest of both is zeros.
Status copy_data(int from, int to) {
  std::vector<char> buffer(kChunk);
  for (off_t at = 0; (at = ::lseek(from, at, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(from, at, SEEK_HOLE);
    while (at < end) {
      const auto size = std::min(buffer.size(), static_cast<std::size_t>(end - at));
      const ssize_t n = ::pread(from, buffer.data(), size, at);
      if (n <= 0) return fail_errno("scratch disk");
      if (::pwrite(to, buffer.data(), static_cast<std::size_t>(n), at) != n) {
        return fail_errno("scratch disk");
      }
      at += n;
    }
  }
  return errno == ENXIO ? Status() : Status(fail_errno("scratch disk"));
}

}  // namespace

Result<std::string> find_mke2fs() {
  if (auto path = find_program("mke2fs")) return *path;
  return fail(ErrorCode::kRefused, "mke2fs is not installed: install e2fsprogs");
}

Result<ScratchDisk> ScratchDisk::create(const std::string& directory) {
  HM_ASSIGN(const std::string program, find_mke2fs());
  HM_ASSIGN(Fd pattern, nameless_file(directory));
  // Without a journal and without checksums: it is read once and thrown away. The same number for
  // all, so that guests do not differ.
  HM_TRY(run_program({program,
                      "-q",
                      "-F",
                      "-t",
                      "ext4",
                      "-b",
                      "4096",
                      "-I",
                      "256",
                      "-m",
                      "0",
                      "-O",
                      "^has_journal,^resize_inode,^metadata_csum,uninit_bg,flex_bg,sparse_super2",
                      "-G",
                      "4096",
                      "-U",
                      "686d0000-0000-4000-8000-000000000000",
                      "-E",
                      "lazy_itable_init=1,nodiscard,num_backup_sb=0,"
                      "hash_seed=686d0000-0000-4000-8000-000000000000",
                      "/proc/self/fd/" + std::to_string(pattern.get())},
                     "/", pattern.get()));
  return ScratchDisk(directory, std::move(pattern));
}

Result<Fd> ScratchDisk::fresh() const {
  HM_ASSIGN(Fd fd, nameless_file(directory_));
  HM_TRY(copy_data(pattern_.get(), fd.get()));
  return fd;
}

}  // namespace hm::runner::vm
