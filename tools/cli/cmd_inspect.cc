// hm why, trace, log, export: what the last run in this workspace left behind.
#include <algorithm>
#include <iostream>

#include "cli/cli.h"
#include "fs/entry.h"
#include "fs/trace.h"
#include "runner/export.h"
#include "runner/sources.h"
#include "runner/step_log.h"
#include "store/util/fd.h"

namespace hm::cli {

namespace {

using runner::ExitCode;

cxxopts::Options inspect_options(const char* name, const char* summary,
                                 const std::vector<std::string>& positional) {
  cxxopts::Options options(name, summary);
  auto add = options.add_options();
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  std::string help;
  for (const std::string& word : positional) {
    add(word, "", cxxopts::value<std::string>());
    help += (help.empty() ? "" : " ") + word;
  }
  options.parse_positional(positional);
  options.positional_help(help);
  return options;
}

struct LastRun {
  std::string workspace;
  std::unique_ptr<store::Store> store;
  store::RunReport report;

  static Result<LastRun> open(const std::string& dir) {
    LastRun out;
    HM_ASSIGN(out.workspace, workspace_of(dir));
    HM_ASSIGN(const std::string home, store_home());
    HM_ASSIGN(out.store, store::Store::open(home));
    HM_ASSIGN(auto report, out.store->last_run(out.workspace));
    if (!report) {
      return fail(ErrorCode::kNotFound, "no run of " + out.workspace + " is known: hm run first");
    }
    out.report = std::move(*report);
    return out;
  }

  Result<const store::RunStep*> step(const std::string& key) const {
    for (const store::RunStep& step : report.steps) {
      if (step.key == key) return &step;
    }
    std::string known;
    for (const store::RunStep& step : report.steps) known += " " + step.key;
    return fail(ErrorCode::kNotFound, "the last run had no step '" + key + "'; it had:" + known);
  }
};

// The last run, and the step that the arguments name in it.
struct OpenedStep {
  LastRun last;
  const store::RunStep* step = nullptr;  // of last.report, whose steps stay where they are

  static Result<OpenedStep> open(const cxxopts::ParseResult& args) {
    OpenedStep out;
    HM_ASSIGN(out.last, LastRun::open(args["dir"].as<std::string>()));
    HM_ASSIGN(out.step, out.last.step(args["step"].as<std::string>()));
    return out;
  }
};

// Parses; needs `step` if `wants_step`. An exit code when there is nothing more to do.
struct Parsed {
  std::optional<cxxopts::ParseResult> args;
  int exit_code = 0;
};
Parsed parse_inspect(cxxopts::Options& options, const Arguments& arguments,
                     const std::vector<std::string>& required) {
  auto parsed = parse(options, arguments);
  if (!parsed) return {std::nullopt, report(parsed.error())};
  if (!*parsed) return {std::nullopt, 0};
  for (const std::string& name : required) {
    if ((*parsed)->count(name) > 0) continue;
    complain(name + " is missing (see --help)");
    return {std::nullopt, code(ExitCode::kUsage)};
  }
  return {std::move(*parsed), 0};
}

Result<fs::Trace> trace_of(const LastRun& last, const store::RunStep& step) {
  if (step.trace.is_zero()) {
    return fail(ErrorCode::kNotFound,
                "step '" + step.key + "' did not run (" + step.outcome + "): there is no trace");
  }
  HM_ASSIGN(const std::string blob, last.store->blobs().read(step.trace));
  return fs::Trace::decode(blob);
}

int finish(const Status& status) {
  std::cout.flush();
  return status ? 0 : report(status.error());
}

Status print_why(const LastRun& last, const std::string& only) {
  if (!only.empty()) HM_TRY(last.step(only));
  std::size_t width = 0;
  for (const store::RunStep& step : last.report.steps) width = std::max(width, step.key.size());
  for (const store::RunStep& step : last.report.steps) {
    if (!only.empty() && step.key != only) continue;
    std::cout << step.key << std::string(width - step.key.size() + 2, ' ') << step.outcome << ": "
              << fs::printable(step.reason) << "\n";
  }
  return {};
}

}  // namespace

int cmd_why(const Arguments& arguments) {
  auto options = inspect_options("hm why", "Say why the steps of the last run ran", {"step"});
  const Parsed parsed = parse_inspect(options, arguments, {});
  if (!parsed.args) return parsed.exit_code;
  const auto last = LastRun::open((*parsed.args)["dir"].as<std::string>());
  if (!last) return report(last.error());
  const bool one = parsed.args->count("step") > 0;
  return finish(print_why(*last, one ? (*parsed.args)["step"].as<std::string>() : ""));
}

int cmd_trace(const Arguments& arguments) {
  auto options = inspect_options("hm trace", "Print what a step looked at", {"step"});
  const Parsed parsed = parse_inspect(options, arguments, {"step"});
  if (!parsed.args) return parsed.exit_code;
  const auto opened = OpenedStep::open(*parsed.args);
  if (!opened) return report(opened.error());
  const store::RunStep& step = *opened->step;
  const auto trace = trace_of(opened->last, step);
  if (!trace) return report(trace.error());
  for (const fs::Observation& item : trace->observations) {
    std::cout << fs::to_string(item.kind) << "\t/" << fs::printable(item.path) << "\t"
              << fs::printable(item.value) << "\n";
  }
  return finish({});
}

int cmd_log(const Arguments& arguments) {
  auto options = inspect_options("hm log", "Print what a step printed", {"step"});
  const Parsed parsed = parse_inspect(options, arguments, {"step"});
  if (!parsed.args) return parsed.exit_code;
  const auto opened = OpenedStep::open(*parsed.args);
  if (!opened) return report(opened.error());
  const store::RunStep& step = *opened->step;
  if (step.log.is_zero()) {
    complain("step '" + step.key + "' has no log (" + step.outcome + ")");
    return code(ExitCode::kUsage);
  }
  return finish(runner::replay_log(
      opened->last.store->blobs(), step.log,
      [](runner::Stream, std::string_view bytes) { (void)write_all(1, bytes); }));
}

int cmd_export(const Arguments& arguments) {
  auto options =
      inspect_options("hm export", "Copy PATH of a step's root to DEST", {"step", "path", "dest"});
  const Parsed parsed = parse_inspect(options, arguments, {"step", "path", "dest"});
  if (!parsed.args) return parsed.exit_code;
  const auto text = [&](const char* name) { return (*parsed.args)[name].as<std::string>(); };
  std::string path = text("path");
  if (!path.starts_with("/")) path = "/workspace/" + path;
  path.erase(0, path.find_first_not_of('/'));
  while (path.ends_with("/")) path.pop_back();
  if (!fs::is_valid_path(path)) {
    complain("PATH is absolute or below /workspace, without . and .., not '" + text("path") + "'");
    return code(ExitCode::kUsage);
  }
  const auto opened = OpenedStep::open(*parsed.args);
  if (!opened) return report(opened.error());
  const LastRun& last = opened->last;
  const store::RunStep& step = *opened->step;
  if (step.layer.is_zero()) {
    complain("step '" + step.key + "' left nothing (" + step.outcome + ")");
    return code(ExitCode::kUsage);
  }
  const auto mode = ::geteuid() == 0 ? runner::IdMode::kFull : runner::IdMode::kSingle;
  const auto done = [&]() -> Status {
    HM_ASSIGN(const auto sources, runner::Sources::open(last.workspace, mode, *last.store));
    HM_ASSIGN(const fs::ViewBase base, sources->base(step.image));
    HM_ASSIGN(const fs::View view, runner::view_of_step(step, base, *last.store));
    return runner::export_path(view, *last.store, path, text("dest"), runner::Existing::kRefuse);
  }();
  if (done) return 0;
  complain(done.error().message);
  const bool users_mistake =
      done.error().code == ErrorCode::kInvalid || done.error().code == ErrorCode::kNotFound;
  return code(users_mistake ? ExitCode::kUsage : ExitCode::kInfrastructure);
}

}  // namespace hm::cli
