#include "store/blob_walk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/util/fd.h"

namespace hm::store {

namespace {

bool is_shard(const std::string& name) {
  return name.size() == 2 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

Status walk_blobs(const std::string& root, const std::function<Status(const FoundBlob&)>& visit) {
  const auto top = open_file(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!top && top.error().errno_value == ENOENT) return {};
  if (!top) return fail(top.error());
  HM_ASSIGN(const auto shards, names_at(top->get()));
  for (const std::string& shard : shards) {
    const auto dir = open_at(top->get(), shard, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!is_shard(shard) || !dir) {
      HM_TRY(visit({top->get(), shard, shard, std::nullopt}));
      continue;
    }
    HM_ASSIGN(const auto names, names_at(dir->get()));
    for (const std::string& name : names) {
      auto digest = Digest::from_hex(name);
      if (digest && !name.starts_with(shard)) digest.reset();
      HM_TRY(visit({dir->get(), name, shard + "/" + name, digest}));
    }
  }
  return {};
}

Result<Swept> sweep_blobs(const std::string& root, const std::function<bool(const Digest&)>& keep) {
  Swept swept;
  HM_TRY(walk_blobs(root, [&](const FoundBlob& found) -> Status {
    if (!found.digest || keep(*found.digest)) return {};
    struct stat st {};
    if (::fstatat(found.dir_fd, found.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return {};
    if (::unlinkat(found.dir_fd, found.name.c_str(), 0) != 0) return {};
    swept.blobs += 1;
    swept.bytes += static_cast<std::uint64_t>(st.st_size);
    return {};
  }));
  return swept;
}

}  // namespace hm::store
