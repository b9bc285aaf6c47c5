#include "cli/cli.h"

#include <grp.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <set>

#include "runner/project.h"
#include "runner/sandbox.h"
#include "store/util/fd.h"

namespace hm::cli {

void set_up_process() {
  ::umask(022);
  // What our caller left open must not reach a step: it would be an input that nobody records.
  ::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
  const char* level = std::getenv("HM_LOG");
  spdlog::set_default_logger(spdlog::stderr_logger_mt("hm"));
  spdlog::set_level(level != nullptr ? spdlog::level::from_str(level) : spdlog::level::off);
}

int code(runner::ExitCode exit_code) { return static_cast<int>(exit_code); }

void complain(const std::string& message) { (void)write_all(2, "hm: " + message + "\n"); }

int report(const Error& error) {
  complain(error.message);
  switch (error.code) {
    case ErrorCode::kNotFound:
      return code(runner::ExitCode::kUsage);
    case ErrorCode::kInvalid:
      return code(runner::ExitCode::kInvalidPipeline);
    case ErrorCode::kCancelled:
      return code(runner::ExitCode::kCancelled);
    case ErrorCode::kIo:
    case ErrorCode::kCorrupt:
    case ErrorCode::kRefused:
    case ErrorCode::kChanged:
      break;
  }
  return code(runner::ExitCode::kInfrastructure);
}

namespace {

// The options that take a value, as they are written.
std::set<std::string> options_with_value(const cxxopts::Options& options) {
  std::set<std::string> out;
  for (const std::string& group : options.groups()) {
    for (const cxxopts::HelpOptionDetails& option : options.group_help(group).options) {
      if (option.is_boolean) continue;
      out.insert("-" + option.s);
      for (const std::string& name : option.l) out.insert("--" + name);
    }
  }
  return out;
}

// Without regular expressions (meson.build) cxxopts knows a value right behind its option's letter
// only by letters and digits: `-eK=V` becomes `-e K=V`.
Arguments with_values_apart(const cxxopts::Options& options, const Arguments& arguments) {
  const std::set<std::string> valued = options_with_value(options);
  Arguments out;
  bool is_value = false, only_operands = false;
  for (const std::string& argument : arguments) {
    const bool is_option = !is_value && !only_operands && argument.starts_with('-');
    only_operands = only_operands || (is_option && argument == "--");
    std::size_t letter = argument.size();  // that takes a value
    if (is_option && !argument.starts_with("--")) {
      for (letter = 1; letter < argument.size(); ++letter) {
        if (valued.contains({'-', argument[letter]})) break;
      }
    }
    is_value = is_option && (letter + 1 == argument.size() || valued.contains(argument));
    out.push_back(argument.substr(0, letter + 1));
    if (letter + 1 < argument.size()) out.push_back(argument.substr(letter + 1));
  }
  return out;
}

}  // namespace

Result<std::optional<cxxopts::ParseResult>> parse(cxxopts::Options& options,
                                                  const Arguments& arguments) {
  options.add_options()("h,help", "print this help");
  std::vector<const char*> argv = {"hm"};
  const Arguments apart = with_values_apart(options, arguments);
  for (const std::string& argument : apart) argv.push_back(argument.c_str());
  try {
    auto parsed = options.parse(static_cast<int>(argv.size()), argv.data());
    if (parsed.count("help") > 0) {
      std::cout << options.help() << std::flush;
      return std::optional<cxxopts::ParseResult>{};
    }
    if (!parsed.unmatched().empty()) {
      return fail(ErrorCode::kNotFound,
                  "unexpected argument '" + parsed.unmatched().front() + "' (see --help)");
    }
    return std::optional(std::move(parsed));
  } catch (const cxxopts::exceptions::exception& error) {
    return fail(ErrorCode::kNotFound, std::string(error.what()) + " (see --help)");
  }
}

Result<std::string> store_home() {
  const auto env = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  std::string home = env("HM_HOME");
  if (home.empty() && !env("XDG_DATA_HOME").empty()) home = env("XDG_DATA_HOME") + "/hm";
  if (home.empty() && !env("HOME").empty()) home = env("HOME") + "/.local/share/hm";
  if (home.empty()) {
    return fail(ErrorCode::kRefused, "neither HM_HOME nor HOME is set: set HM_HOME");
  }
  if (home[0] != '/') {
    HM_ASSIGN(const std::string here, directory(""));
    home = here + "/" + home;
  }
  return home;
}

Result<std::string> directory(const std::string& dir) {
  char* resolved = ::realpath(dir.empty() ? "." : dir.c_str(), nullptr);
  if (resolved == nullptr) {
    return fail(ErrorCode::kNotFound, system_error(dir.empty() ? "." : dir).message);
  }
  std::string path = resolved;
  std::free(resolved);  // NOLINT: allocated by realpath with malloc
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) {
    return fail(ErrorCode::kNotFound, dir + " is not a directory");
  }
  return path;
}

Result<std::string> workspace_of(const std::string& dir) {
  HM_ASSIGN(const std::string start, directory(dir));
  HM_ASSIGN(const auto root, runner::find_root(start));
  return root.value_or(start);
}

namespace {
sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}
}  // namespace

void block_stop_signals() {
  const sigset_t set = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

namespace {
// Root of a user namespace may write whatever its user owns, read-only or not: ask as the user.
Status check_writable(const std::string& home) {
  const auto refused = [&](const Error& error) {
    return fail(ErrorCode::kRefused, "cannot use the store " + home + ": " + error.message +
                                         " (set HM_HOME to a folder that can be written)");
  };
  if (const auto made = make_directories(home, 0700); !made) return refused(made.error());
  for (const std::string& path : {home, home + "/hm.db", home + "/blobs"}) {
    if (::access(path.c_str(), W_OK) != 0 && errno != ENOENT) return refused(system_error(path));
  }
  return {};
}
}  // namespace

void add_passthrough(cxxopts::OptionAdder& add) {
  add("passthrough", "auto, off or require: the kernel reads large files itself",
      cxxopts::value<std::string>()->default_value("off"));
}

Result<fs::PassthroughMode> passthrough_of(const cxxopts::ParseResult& args) {
  const std::string text = args["passthrough"].as<std::string>();
  if (const auto mode = fs::parse_passthrough(text)) return *mode;
  return fail(ErrorCode::kNotFound, "--passthrough is auto, off or require, not '" + text + "'");
}

Result<Machine> Machine::open() {
  HM_ASSIGN(const std::string home, store_home());
  HM_TRY(check_writable(home));
  runner::apply_limits();
  Machine machine;
  HM_ASSIGN(machine.id_mode, runner::enter_private_namespaces());
  if (machine.id_mode != runner::IdMode::kSingle) (void)::setgroups(0, nullptr);
  // The store starts a thread, which inherits this mask: only StopOnSignal takes these signals.
  block_stop_signals();
  HM_ASSIGN(machine.store, store::Store::open(home));
  return machine;
}

StopOnSignal::StopOnSignal() {
  ::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = stop_signals();
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  over_ = Fd(::eventfd(0, EFD_CLOEXEC));
  watcher_ = std::thread([this] {
    std::array<pollfd, 2> fds = {{{signals_.get(), POLLIN, 0}, {over_.get(), POLLIN, 0}}};
    while (fds[1].revents == 0) {
      if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
      signalfd_siginfo info{};
      if (::read(signals_.get(), &info, sizeof info) == sizeof info) source_.request_stop();
    }
  });
}

StopOnSignal::~StopOnSignal() {
  const std::uint64_t one = 1;
  (void)!::write(over_.get(), &one, sizeof one);
  watcher_.join();
}

Result<std::uint64_t> parse_size(const std::string& flag, const std::string& text) {
  const auto refuse = [&] {
    return fail(ErrorCode::kNotFound,
                flag + " is a number of bytes, or like 500M or 10G, not '" + text + "'");
  };
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || end - rest > 1) return refuse();
  if (rest == end) return number;
  const std::size_t unit = std::string_view("KMGT").find(*rest);
  if (unit == std::string_view::npos) return refuse();
  const std::size_t shift = 10 * (unit + 1);
  if (number > (~std::uint64_t{0} >> shift)) return refuse();
  return number << shift;
}

Result<std::map<std::string, std::string>> parse_env(const std::vector<std::string>& pairs) {
  std::map<std::string, std::string> env;
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(ErrorCode::kNotFound, "-e wants NAME=VALUE, not '" + pair + "'");
    }
    env[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return env;
}

}  // namespace hm::cli
