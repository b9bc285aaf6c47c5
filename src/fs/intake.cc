#include "fs/intake.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/overlay_xattr.h"

namespace hm::fs {

namespace {

// A group is closed when it has one or the other.
constexpr std::size_t kGroupFiles = 32;
constexpr std::uint64_t kGroupBytes = std::uint64_t{1} << 20;
// Each file that waits may hold a directory open.
constexpr std::size_t kWaitingGroups = 16;
constexpr unsigned kMostThreads = 16;

using Group = std::vector<Intake::File*>;

class ThreadedIntake final : public Intake {
 public:
  explicit ThreadedIntake(store::BlobStore& blobs) : blobs_(blobs), own_(blobs) {}

  ~ThreadedIntake() override { end_threads(); }

  File& add(std::shared_ptr<const Fd> dir, std::string name, std::uint64_t size) override {
    File& file = files_.emplace_back();
    file.dir = std::move(dir);
    file.name = std::move(name);
    file.size = size;
    group_.push_back(&file);
    group_bytes_ += size;
    if (group_.size() >= kGroupFiles || group_bytes_ >= kGroupBytes) hand_over();
    return file;
  }

  void finish() override {
    take_in(own_, std::exchange(group_, {}));
    while (auto group = next(Wait::kNo)) take_in(own_, std::move(*group));
    end_threads();
  }

 private:
  enum class Wait { kNo, kYes };

  // To another thread; where there is none, or all have enough to do, it is done here.
  void hand_over() {
    Group group = std::exchange(group_, {});
    group_bytes_ = 0;
    if (threads_.empty()) start_threads();
    {
      const std::lock_guard lock(mutex_);
      if (!threads_.empty() && waiting_.size() < kWaitingGroups) {
        waiting_.push_back(std::exchange(group, {}));
      }
    }
    if (group.empty()) {
      wake_.notify_one();
    } else {
      take_in(own_, std::move(group));
    }
  }

  void start_threads() {
    const unsigned wanted = std::min(std::thread::hardware_concurrency(), kMostThreads);
    for (unsigned i = 1; i < wanted; ++i) {  // this thread works, too
      threads_.emplace_back([this] {
        store::Adoption adoption(blobs_);
        while (auto group = next(Wait::kYes)) take_in(adoption, std::move(*group));
      });
    }
  }

  void end_threads() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  std::optional<Group> next(Wait wait) {
    std::unique_lock lock(mutex_);
    if (wait == Wait::kYes) wake_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return std::nullopt;
    Group group = std::move(waiting_.front());
    waiting_.pop_front();
    return group;
  }

  void take_in(store::Adoption& adoption, Group group) noexcept {
    if (group.empty()) return;
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

  store::BlobStore& blobs_;
  store::Adoption own_;  // the adding thread's
  std::deque<File> files_;
  Group group_;  // being filled
  std::uint64_t group_bytes_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<bool> failed_{false};

  std::mutex mutex_;  // guards the next two
  std::deque<Group> waiting_;
  bool ending_ = false;
  std::condition_variable wake_;
};

}  // namespace

std::unique_ptr<Intake> Intake::create(store::BlobStore& blobs) {
  return std::make_unique<ThreadedIntake>(blobs);
}

}  // namespace hm::fs
