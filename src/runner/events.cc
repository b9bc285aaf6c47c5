#include "runner/events.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <ctime>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "fs/entry.h"
#include "store/util/fd.h"

namespace hm::runner {

namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<std::string>& text) {
  return text ? Json(fs::printable(*text)) : Json(nullptr);
}

class JsonEvents final : public EventSink {
 public:
  explicit JsonEvents(int fd) : fd_(fd), writer_([this](const std::stop_token& s) { write(s); }) {}

  ~JsonEvents() override {
    writer_.request_stop();
    wake_.notify_all();
  }

  void build_start(const BuildInfo& build) override {
    runner_ = build.runner;
    emit({{"kind", "build_start"},
          {"run_id", build.run_id},
          {"plan",
           {{"step_count", build.steps},
            {"chain_count", build.chains},
            {"default_runner", build.runner}}},
          {"started_at", timestamp_now()}});
  }
  void step_queued(const StepInfo& step) override {
    emit({{"kind", "step_queued"},
          {"step_id", step.id},
          {"key", step.key},
          {"chain_idx", step.chain},
          {"parent_key", or_null(step.parent_key)},
          {"display_name", step.label}});
  }
  void step_cache_miss(const StepInfo& step, const std::string& reason,
                       const std::optional<std::string>& path,
                       const std::optional<std::string>& change) override {
    emit({{"kind", "step_cache_miss"},
          {"step_id", step.id},
          {"key", step.key},
          {"reason", reason},
          {"path", or_null(path)},
          {"change", or_null(change)}});
  }
  void step_start(const StepInfo& step) override {
    emit({{"kind", "step_start"},
          {"step_id", step.id},
          {"key", step.key},
          {"runner", runner_},
          {"image", step.image}});
  }
  void step_log(const StepInfo& step, Stream stream, std::string_view line) override {
    emit({{"kind", "step_log"},
          {"step_id", step.id},
          {"stream", stream == Stream::kStdout ? "stdout" : "stderr"},
          {"line", std::string(line)},
          {"ts", timestamp_now()}});
  }
  void step_cache_hit(const StepInfo& step, const std::string& tag, std::size_t) override {
    emit({{"kind", "step_cache_hit"}, {"step_id", step.id}, {"key", step.key}, {"tag", tag}});
  }
  void step_verified(const StepInfo& step, const Verification& result) override {
    Json differences = Json::array();
    for (const auto& [path, how] : result.differences) {
      differences.push_back({{"path", fs::printable("/" + path)}, {"how", how}});
    }
    emit({{"kind", "step_verified"},
          {"step_id", step.id},
          {"key", step.key},
          {"same", result.outcome == Verification::Outcome::kSame},
          {"message", result.message},
          {"differences", std::move(differences)}});
  }
  void step_skipped(const StepInfo& step, const std::string& reason,
                    const std::string& cause) override {
    emit({{"kind", "step_skipped"},
          {"step_id", step.id},
          {"key", step.key},
          {"reason", reason},
          {"cause", cause}});
  }
  void step_end(const StepInfo& step, int exit_code, std::int64_t duration_ms,
                const std::string& snapshot) override {
    emit({{"kind", "step_end"},
          {"step_id", step.id},
          {"key", step.key},
          {"exit_code", exit_code},
          {"duration_ms", duration_ms},
          {"snapshot", snapshot.empty() ? Json(nullptr) : Json(snapshot)}});
  }
  void chain_failed(const StepInfo& step, int exit_code, const std::string& message) override {
    emit({{"kind", "chain_failed"},
          {"chain_idx", step.chain},
          {"failed_step_id", step.id},
          {"failed_step_key", step.key},
          {"exit_code", exit_code},
          {"message", message},
          {"ts", timestamp_now()}});
  }
  void build_end(int exit_code, std::int64_t duration_ms) override {
    emit({{"kind", "build_end"}, {"exit_code", exit_code}, {"duration_ms", duration_ms}});
  }
  void note(const std::string& text) override { (void)write_all(2, "hm: " + text + "\n"); }

 private:
  std::string runner_ = "namespace";  // set before any step starts
  void emit(const Json& event) {
    // Bytes that are not UTF-8 become U+FFFD: every line is valid JSON.
    std::string line = event.dump(-1, ' ', false, Json::error_handler_t::replace);
    line.push_back('\n');
    const std::lock_guard lock(mutex_);
    queue_ += line;
    wake_.notify_one();
  }

  void write(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, stop, [this] { return !queue_.empty(); });
      if (queue_.empty()) return;
      const std::string chunk = std::exchange(queue_, {});
      lock.unlock();
      if (reader_left_ || !write_all(fd_, chunk)) reader_left_ = true;
      lock.lock();
    }
  }

  const int fd_;
  std::mutex mutex_;  // guards queue_
  std::condition_variable_any wake_;
  std::string queue_;
  bool reader_left_ = false;  // the writer's own
  std::jthread writer_;       // last: ends before the rest goes away
};

std::string seconds(std::int64_t milliseconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1fs", static_cast<double>(milliseconds) / 1000.0);
  return text.data();
}

class HumanEvents final : public EventSink {
 public:
  HumanEvents(int fd, LogLines lines) : fd_(fd), lines_(lines) {}

  void build_start(const BuildInfo&) override {}
  void step_queued(const StepInfo& step) override {
    const std::lock_guard lock(mutex_);
    width_ = std::max(width_, std::min<std::size_t>(step.key.size(), 30));
  }
  void step_cache_miss(const StepInfo& step, const std::string& reason,
                       const std::optional<std::string>&,
                       const std::optional<std::string>&) override {
    line(step, "runs: " + reason);
  }
  void step_start(const StepInfo& step) override {  // also of a step that is started over
    const std::lock_guard lock(mutex_);
    hit_notes_.erase(step.id);
    tails_.erase(step.id);
  }
  void step_log(const StepInfo& step, Stream, std::string_view text) override {
    const std::lock_guard lock(mutex_);
    if (lines_ == LogLines::kAll) {
      print("[" + step.key + "] " + std::string(text));
      return;
    }
    auto& tail = tails_[step.id];
    tail.emplace_back(text);
    if (tail.size() > kTail) tail.pop_front();
  }
  void step_cache_hit(const StepInfo& step, const std::string&, std::size_t observations) override {
    const std::lock_guard lock(mutex_);
    hit_notes_[step.id] = "cached (" + std::to_string(observations) + " inputs unchanged)";
  }
  void step_verified(const StepInfo& step, const Verification& result) override {
    line(step, "run again: " + result.message);
    for (const auto& [path, how] : result.differences) {
      line(step, "  " + fs::printable("/" + path) + ": " + how);
    }
  }
  void step_skipped(const StepInfo& step, const std::string& reason,
                    const std::string& cause) override {
    {
      const std::lock_guard lock(mutex_);
      ends_[step.id] = "skipped";
    }
    if (!cause.empty()) line(step, "skipped: " + reason);
  }
  void step_end(const StepInfo& step, int exit_code, std::int64_t duration_ms,
                const std::string&) override {
    std::unique_lock lock(mutex_);
    const auto hit = hit_notes_.find(step.id);
    if (hit != hit_notes_.end()) {
      const std::string text = hit->second;
      ends_[step.id] = "cached";
      lock.unlock();
      line(step, text);
      return;
    }
    ends_[step.id] = exit_code == 0 ? "ran" : "failed";
    if (exit_code != 0 && lines_ == LogLines::kFailedOnly) {
      for (const std::string& text : tails_[step.id]) print("[" + step.key + "] " + text);
    }
    tails_.erase(step.id);
    lock.unlock();
    line(step, (exit_code == 0 ? "ok in " : "exit " + std::to_string(exit_code) + " after ") +
                   seconds(duration_ms));
  }
  void chain_failed(const StepInfo& step, int, const std::string& message) override {
    line(step, "failed: " + message);
  }
  void build_end(int exit_code, std::int64_t duration_ms) override {
    if (exit_code == kMachineFailed) return;  // the error's own line says it all
    const std::lock_guard lock(mutex_);
    std::string text =
        exit_code == 0 ? "passed" : "failed (exit " + std::to_string(exit_code) + ")";
    text += " in " + seconds(duration_ms);
    const char* separator = ": ";
    for (const char* end : {"ran", "cached", "failed", "skipped"}) {
      const auto count = std::count_if(ends_.begin(), ends_.end(),
                                       [&](const auto& item) { return item.second == end; });
      if (count == 0) continue;
      text += separator + std::to_string(count) + " " + end;
      separator = ", ";
    }
    print(text);
  }
  void note(const std::string& text) override {
    const std::lock_guard lock(mutex_);
    print("hm: " + text);
  }

 private:
  static constexpr int kMachineFailed = 4;   // ExitCode::kInfrastructure
  static constexpr std::size_t kTail = 100;  // lines shown of a step that failed

  void line(const StepInfo& step, const std::string& text) {
    const std::lock_guard lock(mutex_);
    std::string key = step.key;
    if (key.size() < width_) key.append(width_ - key.size(), ' ');
    print(key + "  " + text);
  }
  void print(const std::string& text) { (void)write_all(fd_, text + "\n"); }

  const int fd_;
  const LogLines lines_;
  std::mutex mutex_;  // guards the rest and keeps lines whole
  std::size_t width_ = 0;
  std::map<std::string, std::deque<std::string>> tails_;
  std::map<std::string, std::string> hit_notes_;
  std::map<std::string, std::string> ends_;  // step id → how it ended last
};

class QuietEvents final : public EventSink {
 public:
  explicit QuietEvents(int fd) : fd_(fd) {}
  void build_start(const BuildInfo&) override {}
  void step_queued(const StepInfo&) override {}
  void step_cache_miss(const StepInfo&, const std::string&, const std::optional<std::string>&,
                       const std::optional<std::string>&) override {}
  void step_start(const StepInfo&) override {}
  void step_log(const StepInfo&, Stream, std::string_view) override {}
  void step_cache_hit(const StepInfo&, const std::string&, std::size_t) override {}
  void step_skipped(const StepInfo&, const std::string&, const std::string&) override {}
  void step_end(const StepInfo&, int, std::int64_t, const std::string&) override {}
  void chain_failed(const StepInfo&, int, const std::string&) override {}
  void build_end(int, std::int64_t) override {}
  void note(const std::string& text) override { (void)write_all(fd_, "hm: " + text + "\n"); }

 private:
  const int fd_;
};

}  // namespace

std::unique_ptr<EventSink> make_json_events(int fd) { return std::make_unique<JsonEvents>(fd); }
std::unique_ptr<EventSink> make_human_events(int fd, LogLines lines) {
  return std::make_unique<HumanEvents>(fd, lines);
}
std::unique_ptr<EventSink> make_quiet_events(int fd) { return std::make_unique<QuietEvents>(fd); }

std::string new_uuid() {
  std::array<unsigned char, 16> bytes{};
  (void)!::getrandom(bytes.data(), bytes.size(), 0);
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);  // version 4
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
    std::array<char, 3> hex{};
    std::snprintf(hex.data(), hex.size(), "%02x", bytes[i]);
    out += hex.data();
  }
  return out;
}

std::string timestamp_now() {
  const std::int64_t now = now_ns();
  const std::time_t whole = now / 1'000'000'000;
  std::tm parts{};
  ::gmtime_r(&whole, &parts);
  std::array<char, 32> date{};
  std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 8> fraction{};
  std::snprintf(fraction.data(), fraction.size(), ".%03dZ",
                static_cast<int>(now / 1'000'000 % 1000));
  return std::string(date.data()) + fraction.data();
}

}  // namespace hm::runner
