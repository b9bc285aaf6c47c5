// AdoptionCrew: threads that do groups of files while the thread that finds them goes on.
//
// Hashing is bound by the processor, adopting a small file by its system calls: both are done for
// groups of files, by about as many threads as there are processors, each with its own Adoption.
// The finding thread works, too, when the others have enough to do. One thread adds and finishes.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "store/blob_store.h"

namespace hm::store {

template <class File>
class AdoptionCrew {
 public:
  using Group = std::vector<File>;  // never empty
  // Called by any of the threads, several at once; must not throw.
  using Work = std::function<void(Adoption&, Group)>;
  struct Limits {
    unsigned least_threads, most_threads;  // the adding one counted
    std::size_t waiting_groups;            // what waits may hold a descriptor for each file
  };

  // `blobs` must outlive the crew, and so must whatever `work` uses.
  AdoptionCrew(BlobStore& blobs, Limits limits, Work work)
      : blobs_(blobs), limits_(limits), work_(std::move(work)), own_(blobs) {}
  ~AdoptionCrew() { end_threads(); }
  AdoptionCrew(const AdoptionCrew&) = delete;
  AdoptionCrew& operator=(const AdoptionCrew&) = delete;

  void add(File file, std::uint64_t size) {
    group_.push_back(std::move(file));
    group_bytes_ += size;
    if (group_.size() >= kGroupFiles || group_bytes_ >= kGroupBytes) hand_over();
  }

  // Returns when everything that was added is done.
  void finish() {
    if (!group_.empty()) work_(own_, std::exchange(group_, {}));
    while (auto group = next(Wait::kNo)) work_(own_, std::move(*group));
    end_threads();
  }

  Adoption& own() { return own_; }  // the adding thread's

 private:
  enum class Wait { kNo, kYes };
  // A group is closed when it has one or the other.
  static constexpr std::size_t kGroupFiles = 32;
  static constexpr std::uint64_t kGroupBytes = std::uint64_t{1} << 20;

  // To another thread; where there is none, or all have enough to do, it is done here.
  void hand_over() {
    Group group = std::exchange(group_, {});
    group_bytes_ = 0;
    if (threads_.empty()) start_threads();
    {
      const std::lock_guard lock(mutex_);
      if (!threads_.empty() && waiting_.size() < limits_.waiting_groups) {
        waiting_.push_back(std::exchange(group, {}));
      }
    }
    if (group.empty()) {
      wake_.notify_one();
    } else {
      work_(own_, std::move(group));
    }
  }

  void start_threads() {
    const unsigned wanted = std::clamp(std::thread::hardware_concurrency(), limits_.least_threads,
                                       limits_.most_threads);
    for (unsigned i = 1; i < wanted; ++i) {
      threads_.emplace_back([this] {
        Adoption adoption(blobs_);
        while (auto group = next(Wait::kYes)) work_(adoption, std::move(*group));
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

  BlobStore& blobs_;
  const Limits limits_;
  const Work work_;
  Adoption own_;
  Group group_;  // being filled
  std::uint64_t group_bytes_ = 0;
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // guards the next two
  std::deque<Group> waiting_;
  bool ending_ = false;
  std::condition_variable wake_;
};

}  // namespace hm::store
