#include "runner/export.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <map>

#include "fs/capture.h"

namespace hm::runner {

namespace {

class Exporter {
 public:
  Exporter(const fs::View& view, store::Store& store) : view_(view), store_(store) {}

  Status copy(const fs::View::Node& node, const std::string& dest) {
    switch (node.entry.kind) {
      case fs::EntryKind::kFile:
        return copy_file(node, dest);
      case fs::EntryKind::kDirectory:
        return copy_directory(node, dest);
      case fs::EntryKind::kSymlink:
        if (::symlink(node.entry.target.c_str(), dest.c_str()) != 0) return fail_errno(dest);
        return set_time(node, dest);
      case fs::EntryKind::kFifo:
        if (::mkfifo(dest.c_str(), node.entry.mode) != 0) return fail_errno(dest);
        return set_time(node, dest);
      case fs::EntryKind::kSocket:
      case fs::EntryKind::kCharDevice:
      case fs::EntryKind::kBlockDevice:
        break;
    }
    return fail(ErrorCode::kInvalid, "/" + node.path + " is a device or a socket: not exported");
  }

 private:
  static Status set_time(const fs::View::Node& node, const std::string& dest) {
    const timespec time{node.mtime_ns / 1'000'000'000, node.mtime_ns % 1'000'000'000};
    const std::array<timespec, 2> times = {time, time};
    if (::utimensat(AT_FDCWD, dest.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_errno(dest);
    }
    return {};
  }

  Status copy_file(const fs::View::Node& node, const std::string& dest) {
    const std::string& group = node.entry.link_group;
    if (!group.empty()) {
      const auto [it, first] = links_.try_emplace(std::to_string(node.origin) + group, dest);
      if (!first) {
        return ::link(it->second.c_str(), dest.c_str()) == 0 ? Status{} : Status(fail_errno(dest));
      }
    }
    HM_ASSIGN(const Digest digest, view_.capture(node));
    HM_ASSIGN(const Fd out, open_file(dest, O_WRONLY | O_CREAT | O_EXCL, 0600));
    if (node.entry.size > 0) {
      HM_ASSIGN(const Fd in, store_.blobs().open_blob(digest, node.entry.size));
      HM_ASSIGN(const std::uint64_t copied, copy_bytes(in.get(), out.get()));
      if (copied != node.entry.size) {
        return fail(ErrorCode::kCorrupt, "/" + node.path + ": its blob has another size");
      }
    }
    // setuid bits do not leave the sandbox: the exported file belongs to another user.
    if (::fchmod(out.get(), node.entry.mode & 01777) != 0) return fail_errno(dest);
    return set_time(node, dest);
  }

  Status copy_directory(const fs::View::Node& node, const std::string& dest) {
    if (::mkdir(dest.c_str(), 0700) != 0) return fail_errno(dest);
    HM_ASSIGN(const fs::Listing names, view_.list(node));
    for (const fs::DirEntry& item : names) {
      HM_ASSIGN(const auto child, view_.child(node, item.name));
      if (child) HM_TRY(copy(*child, dest + "/" + item.name));
    }
    if (::chmod(dest.c_str(), node.entry.mode & 01777) != 0) return fail_errno(dest);
    return {};
  }

  const fs::View& view_;
  store::Store& store_;
  std::map<std::string, std::string> links_;  // link group → the host path made first
};

bool exists(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

}  // namespace

Status export_path(const fs::View& view, store::Store& store, const std::string& path,
                   const std::string& dest, Existing existing) {
  if (existing == Existing::kRefuse && exists(dest)) {
    return fail(ErrorCode::kInvalid, dest + " exists already: name a path that does not");
  }
  HM_ASSIGN(const auto node, view.resolve(path));
  if (!node) return fail(ErrorCode::kNotFound, "/" + path + " does not exist in the step's root");
  const std::string tmp = dest + ".hm-" + std::to_string(::getpid());
  auto status = Exporter(view, store).copy(*node, tmp);
  if (status && existing == Existing::kReplace) status = remove_tree(AT_FDCWD, dest);
  if (status && ::rename(tmp.c_str(), dest.c_str()) != 0) status = fail_errno(dest);
  if (!status) (void)remove_tree(AT_FDCWD, tmp);
  return status;
}

Result<Fd> open_directory_beneath(const std::string& root, const std::string& path) {
  HM_ASSIGN(const Fd top, open_file(root, O_PATH | O_DIRECTORY));
  auto fd =
      open_resolving(top.get(), path, O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  if (fd) return fd;
  return fail(ErrorCode::kInvalid,
              system_error(root + "/" + path, fd.error().errno_value).message +
                  " (outputs go to directories of the workspace, not through links)");
}

Result<fs::View> view_of_step(const store::RunStep& step, const fs::ViewBase& base,
                              store::Store& store) {
  std::string digests = step.chain;
  digests.append(step.layer.is_zero() ? std::string_view{} : step.layer.raw());
  std::vector<fs::ViewLayer> layers;
  for (std::size_t at = 0; at + 32 <= digests.size(); at += 32) {
    const auto digest = Digest::from_raw(std::string_view(digests).substr(at, 32));
    HM_ASSIGN(const auto times, store.layer_times(*digest));
    if (!times) return fail(ErrorCode::kNotFound, "layer " + digest->hex() + " is gone");
    HM_ASSIGN(fs::ViewLayer layer, fs::load_view_layer(*times, store.blobs()));
    layers.push_back(std::move(layer));
  }
  return fs::View(base, std::move(layers), now_ns());
}

}  // namespace hm::runner
