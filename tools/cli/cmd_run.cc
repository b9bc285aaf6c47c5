// hm run: options to a Pipeline and RunOptions, then the scheduler.
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <thread>

#include "cli/cli.h"
#include "runner/graph.h"
#include "runner/ir_json.h"
#include "runner/pipeline_toml.h"
#include "runner/project.h"
#include "store/util/fd.h"

namespace hm::cli {

namespace {

using runner::ExitCode;
using Strings = std::vector<std::string>;

cxxopts::Options run_options() {
  cxxopts::Options options("hm run", "Run a pipeline of .hm/");
  options.positional_help("[PIPELINE]");
  auto add = options.add_options();
  add("pipeline", "name of the pipeline", cxxopts::value<std::string>());
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  add("file", "read this document instead (IR, or *.toml); - is IR on stdin",
      cxxopts::value<std::string>());
  add("image", "image of every step without a parent", cxxopts::value<std::string>());
  add("pull", "images that are not here: missing (pull them) or never",
      cxxopts::value<std::string>());
  add("e,env", "K=V in every step's environment", cxxopts::value<Strings>());
  add("step", "only this step and its ancestors", cxxopts::value<Strings>());
  add("rerun", "run this step even if it is cached", cxxopts::value<Strings>());
  add("verify", "run what is cached again, and say what differs");
  add("dry-run", "say what would run, and why");
  add("parallelism", "steps at once (default: cores)", cxxopts::value<int>());
  add("k,keep-going", "go on after a failure");
  add("logs", "print every step's output");
  add("format", "human or json", cxxopts::value<std::string>()->default_value("human"));
  add("no-cache", "reuse nothing; results are recorded");
  add_passthrough(add);
  add("backend", "namespace, or vm: each step in a virtual machine",
      cxxopts::value<std::string>()->default_value("namespace"));
  add("v,verbose", "print the command line of each virtual machine");
  auto harmont = options.add_options("Accepted for Harmont, without effect");
  harmont("b,branch", "", cxxopts::value<std::string>());
  harmont("m,message", "", cxxopts::value<std::string>());
  harmont("no-watch", "");
  harmont("org", "", cxxopts::value<std::string>());
  options.parse_positional({"pipeline"});
  return options;
}

Strings strings(const cxxopts::ParseResult& args, const char* name) {
  return args.count(name) > 0 ? args[name].as<Strings>() : Strings{};
}

Result<runner::Pipeline> load(const cxxopts::ParseResult& args, const std::string& workspace) {
  std::optional<std::string> name;
  if (args.count("pipeline") > 0) name = args["pipeline"].as<std::string>();
  if (args.count("file") == 0) return runner::load_pipeline(workspace, name);
  if (name) return fail(ErrorCode::kNotFound, "give a pipeline's name or --file, not both");
  const std::string file = args["file"].as<std::string>();
  auto text = file == "-" ? read_all(0) : read_file(file);
  if (!text) return fail(ErrorCode::kNotFound, text.error().message);
  auto pipeline =
      file.ends_with(".toml") ? runner::parse_toml(*text, file) : runner::parse_ir(*text, file);
  if (pipeline && pipeline->name.empty()) pipeline->name = file;
  return pipeline;
}

Status check_choices(const cxxopts::ParseResult& args) {
  const std::string format = args["format"].as<std::string>();
  if (format != "human" && format != "json") {
    return fail(ErrorCode::kNotFound, "--format is human or json, not '" + format + "'");
  }
  const std::string backend = args["backend"].as<std::string>();
  if (backend != "namespace" && backend != "vm") {
    return fail(ErrorCode::kNotFound, "--backend is namespace or vm, not '" + backend + "'");
  }
  HM_ASSIGN(const fs::PassthroughMode passthrough, passthrough_of(args));
  if (passthrough == fs::PassthroughMode::kRequire && backend == "vm") {
    return fail(ErrorCode::kNotFound,
                "--passthrough=require: steps in virtual machines have none; leave it out, or use "
                "--backend namespace");
  }
  for (const char* name : {"branch", "message", "no-watch", "org"}) {
    if (args.count(name) == 0) continue;
    complain("note: -b, -m, --no-watch and --org have no effect here");
    break;
  }
  return {};
}

Result<runner::RunOptions> options_of(const cxxopts::ParseResult& args,
                                      const std::string& workspace,
                                      const runner::Pipeline& pipeline) {
  runner::RunOptions options;
  options.workspace = workspace;
  if (args.count("image") > 0) options.image = args["image"].as<std::string>();
  HM_ASSIGN(options.env, parse_env(strings(args, "env")));
  for (const std::string& key : strings(args, "rerun")) {
    bool known = false;
    for (const runner::Step& step : pipeline.steps) known = known || step.key == key;
    if (!known) return fail(ErrorCode::kNotFound, "--rerun: there is no step '" + key + "'");
    options.rerun.insert(key);
  }
  options.verify = args.count("verify") > 0;
  if (args.count("no-cache") > 0) options.cache = runner::RunOptions::Cache::kIgnore;
  if (args.count("keep-going") > 0) {
    options.on_failure = runner::RunOptions::OnFailure::kKeepGoing;
  }
  options.parallelism = std::max(1U, std::thread::hardware_concurrency());
  if (args.count("parallelism") > 0) {
    const int wanted = args["parallelism"].as<int>();
    if (wanted < 0) return fail(ErrorCode::kNotFound, "--parallelism is 1 or more");
    options.parallelism = std::max(1U, static_cast<unsigned>(wanted));
  }
  return options;
}

// What the steps without a parent are to start from.
Strings images_of(const runner::Pipeline& pipeline, const runner::RunOptions& options) {
  Strings out;
  for (const runner::Step& step : pipeline.steps) {
    if (!step.parent) out.push_back(runner::image_name(pipeline, step, options));
  }
  return out;
}

std::unique_ptr<runner::EventSink> make_events(const cxxopts::ParseResult& args) {
  if (args["format"].as<std::string>() == "json") return runner::make_json_events(1);
  const char* ci = std::getenv("CI");
  const bool all_lines = args.count("logs") > 0 || (ci != nullptr && *ci != '\0');
  return runner::make_human_events(
      2, all_lines ? runner::LogLines::kAll : runner::LogLines::kFailedOnly);
}

Result<std::unique_ptr<runner::Backend>> make_backend(const cxxopts::ParseResult& args,
                                                      const std::string& workspace,
                                                      store::Store& store,
                                                      runner::EventSink& events) {
  if (args["backend"].as<std::string>() == "namespace") {
    HM_ASSIGN(const fs::PassthroughMode passthrough, passthrough_of(args));
    return runner::make_namespace_backend(store, passthrough);
  }
  runner::VmSettings settings;
  HM_ASSIGN(settings.options, runner::load_vm_options(workspace));
  settings.say = [&events](const std::string& line) { events.note(line); };
  settings.verbose = args.count("verbose") > 0;
  return runner::make_vm_backend(store, std::move(settings));
}

int print_plan(const std::vector<runner::Plan>& plans) {
  for (const runner::Plan& plan : plans) {
    const char* what = plan.what == runner::Plan::What::kHit    ? "cached"
                       : plan.what == runner::Plan::What::kRuns ? "would run"
                                                                : "may run";
    std::cout << plan.key << "  " << what << ": " << plan.reason << "\n";
  }
  return std::cout.flush() ? 0 : code(ExitCode::kFailed);
}

}  // namespace

int cmd_run(const Arguments& arguments) {
  cxxopts::Options options = run_options();
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const cxxopts::ParseResult& args = **parsed;
  if (const auto status = check_choices(args); !status) return report(status.error());
  const auto workspace = workspace_of(args["dir"].as<std::string>());
  if (!workspace) return report(workspace.error());
  auto pipeline = load(args, *workspace);
  if (pipeline && args.count("step") > 0) {
    pipeline = runner::restrict_to(*pipeline, strings(args, "step"));
  }
  if (!pipeline) return report(pipeline.error());
  auto run_options = options_of(args, *workspace, *pipeline);
  if (!run_options) return report(run_options.error());
  const auto pull = pull_policy(args, *workspace);
  if (!pull) return report(pull.error());

  // Namespaces first: they need a process with one thread.
  auto machine = Machine::open();
  if (!machine) return report(machine.error());
  if (args.count("dry-run") == 0) {
    const auto pulled =
        pull_missing(images_of(*pipeline, *run_options), *workspace, *pull, *machine->store);
    if (!pulled) {
      complain(pulled.error().message);
      return code(ExitCode::kInfrastructure);
    }
  }
  const StopOnSignal signals;
  const auto events = make_events(args);
  const auto backend = make_backend(args, *workspace, *machine->store, *events);
  if (!backend) return report(backend.error());
  auto run = runner::Run::create(std::move(*pipeline), std::move(*run_options), machine->id_mode,
                                 *machine->store, **backend, *events);
  if (!run) {
    complain(run.error().message);
    return code(ExitCode::kInfrastructure);
  }
  if (args.count("dry-run") > 0) {
    const auto plan = (*run)->plan();
    return plan ? print_plan(*plan) : report(plan.error());
  }
  const auto outcome = (*run)->execute(signals.token());
  if (!outcome) return report(outcome.error());
  if (outcome->error) complain(outcome->error->message);
  return code(outcome->exit_code);
}

}  // namespace hm::cli
