#include "fs/intake.h"

#include <fcntl.h>

#include <atomic>
#include <exception>
#include <vector>

#include "fs/overlay_xattr.h"
#include "store/adoption_crew.h"

namespace hm::fs {

namespace {

// Each file that waits may hold a directory open.
constexpr std::size_t kWaitingGroups = 16;
constexpr unsigned kMostThreads = 16;

class ThreadedIntake final : public Intake {
 public:
  explicit ThreadedIntake(store::BlobStore& blobs)
      : crew_(blobs, {1, kMostThreads, kWaitingGroups},
              [this](store::Adoption& adoption, Group group) { take_in(adoption, group); }) {}

  File& add(std::shared_ptr<const Fd> dir, std::string name, std::uint64_t size) override {
    File& file = files_.emplace_back();
    file.dir = std::move(dir);
    file.name = std::move(name);
    file.size = size;
    crew_.add(&file, size);
    return file;
  }

  void finish() override { crew_.finish(); }

 private:
  using Crew = store::AdoptionCrew<File*>;
  using Group = Crew::Group;

  void take_in(store::Adoption& adoption, const Group& group) noexcept {
    try {
      if (!failed_) adopt(adoption, group);
    } catch (const std::exception& error) {  // out of memory
      group.front()->status = fail(ErrorCode::kIo, error.what());
    }
    for (File* file : group) {
      if (!file->status) failed_ = true;
      file->dir.reset();
    }
  }

  static void adopt(store::Adoption& adoption, const Group& group) {
    std::vector<Digest> digests;
    digests.reserve(group.size());
    for (File* file : group) {
      file->status = hash(adoption, *file);
      if (!file->status) return;
      digests.push_back(file->content);
    }
    File& first = *group.front();
    first.status = adoption.claim(digests);
    if (!first.status) return;
    for (File* file : group) {
      file->status = adoption.move_in(file->dir->get(), file->name, {file->content, file->size});
      if (!file->status) return;
    }
  }

  static Status hash(store::Adoption& adoption, File& file) {
    const int dir = file.dir->get();
    auto fd = open_at(dir, file.name, O_RDONLY | O_NOFOLLOW);
    // A step may have left mode 000; an owner without capabilities could not open that.
    const bool closed = !fd && fd.error().errno_value == EACCES;
    if (closed) {
      HM_ASSIGN(UpperXattrs xattrs, upper_xattrs(dir, file.name));  // chmod may change them
      file.xattrs = std::move(xattrs.kept);
      if (::fchmodat(dir, file.name.c_str(), 0400, 0) != 0) return fail_errno(file.name);
      fd = open_at(dir, file.name, O_RDONLY | O_NOFOLLOW);
    }
    if (!fd) return fail(std::move(fd).error());
    if (!closed) {
      HM_ASSIGN(UpperXattrs xattrs, upper_xattrs(fd->get()));
      file.xattrs = std::move(xattrs.kept);
    }
    HM_ASSIGN(const store::BlobInfo info, adoption.hash(*fd, file.size));
    if (info.size != file.size) return fail(ErrorCode::kIo, "changed while it was captured");
    file.content = info.digest;
    return {};
  }

  std::deque<File> files_;
  std::atomic<bool> failed_{false};
  Crew crew_;  // last: it works on the others
};

}  // namespace

std::unique_ptr<Intake> Intake::create(store::BlobStore& blobs) {
  return std::make_unique<ThreadedIntake>(blobs);
}

}  // namespace hm::fs
