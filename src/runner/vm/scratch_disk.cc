#include "runner/vm/scratch_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "runner/vm/program.h"
#include "store/util/bytes.h"

namespace hm::runner::vm {

namespace {

constexpr off_t kBytes = off_t{64} << 30;  // what a step can write at most
constexpr off_t kMostContent = off_t{64} << 20;

Result<Fd> nameless_file(const std::string& directory) {
  std::string path = directory + "/disk-XXXXXX";
  Fd fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd || ::unlink(path.c_str()) != 0) return fail_errno(path);
  if (::ftruncate(fd.get(), kBytes) != 0) return fail_errno(path);
  return fd;
}

}  // namespace

Result<std::string> find_mke2fs() {
  if (auto path = find_program("mke2fs")) return *path;
  return fail(ErrorCode::kRefused, "mke2fs is not installed: install e2fsprogs");
}

Result<Fd> ScratchDisks::make() const {
  HM_ASSIGN(const std::string program, find_mke2fs());
  HM_ASSIGN(Fd disk, nameless_file(directory_));
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
                      "/proc/self/fd/" + std::to_string(disk.get())},
                     "/", disk.get()));
  return disk;
}

// The parts that hold data, each with its place; the rest is zeros.
Result<std::string> content_of(int disk) {
  Writer out;
  off_t total = 0;
  for (off_t at = 0; (at = ::lseek(disk, at, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(disk, at, SEEK_HOLE);
    if (end < at || (total += end - at) > kMostContent) {
      return fail(ErrorCode::kRefused, "scratch disk: more is on it than an empty filesystem");
    }
    std::string part(static_cast<std::size_t>(end - at), '\0');
    if (::pread(disk, part.data(), part.size(), at) != end - at) return fail_errno("scratch disk");
    out.number(static_cast<std::uint64_t>(at));
    out.text(part);
    at = end;
  }
  if (errno != ENXIO) return fail_errno("scratch disk");
  return out.take();
}

Result<Fd> ScratchDisks::make_from(std::string_view content) const {
  HM_ASSIGN(Fd disk, nameless_file(directory_));
  Reader in(content);
  while (in.left() > 0 && !in.failed()) {
    const auto at = static_cast<off_t>(in.number());
    const std::string_view part = in.text();
    if (::pwrite(disk.get(), part.data(), part.size(), at) != static_cast<ssize_t>(part.size())) {
      return fail_errno("scratch disk");
    }
  }
  if (in.failed()) return fail(ErrorCode::kCorrupt, "scratch disk");
  return disk;
}

}  // namespace hm::runner::vm
