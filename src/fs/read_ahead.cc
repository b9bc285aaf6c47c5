#include "fs/read_ahead.h"

#include <algorithm>

namespace hm::fs {

namespace {

constexpr std::size_t kFew = 3;    // looks that say nothing about the next
constexpr std::size_t kWalks = 4;  // directories at a time

}  // namespace

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool ReadAhead::looked_at(const View::Node& dir, std::string_view name) {
  const std::lock_guard lock(mutex_);
  Walk& walk = walk_of(dir, name);
  walk.looked += 1;
  if (wanted(walk) > walk.asked) {
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    changed_.notify_one();
  }
  const auto place = walk.places.find(name);
  if (place == walk.places.end()) return false;
  const std::size_t count = walk.entries.names.size();
  return (place->second + count - walk.begin) % count < walk.asked;
}

ReadAhead::Walk& ReadAhead::walk_of(const View::Node& dir, std::string_view name) {
  const auto known = std::find_if(walks_.begin(), walks_.end(),
                                  [&](const auto& walk) { return walk->dir.path == dir.path; });
  if (known != walks_.end()) {
    walks_.splice(walks_.begin(), walks_, known);
  } else {
    walks_.push_front(std::make_shared<Walk>());
    walks_.front()->dir = dir;
    walks_.front()->first = name;
    if (walks_.size() > kWalks) walks_.pop_back();
  }
  return *walks_.front();
}

// How many entries of it the disk should have been asked for by now.
std::size_t ReadAhead::wanted(const Walk& walk) const {
  if (walk.looked <= kFew) return 0;
  const std::size_t wanted = walk.looked + std::min(walk.looked, most_ahead_);
  return walk.listed ? std::min(wanted, walk.entries.names.size()) : wanted;
}

std::shared_ptr<ReadAhead::Walk> ReadAhead::next() {
  const auto found = std::find_if(walks_.begin(), walks_.end(),
                                  [this](const auto& walk) { return wanted(*walk) > walk->asked; });
  return found == walks_.end() ? nullptr : *found;
}

void ReadAhead::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    std::shared_ptr<Walk> walk;
    changed_.wait(lock, [&] { return finished_ || (walk = next()) != nullptr; });
    if (finished_) return;
    if (!walk->listed) {
      list(*walk, lock);
      continue;
    }
    const std::size_t place = (walk->begin + walk->asked) % walk->entries.names.size();
    walk->asked += 1;
    lock.unlock();
    walk->entries.fetch(place);
    lock.lock();
  }
}

void ReadAhead::list(Walk& walk, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  OnDisk entries = entries_(walk.dir);
  std::unordered_map<std::string_view, std::size_t> places;
  for (std::size_t i = 0; i < entries.names.size(); ++i) places.emplace(entries.names[i], i);
  lock.lock();
  walk.entries = std::move(entries);  // its names stay where they are
  walk.places = std::move(places);
  const auto first = walk.places.find(walk.first);
  walk.begin = first == walk.places.end() ? 0 : first->second;
  walk.asked = std::min(walk.looked, walk.entries.names.size());
  walk.listed = true;
}

}  // namespace hm::fs
