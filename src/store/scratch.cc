#include "store/scratch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace hm::store {

namespace {

Result<std::vector<std::string>> folder_names(const std::string& path) {
  HM_ASSIGN(const Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  HM_ASSIGN(std::vector<std::string> names, names_at(dir.get()));
  std::erase_if(names, [](const std::string& name) { return name[0] == '.'; });
  return names;
}

// The caller holds the gate: nobody creates a folder meanwhile.
void sweep_dead(const std::string& root) {
  const auto names = folder_names(root);
  const auto root_fd = open_file(root, O_RDONLY | O_DIRECTORY);
  if (!names || !root_fd) return;
  for (const auto& name : *names) {
    auto lock = open_file(root + "/" + name + "/lock", O_RDWR);
    const bool gone = !lock && lock.error().errno_value == ENOENT;
    if (lock && ::flock(lock->get(), LOCK_EX | LOCK_NB) != 0) continue;  // alive
    if (lock || gone) (void)remove_tree(root_fd->get(), name);
  }
}

Result<Fd> close_gate(const std::string& home) {
  HM_ASSIGN(Fd gate, open_file(home + "/scratch.lock", O_RDWR | O_CREAT, 0600));
  if (::flock(gate.get(), LOCK_EX) != 0) return fail_errno(home);
  return gate;
}

}  // namespace

Result<Fd> Scratch::exclude_others(const std::string& home, const std::string& own) {
  const std::string root = home + "/scratch";
  HM_TRY(make_directories(root, 0700));
  HM_ASSIGN(Fd gate, close_gate(home));
  sweep_dead(root);
  HM_ASSIGN(const auto names, folder_names(root));
  for (const std::string& name : names) {
    if (root + "/" + name == own) continue;
    return fail(ErrorCode::kRefused, "another hm is using this store; try again when it is done");
  }
  return gate;
}

Result<Scratch> Scratch::open(const std::string& home) {
  const std::string root = home + "/scratch";
  HM_TRY(make_directories(root, 0700));
  HM_ASSIGN(const Fd gate, close_gate(home));
  sweep_dead(root);
  const std::string path = root + "/" + std::to_string(::getpid()) + "-" + std::to_string(now_ns());
  if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(path);
  HM_ASSIGN(Fd lock, open_file(path + "/lock", O_RDWR | O_CREAT | O_EXCL, 0600));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return fail_errno(path);
  HM_ASSIGN(auto claims, Claims::open(home, path));
  return Scratch(path, std::move(lock), std::move(claims));
}

struct Scratch::Discarded {
  std::mutex mutex;  // guards the next two
  std::deque<std::string> paths;
  bool ending = false;
  std::condition_variable wake;
  std::thread thread;  // started by the first path

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [this] { return ending || !paths.empty(); });
      if (ending) return;  // the whole folder goes
      const std::string path = std::move(paths.front());
      paths.pop_front();
      lock.unlock();
      (void)remove_tree(AT_FDCWD, path);
      lock.lock();
    }
  }

  Discarded() = default;
  Discarded(const Discarded&) = delete;
  Discarded& operator=(const Discarded&) = delete;
  ~Discarded() {
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    wake.notify_all();
    if (thread.joinable()) thread.join();
  }
};

void Scratch::discard(const std::string& path) {
  Discarded& discarded = *discarded_;
  const std::lock_guard lock(discarded.mutex);
  discarded.paths.push_back(path);
  if (!discarded.thread.joinable()) {
    discarded.thread = std::thread([&discarded] { discarded.work(); });
  }
  discarded.wake.notify_one();
}

Scratch::Scratch(std::string path, Fd lock, std::unique_ptr<Claims> claims)
    : path_(std::move(path)),
      lock_(std::move(lock)),
      claims_(std::move(claims)),
      discarded_(std::make_unique<Discarded>()) {}

Scratch::Scratch(Scratch&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      lock_(std::move(other.lock_)),
      claims_(std::move(other.claims_)),
      next_(other.next_.load()),
      discarded_(std::move(other.discarded_)) {}

Scratch::~Scratch() {
  discarded_.reset();
  if (!path_.empty()) (void)remove_tree(AT_FDCWD, path_);
}

std::string Scratch::fresh(const std::string& prefix) {
  return path_ + "/" + prefix + std::to_string(next_.fetch_add(1));
}

}  // namespace hm::store
