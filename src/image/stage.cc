#include "image/stage.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <deque>
#include <exception>
#include <mutex>

#include "store/adoption_crew.h"

namespace hm::image {

namespace {

// Each file that waits is open.
constexpr std::size_t kWaitingGroups = 8;
constexpr unsigned kLeastThreads = 2;  // unpacking waits for the disk
constexpr unsigned kMostThreads = 8;

struct Waiting {
  Stage::Id id = 0;
  Fd file;
};
using Crew = store::AdoptionCrew<Waiting>;

class ThreadedStage final : public Stage {
 public:
  ThreadedStage(store::Store& store, std::string path, Fd dir)
      : path_(std::move(path)),
        dir_(std::move(dir)),
        crew_(store.blobs(), {kLeastThreads, kMostThreads, kWaitingGroups},
              [this](store::Adoption& adoption, const Crew::Group& group) {
                take_in(adoption, group);
              }) {}

  // What the crew still works on is open.
  ~ThreadedStage() override { (void)remove_tree(AT_FDCWD, path_); }

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
    crew_.add({id, std::move(file)}, size);
    return id;
  }

  Status finish() override {
    crew_.finish();
    return status_;
  }

  const Digest& digest(Id file) const override { return files_[file].digest; }

  Status commit(const std::vector<Id>& files) override {
    constexpr std::size_t kAtOnce = 1024;
    for (std::size_t at = 0; at < files.size(); at += kAtOnce) {
      const std::size_t end = std::min(files.size(), at + kAtOnce);
      std::vector<Digest> digests;
      for (std::size_t i = at; i < end; ++i) digests.push_back(files_[files[i]].digest);
      HM_TRY(crew_.own().claim(digests));
      for (std::size_t i = at; i < end; ++i) {
        HM_TRY(crew_.own().move_in(dir_.get(), name_of(files[i]), files_[files[i]]));
      }
    }
    return {};
  }

 private:
  static std::string name_of(Id id) { return std::to_string(id); }

  void take_in(store::Adoption& adoption, const Crew::Group& group) noexcept {
    try {
      for (const Waiting& item : group) {
        auto status = hash(adoption, item);
        if (status) continue;
        const std::lock_guard lock(status_mutex_);
        if (status_) status_ = std::move(status);
      }
    } catch (const std::exception& error) {  // out of memory
      const std::lock_guard lock(status_mutex_);
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

  const std::string path_;
  const Fd dir_;
  std::mutex files_mutex_;             // guards the deque as such, while there are threads
  std::deque<store::BlobInfo> files_;  // by id
  std::mutex status_mutex_;            // guards the next
  Status status_;
  Crew crew_;  // last: it works on the others
};

}  // namespace

Result<std::unique_ptr<Stage>> Stage::create(store::Store& store) {
  const std::string path = store.scratch().fresh("image");
  if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
  HM_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  return std::unique_ptr<Stage>(std::make_unique<ThreadedStage>(store, path, std::move(dir)));
}

}  // namespace hm::image
