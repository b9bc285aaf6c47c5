#include "image/stage.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace hm::image {

namespace {

// A group is closed when it has one or the other.
constexpr std::size_t kGroupFiles = 32;
constexpr std::uint64_t kGroupBytes = std::uint64_t{1} << 20;
// Each file that waits is open.
constexpr std::size_t kWaitingGroups = 8;
constexpr unsigned kMostThreads = 8;

struct Waiting {
  Stage::Id id = 0;
  Fd file;
};
using Group = std::vector<Waiting>;

class ThreadedStage final : public Stage {
 public:
  ThreadedStage(store::Store& store, std::string path, Fd dir)
      : store_(store), path_(std::move(path)), dir_(std::move(dir)), own_(store.blobs()) {}

  ~ThreadedStage() override {
    end_threads();
    (void)remove_tree(AT_FDCWD, path_);
  }

  Result<Fd> open() override {
    // The owner can read whatever the entry's own mode is: that is not the file's.
    return open_at(dir_.get(), name_of(files_.size()), O_RDWR | O_CREAT | O_EXCL, 0600);
  }

  Id add(Fd file, std::uint64_t size) override {
    const Id id = files_.size();
    {
      const std::lock_guard lock(files_mutex_);
      files_.push_back({{}, size});
    }
    group_.push_back({id, std::move(file)});
    group_bytes_ += size;
    if (group_.size() >= kGroupFiles || group_bytes_ >= kGroupBytes) hand_over();
    return id;
  }

  Status finish() override {
    take_in(own_, std::exchange(group_, {}));
    while (auto group = next(Wait::kNo)) take_in(own_, std::move(*group));
    end_threads();
    return status_;
  }

  const Digest& digest(Id file) const override { return files_[file].digest; }

  Status commit(const std::vector<Id>& files) override {
    constexpr std::size_t kAtOnce = 1024;
    for (std::size_t at = 0; at < files.size(); at += kAtOnce) {
      const std::size_t end = std::min(files.size(), at + kAtOnce);
      std::vector<Digest> digests;
      for (std::size_t i = at; i < end; ++i) digests.push_back(files_[files[i]].digest);
      HM_TRY(own_.claim(digests));
      for (std::size_t i = at; i < end; ++i) {
        HM_TRY(own_.move_in(dir_.get(), name_of(files[i]), files_[files[i]]));
      }
    }
    return {};
  }

 private:
  enum class Wait { kNo, kYes };

  static std::string name_of(Id id) { return std::to_string(id); }

  // To another thread; where all have enough to do, it is done here.
  void hand_over() {
    Group group = std::exchange(group_, {});
    group_bytes_ = 0;
    if (threads_.empty()) start_threads();
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.size() < kWaitingGroups) waiting_.push_back(std::exchange(group, {}));
    }
    if (group.empty()) {
      wake_.notify_one();
    } else {
      take_in(own_, std::move(group));
    }
  }

  void start_threads() {
    const unsigned wanted = std::clamp(std::thread::hardware_concurrency(), 2U, kMostThreads);
    for (unsigned i = 1; i < wanted; ++i) {
      threads_.emplace_back([this] {
        store::Adoption adoption(store_.blobs());
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
    try {
      for (const Waiting& item : group) {
        auto status = hash(adoption, item);
        if (status) continue;
        const std::lock_guard lock(mutex_);
        if (status_) status_ = std::move(status);
      }
    } catch (const std::exception& error) {  // out of memory
      const std::lock_guard lock(mutex_);
      if (status_) status_ = fail(ErrorCode::kIo, error.what());
    }
  }

  Status hash(store::Adoption& adoption, const Waiting& item) {
    // A deque: the others' places stay where they are while more are added.
    store::BlobInfo& info = at(item.id);
    HM_ASSIGN(const store::BlobInfo found, adoption.hash(item.file, info.size));
    if (found.size != info.size) return fail(ErrorCode::kIo, "a scratch file changed its size");
    info.digest = found.digest;
    return {};
  }

  store::BlobInfo& at(Id id) {
    const std::lock_guard lock(files_mutex_);
    return files_[id];
  }

  store::Store& store_;
  const std::string path_;
  const Fd dir_;
  store::Adoption own_;                // the adding thread's
  std::mutex files_mutex_;             // guards the deque as such, while there are threads
  std::deque<store::BlobInfo> files_;  // by id
  Group group_;                        // being filled
  std::uint64_t group_bytes_ = 0;
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // guards the rest
  std::deque<Group> waiting_;
  bool ending_ = false;
  Status status_;
  std::condition_variable wake_;
};

}  // namespace

Result<std::unique_ptr<Stage>> Stage::create(store::Store& store) {
  const std::string path = store.scratch().fresh("image");
  if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
  HM_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  return std::unique_ptr<Stage>(std::make_unique<ThreadedStage>(store, path, std::move(dir)));
}

}  // namespace hm::image
