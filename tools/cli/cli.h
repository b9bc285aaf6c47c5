// What the commands of hm share: options, the workspace, the store, signals, and messages.
//
// A command is a row of the table in hm.cc and a function from its arguments to an exit code. It
// prints one clear line for each mistake: "hm: what is wrong, and what to do".
#pragma once

#include <cxxopts.hpp>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "fs/passthrough.h"
#include "runner/config.h"
#include "runner/isolation.h"
#include "runner/scheduler.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::cli {

using Arguments = std::vector<std::string>;  // without the program's and the command's name

struct Verb {
  const char* name;
  const char* summary;
  int (*run)(const Arguments& arguments);
};

// The commands; cmd_*.cc.
int cmd_run(const Arguments& arguments);
int cmd_exec(const Arguments& arguments);
int cmd_why(const Arguments& arguments);
int cmd_trace(const Arguments& arguments);
int cmd_log(const Arguments& arguments);
int cmd_export(const Arguments& arguments);
int cmd_render(const Arguments& arguments);
int cmd_pipelines(const Arguments& arguments);
int cmd_cache(const Arguments& arguments);
int cmd_vm(const Arguments& arguments);
int cmd_image(const Arguments& arguments);

// First thing in main: umask, inherited descriptors, and diagnostics for developers on stderr at
// the level that HM_LOG names (debug, info, …; default off).
void set_up_process();

int code(runner::ExitCode exit_code);
// Prints "hm: message" on stderr.
void complain(const std::string& message);
// Prints the error and returns the exit code of its kind.
int report(const Error& error);

// Parses and turns cxxopts' exceptions into an error. `--help` prints and yields nullopt.
Result<std::optional<cxxopts::ParseResult>> parse(cxxopts::Options& options,
                                                  const Arguments& arguments);

// $HM_HOME, $XDG_DATA_HOME/hm, or ~/.local/share/hm; absolute.
Result<std::string> store_home();
// `dir` ("" = here) made absolute and free of symlinks; kInvalid unless it is a directory.
Result<std::string> directory(const std::string& dir);
// The project that `dir` is in: the directory with `.hm`, or `dir` itself where there is none.
Result<std::string> workspace_of(const std::string& dir);

// The option --passthrough: one of auto, off and require.
void add_passthrough(cxxopts::OptionAdder& add);
Result<fs::PassthroughMode> passthrough_of(const cxxopts::ParseResult& args);

// Private namespaces, then the store: what executing needs. One thread must be running.
struct Machine {
  runner::IdMode id_mode = runner::IdMode::kFull;
  std::unique_ptr<store::Store> store;
  static Result<Machine> open();
};

// Pulls those of the images that are not known and could be a registry's, as far as `pull` and this
// machine allow. What is still unknown afterwards is nobody's error yet.
Status pull_missing(const std::vector<std::string>& images, const std::string& workspace,
                    runner::Pull pull, store::Store& store);
// The flag --pull, else what the configuration says.
Result<runner::Pull> pull_policy(const cxxopts::ParseResult& args, const std::string& workspace);

// Blocks SIGINT, SIGTERM and SIGHUP for this thread and those it starts: before the first one.
void block_stop_signals();

// Requests a stop on those signals, once they are blocked (Machine::open has done it).
class StopOnSignal {
 public:
  StopOnSignal();
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  Fd signals_, over_;
  std::thread watcher_;
};

// 10G, 500M, 0, 4096: bytes. kNotFound, naming the flag, for anything else.
Result<std::uint64_t> parse_size(const std::string& flag, const std::string& text);

// "NAME=VALUE" pairs; kInvalid, naming the flag, for anything else.
Result<std::map<std::string, std::string>> parse_env(const std::vector<std::string>& pairs);

}  // namespace hm::cli
