// Backend: runs one command on one view, once.
//
// A row of one interface: prepare(view) → run(command, env, cwd, limits) → exit code + layer. The
// `namespace` backend is overlayfs over hmfs under bubblewrap, the `vm` backend the same in a
// virtual machine. Thread-safe: steps run in parallel, each call on its own thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "fs/session.h"
#include "fs/trace.h"
#include "fs/view.h"
#include "image/config.h"
#include "runner/isolation.h"
#include "runner/pipeline.h"
#include "runner/step_log.h"
#include "runner/vm/vm_options.h"
#include "store/store.h"

namespace hm::runner {

struct Command {
  std::vector<std::string> argv;
  std::map<std::string, std::string> env;
  std::string cwd;          // below /workspace, "" = /workspace
  std::string working_dir;  // absolute, of the image: instead of /workspace where cwd is ""
  std::optional<image::UserIds> user;  // nullopt: root
  Network network = Network::kHost;
  Limits limits;
  std::optional<std::chrono::milliseconds> timeout;
  std::vector<std::string> on_change;  // observed before the command runs
  fs::LookupProfile profile;           // of the last execution; no part of what is run

  // The absolute path that it starts in.
  std::string directory() const {
    if (!cwd.empty()) return "/workspace/" + cwd;
    return working_dir.empty() ? "/workspace" : working_dir;
  }
};

// A result of a command that ended by itself with exit code 0: its layer, stored.
struct CapturedLayer {
  fs::ViewLayer layer;
  store::LayerTimes times;
};

struct Execution {
  int exit_code = 0;       // 128 + n for a signal
  bool timed_out = false;  // its own timeout; exit_code is 124 then
  bool cancelled = false;
  bool over_memory = false;  // it was killed for that; exit_code is 137 then
  std::chrono::milliseconds duration{0};
  fs::Trace trace;
  std::optional<fs::SessionFailure> failure;
  std::optional<CapturedLayer> captured;
  std::vector<std::string> warnings;
};

class Backend {
 public:
  using Output = std::function<void(Stream, std::string_view)>;
  virtual ~Backend() = default;
  // As events and --backend call it.
  virtual const char* name() const = 0;
  // The ids that a command has, given those that hm has itself: a part of the static key.
  virtual IdMode id_mode(IdMode of_hm) const { return of_hm; }
  // Whether this machine can run steps at all: asked before the first one is announced.
  virtual Status check() = 0;
  // Errors are the machine's (no /dev/fuse, no bubblewrap, …), never the command's.
  virtual Result<Execution> run(const fs::View& view, const Command& command, const Output& output,
                                const std::stop_token& stop) = 0;
};

Result<std::unique_ptr<Backend>> make_namespace_backend(store::Store& store,
                                                        fs::PassthroughMode passthrough);

struct VmSettings {
  VmOptions options;
  // Lines for people: once, that machines are emulated; what had to be tried again; with `verbose`
  // the command line of each machine. Called by any thread.
  std::function<void(const std::string&)> say;
  bool verbose = false;
  // With a guest that has nothing else to do.
  std::chrono::milliseconds patience{60'000};
  std::string init;  // a guest's init for a test; "": ours
};
// What it needs is looked for by check(), so that a run of hits needs nothing.
std::unique_ptr<Backend> make_vm_backend(store::Store& store, VmSettings settings);

// Observes the paths and globs of `on_change` below /workspace; returns one warning for each
// literal path that is missing. Globs: `*`, `?`, `[…]` within a name, `**` for any number of
// directories.
Result<std::vector<std::string>> observe_declared(fs::Session& session, const fs::View& view,
                                                  const std::vector<std::string>& patterns);

}  // namespace hm::runner
