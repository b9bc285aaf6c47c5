// Turns: which of a server's threads reads the next request.
//
// With several threads blocked in read(2) the kernel wakes them in turn, each the one that has
// slept longest, mostly on a processor that slept too: that doubled a round trip. So one thread
// reads and answers as long as answers come at once. It passes the turn on before it does something
// long, and for a while before every answer when answers have been waiting for a disk and requests
// for answers: of a single client nobody would read a request meanwhile.
//
// There are as many threads as turns need: one at first, and another whenever a turn is passed on
// that nobody waits for.
//
// Thread-safe: every thread of the server takes, answers and takes again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace hm::fs {

class Turns {
 public:
  // `nobody_waits` is called without a lock by a thread that passes a turn on.
  explicit Turns(std::function<void()> nobody_waits = [] {})
      : nobody_waits_(std::move(nobody_waits)) {}

  // Blocks until the turn is this thread's; at once if it still is (true).
  bool take();
  // Lets another thread read; nothing if the turn is not this thread's.
  void pass();
  // Around each answer, to `asker`: the task that the kernel names in a request. `was_waiting`: the
  // request was there already when this thread, which had kept the turn, looked for one. The task
  // answered last may well have been as quick; another has waited for that answer.
  void begin_answer(std::uint32_t asker, bool was_waiting);
  void end_answer();
  // Whether answers have been waiting for a disk lately.
  bool waits_for_disk() const;

 private:
  const std::function<void()> nobody_waits_;
  std::mutex mutex_;  // guards taken_ and waiting_
  std::condition_variable passed_;
  bool taken_ = false;
  unsigned waiting_ = 0;  // threads in take
  std::atomic<std::thread::id> holder_{};
  std::atomic<std::int64_t> slow_until_ns_{0};     // on CLOCK_MONOTONIC
  std::atomic<std::int64_t> crowded_until_ns_{0};  // likewise
  std::atomic<std::uint32_t> last_asker_{0};
};

}  // namespace hm::fs
