// hm image import|pull|ls|rm|inspect, and what other commands pull by themselves.
#include <unistd.h>

#include <array>
#include <chrono>
#include <ctime>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "cli/cli.h"
#include "fs/entry.h"
#include "image/import.h"
#include "image/pull.h"
#include "runner/sandbox.h"
#include "runner/sources.h"

namespace hm::cli {

namespace {

using cxxopts::ParseResult;
using Words = std::vector<std::string>;

// How far an import or a pull is, on stderr: one line that is written again, or none where nobody
// looks.
class ProgressLine {
 public:
  ~ProgressLine() {
    if (written_) (void)write_all(2, "\r\033[K");
  }
  void imported(std::uint64_t entries, std::uint64_t bytes) {
    if (is_time()) show(std::to_string(entries) + " entries, " + megabytes(bytes));
  }
  void fetched(std::uint64_t bytes) {
    if (is_time()) show(megabytes(bytes) + " fetched");
  }

 private:
  using Clock = std::chrono::steady_clock;
  static std::string megabytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }
  bool is_time() const {
    return is_terminal_ && Clock::now() - last_ >= std::chrono::milliseconds(100);
  }
  void show(const std::string& text) {
    last_ = Clock::now();
    written_ = true;
    (void)write_all(2, "\r\033[K" + text);
  }

  const bool is_terminal_ = ::isatty(2) == 1;
  Clock::time_point last_ = Clock::now();
  bool written_ = false;
};

std::string size_text(std::uint64_t bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << static_cast<double>(bytes) / (1 << 20) << " MiB";
  return out.str();
}

std::string time_text(std::int64_t ns) {
  const std::time_t seconds = ns / 1'000'000'000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::ostringstream out;
  out << std::put_time(&parts, "%Y-%m-%dT%H:%M:%SZ");
  return out.str();
}

// An archive that is refused is no invalid pipeline.
int refused(const Error& error) {
  if (error.code != ErrorCode::kInvalid) return report(error);
  complain(error.message);
  return code(runner::ExitCode::kFailed);
}

void print_image(const store::Image& image) {
  std::cout << image.name << "  " << image.tree.hex().substr(0, 12) << "  "
            << size_text(image.bytes) << "  " << time_text(image.imported_ns) << "\n";
}

// `line` must outlive the options.
image::ImportOptions options_showing(ProgressLine& line) {
  image::ImportOptions options;
  options.progress = [&line](std::uint64_t entries, std::uint64_t bytes) {
    line.imported(entries, bytes);
  };
  options.fetched = [&line](std::uint64_t bytes) { line.fetched(bytes); };
  return options;
}

Result<image::ImportOptions> import_options(const ParseResult& args, ProgressLine& line) {
  image::ImportOptions options = options_showing(line);
  if (args.count("max-size") > 0) {
    HM_ASSIGN(options.limits.bytes, parse_size("--max-size", args["max-size"].as<std::string>()));
  }
  return options;
}

int print_result(const Result<store::Image>& image) {
  if (!image) return refused(image.error());
  print_image(*image);
  return std::cout.flush() ? 0 : code(runner::ExitCode::kFailed);
}

int import(store::Store& store, const Words& words, const ParseResult& args) {
  std::optional<ProgressLine> line(std::in_place);
  const auto options = import_options(args, *line);
  if (!options) return report(options.error());
  const auto image = image::import_image(store, words[0], words[1], *options);
  line.reset();
  return print_result(image);
}

int pull(store::Store& store, const Words& words, const ParseResult& args) {
  std::optional<ProgressLine> line(std::in_place);
  const auto options = import_options(args, *line);
  if (!options) return report(options.error());
  const std::string name = args.count("name") > 0 ? args["name"].as<std::string>() : words[0];
  const auto image = image::pull_image(store, name, words[0], *options);
  line.reset();
  return print_result(image);
}

int list(store::Store& store, const Words&, const ParseResult&) {
  const auto images = store.images();
  if (!images) return report(images.error());
  for (const store::Image& image : *images) print_image(image);
  return std::cout.flush() ? 0 : code(runner::ExitCode::kFailed);
}

Result<store::Image> named(store::Store& store, const std::string& name) {
  HM_ASSIGN(auto image, store.image(name));
  if (!image) {
    return fail(ErrorCode::kNotFound,
                "there is no image '" + fs::printable(name) + "' (see hm image ls)");
  }
  return std::move(*image);
}

int remove(store::Store& store, const Words& words, const ParseResult&) {
  for (const std::string& word : words) {
    const auto image = named(store, word);
    if (!image) return report(image.error());
  }
  for (const std::string& word : words) {
    const auto status = store.remove_image(word);
    if (!status) return report(status.error());
  }
  return 0;
}

int inspect(store::Store& store, const Words& words, const ParseResult&) {
  const auto image = named(store, words[0]);
  if (!image) return report(image.error());
  const auto config = image::decode_config(image->config);
  if (!config) return report(config.error());
  std::cout << "name      " << image->name << "\n"
            << "tree      " << image->tree.hex() << "\n"
            << "source    " << fs::printable(image->source) << "\n"
            << "imported  " << time_text(image->imported_ns) << "\n"
            << "entries   " << image->entries << "\n"
            << "bytes     " << image->bytes << "\n";
  if (!config->platform.empty())
    std::cout << "platform  " << fs::printable(config->platform) << "\n";
  if (!config->user.empty()) std::cout << "user      " << fs::printable(config->user) << "\n";
  if (!config->working_dir.empty()) {
    std::cout << "cwd       " << fs::printable(config->working_dir) << "\n";
  }
  for (const auto& [name, value] : config->env) {
    std::cout << "env       " << fs::printable(name) << "=" << fs::printable(value) << "\n";
  }
  return std::cout.flush() ? 0 : code(runner::ExitCode::kFailed);
}

struct Action {
  const char* name;
  std::size_t fewest, most;  // words after it
  bool makes;                // an image: takes --max-size
  bool names;                // takes --name
  int (*run)(store::Store& store, const Words& words, const ParseResult& args);
  const char* usage;
};
constexpr std::size_t kAny = 1000;
constexpr std::array<Action, 5> kActions = {
    {{"import", 2, 2, true, false, import, "import NAME SRC [--max-size SIZE]"},
     {"pull", 1, 1, true, true, pull, "pull REF [--name NAME] [--max-size SIZE]"},
     {"ls", 0, 0, false, false, list, "ls"},
     {"rm", 1, kAny, false, false, remove, "rm NAME..."},
     {"inspect", 1, 1, false, false, inspect, "inspect NAME"}}};

std::string usage() {
  std::string out;
  for (const Action& action : kActions) {
    out += (out.empty() ? "" : " | ") + std::string(action.usage);
  }
  return out;
}

int run_action(const Action& action, const Words& words, const ParseResult& args) {
  if (words.size() < action.fewest || words.size() > action.most ||
      (args.count("max-size") > 0 && !action.makes) || (args.count("name") > 0 && !action.names)) {
    complain(std::string("usage: hm image ") + action.usage);
    return code(runner::ExitCode::kUsage);
  }
  const auto home = store_home();
  if (!home) return report(home.error());
  runner::apply_limits();  // a directory's tree may be deep
  const auto store = store::Store::open(*home);
  return store ? action.run(**store, words, args) : report(store.error());
}

}  // namespace

Result<runner::Pull> pull_policy(const ParseResult& args, const std::string& workspace) {
  if (args.count("pull") > 0) return runner::parse_pull(args["pull"].as<std::string>(), "--pull");
  HM_ASSIGN(const runner::Config config, runner::load_config(workspace));
  return config.pull;
}

Status pull_missing(const std::vector<std::string>& images, const std::string& workspace,
                    runner::Pull pull, store::Store& store) {
  if (pull == runner::Pull::kNever || !image::can_pull()) return {};
  for (const std::string& name : images) {
    const auto known = runner::resolve_image(name, workspace, store);
    if (known || known.error().code != ErrorCode::kNotFound || !image::is_image_name(name))
      continue;
    complain("image " + name + " is not here: pulling it");
    ProgressLine line;
    const auto image = image::pull_image(store, name, name, options_showing(line));
    if (!image) return fail(image.error());
  }
  return {};
}

int cmd_image(const Arguments& arguments) {
  cxxopts::Options options("hm image", "Import, pull, list, show or remove images");
  auto add = options.add_options();
  add("words", "", cxxopts::value<Words>());
  add("name", "pull: what it is called here (default: REF)", cxxopts::value<std::string>());
  add("max-size", "refuse what has more bytes of files (default 64G)",
      cxxopts::value<std::string>());
  options.parse_positional({"words"});
  options.positional_help(usage());
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  Words words = (*parsed)->count("words") > 0 ? (**parsed)["words"].as<Words>() : Words{};
  const std::string wanted = words.empty() ? "" : words.front();
  if (!words.empty()) words.erase(words.begin());
  for (const Action& action : kActions) {
    if (wanted == action.name) return run_action(action, words, **parsed);
  }
  complain("usage: hm image " + usage());
  return code(runner::ExitCode::kUsage);
}

}  // namespace hm::cli
