// hm exec: one command, memoised by what it reads; its output and exit code are the command's.
#include <unistd.h>

#include <algorithm>

#include "cli/cli.h"
#include "fs/entry.h"
#include "fs/skeleton.h"
#include "runner/export.h"
#include "runner/graph.h"
#include "runner/sources.h"
#include "store/util/fd.h"

namespace hm::cli {

namespace {

using runner::ExitCode;

// The command's own bytes, as they come, on our stdout and stderr.
class PassThrough final : public runner::EventSink {
 public:
  void build_start(const runner::BuildInfo&) override {}
  void step_queued(const runner::StepInfo&) override {}
  void step_cache_miss(const runner::StepInfo&, const std::string&,
                       const std::optional<std::string>&,
                       const std::optional<std::string>&) override {}
  void step_start(const runner::StepInfo&) override {}
  void step_log(const runner::StepInfo&, runner::Stream, std::string_view) override {}
  void step_output(const runner::StepInfo&, runner::Stream stream,
                   std::string_view bytes) override {
    (void)write_all(stream == runner::Stream::kStdout ? 1 : 2, bytes);
  }
  void step_cache_hit(const runner::StepInfo&, const std::string&, std::size_t) override {}
  void step_skipped(const runner::StepInfo&, const std::string&, const std::string&) override {}
  void step_end(const runner::StepInfo&, int, std::int64_t, const std::string&) override {}
  void chain_failed(const runner::StepInfo&, int, const std::string&) override {}
  void build_end(int, std::int64_t) override {}
  void note(const std::string& text) override { complain(text); }
};

int own_failure(const Error& error) {
  complain(error.message);
  return code(ExitCode::kExecFailed);
}

struct Where {
  std::string workspace;
  std::string below;  // the caller's directory, relative to the workspace
};

Result<Where> locate(const std::string& dir) {
  HM_ASSIGN(const std::string start, directory(dir));
  Where where;
  HM_ASSIGN(where.workspace, workspace_of(dir));
  HM_ASSIGN(const std::string here, directory(""));
  // -d names the root; the command starts where the caller stands, if that is inside.
  const std::string& at = here.starts_with(where.workspace + "/") ? here : start;
  if (at.starts_with(where.workspace + "/")) where.below = at.substr(where.workspace.size() + 1);
  return where;
}

runner::Pipeline pipeline_of(const std::vector<std::string>& argv, const std::string& cwd) {
  runner::Step step;
  for (const std::string& word : argv) step.key += (step.key.empty() ? "" : " ") + word;
  step.key = runner::printable(step.key);
  step.argv = argv;
  step.cwd = cwd.empty() ? "." : cwd;
  runner::Pipeline pipeline;
  pipeline.name = "hm exec";
  pipeline.steps.push_back(std::move(step));
  return pipeline;
}

Status bring_back(const Where& where, const std::vector<std::string>& paths,
                  const runner::StepResult& result, const Machine& machine,
                  const std::string& image) {
  if (paths.empty()) return {};
  HM_ASSIGN(const auto sources,
            runner::Sources::open(where.workspace, machine.id_mode, *machine.store));
  HM_ASSIGN(const fs::ViewBase base, sources->base(image));
  std::vector<fs::ViewLayer> layers;
  if (result.layer) layers.push_back(*result.layer);
  const fs::View view(base, std::move(layers), now_ns());
  for (const std::string& path : paths) {
    HM_ASSIGN(const std::string relative, runner::workspace_path(fs::join_path(where.below, path)));
    // The parent by descriptor and without following links: nothing outside is ever replaced.
    HM_ASSIGN(const Fd parent, runner::open_directory_beneath(
                                   where.workspace, std::string(fs::parent_path(relative))));
    const std::string dest = "/proc/self/fd/" + std::to_string(parent.get()) + "/" +
                             std::string(fs::base_name(relative));
    HM_TRY(runner::export_path(view, *machine.store, fs::join_path(fs::kWorkspacePath, relative),
                               dest, runner::Existing::kReplace));
  }
  return {};
}

cxxopts::Options exec_options() {
  cxxopts::Options options("hm exec", "Run one command, cached by what it reads");
  options.custom_help("[OPTION...] -- CMD...");
  auto add = options.add_options();
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  add("image", "an image's name, host, or a directory",
      cxxopts::value<std::string>()->default_value("host"));
  add("pull", "an image that is not here: missing (pull it) or never",
      cxxopts::value<std::string>());
  add("e,env", "K=V in the command's environment", cxxopts::value<std::vector<std::string>>());
  add("o,output", "bring this path back into the workspace",
      cxxopts::value<std::vector<std::string>>());
  return options;
}

}  // namespace

int cmd_exec(const Arguments& arguments) {
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  cxxopts::Options options = exec_options();
  const auto parsed = parse(options, Arguments(arguments.begin(), dashes));
  if (!parsed) return own_failure(parsed.error());
  if (!*parsed) return 0;
  if (dashes == arguments.end() || dashes + 1 == arguments.end()) {
    return own_failure({ErrorCode::kInvalid, 0, "give the command after --: hm exec -- CMD..."});
  }
  const cxxopts::ParseResult& args = **parsed;
  const auto list = [&](const char* name) {
    return args.count(name) > 0 ? args[name].as<std::vector<std::string>>()
                                : std::vector<std::string>{};
  };
  const auto where = locate(args["dir"].as<std::string>());
  if (!where) return own_failure(where.error());
  runner::RunOptions run_options;
  run_options.workspace = where->workspace;
  run_options.image = args["image"].as<std::string>();
  auto env = parse_env(list("env"));
  if (!env) return own_failure(env.error());
  run_options.env = std::move(*env);
  const auto pull = pull_policy(args, where->workspace);
  if (!pull) return own_failure(pull.error());

  auto machine = Machine::open();
  if (!machine) return own_failure(machine.error());
  const auto pulled = pull_missing({*run_options.image}, where->workspace, *pull, *machine->store);
  if (!pulled) return own_failure(pulled.error());
  const auto image = runner::resolve_image(*run_options.image, where->workspace, *machine->store);
  if (!image) return own_failure(image.error());
  const StopOnSignal signals;
  const auto backend = runner::make_namespace_backend(*machine->store, fs::PassthroughMode::kOff);
  if (!backend) return own_failure(backend.error());
  PassThrough events;
  auto run = runner::Run::create(pipeline_of(Arguments(dashes + 1, arguments.end()), where->below),
                                 std::move(run_options), machine->id_mode, *machine->store,
                                 **backend, events);
  if (!run) return own_failure(run.error());
  const auto outcome = (*run)->execute(signals.token());
  if (!outcome) return own_failure(outcome.error());
  if (outcome->error) return own_failure(*outcome->error);
  if (outcome->exit_code == ExitCode::kCancelled) return code(ExitCode::kCancelled);
  const runner::StepResult& result = outcome->steps.front();
  if (outcome->exit_code != ExitCode::kPassed && result.exit_code == 0) {
    return code(ExitCode::kExecFailed);  // said already: the workspace kept changing
  }
  if (result.exit_code != 0) return result.exit_code;
  const auto brought = bring_back(*where, list("output"), result, *machine, image->id);
  return brought ? 0 : own_failure(brought.error());
}

}  // namespace hm::cli
