// hm render and hm pipelines: documents in, IR and names out. Neither needs the store.
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "runner/ir_json.h"
#include "runner/project.h"

namespace hm::cli {

int cmd_render(const Arguments& arguments) {
  cxxopts::Options options("hm render", "Print a pipeline as IR");
  auto add = options.add_options();
  add("pipeline", "name of the pipeline", cxxopts::value<std::string>());
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  options.parse_positional({"pipeline"});
  options.positional_help("[PIPELINE]");
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const auto workspace = workspace_of((**parsed)["dir"].as<std::string>());
  if (!workspace) return report(workspace.error());
  if (runner::has_python_pipelines(*workspace)) {
    complain("note: .hm/*.py is Harmont's own and not read here; render it there and use the JSON");
  }
  std::optional<std::string> name;
  if ((*parsed)->count("pipeline") > 0) name = (**parsed)["pipeline"].as<std::string>();
  const auto pipeline = runner::load_pipeline(*workspace, name);
  if (!pipeline) return report(pipeline.error());
  std::cout << runner::to_ir(*pipeline) << std::flush;
  return 0;
}

int cmd_pipelines(const Arguments& arguments) {
  cxxopts::Options options("hm pipelines", "List the pipelines of this project");
  auto add = options.add_options();
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  add("format", "human or json", cxxopts::value<std::string>()->default_value("json"));
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const auto workspace = workspace_of((**parsed)["dir"].as<std::string>());
  if (!workspace) return report(workspace.error());
  const auto files = runner::list_pipelines(*workspace);
  if (!files) return report(files.error());
  const bool json = (**parsed)["format"].as<std::string>() == "json";
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  int worst = 0;
  for (const runner::PipelineFile& file : *files) {
    if (!json) {
      std::cout << file.name << "\n";
      continue;
    }
    const auto pipeline = runner::load_pipeline(*workspace, file.name);
    if (!pipeline) {
      worst = report(pipeline.error());
      continue;
    }
    all.push_back({{"slug", file.name},
                   {"name", file.name},
                   {"allow_manual", true},
                   {"triggers", nlohmann::ordered_json::array()},
                   {"definition", nlohmann::ordered_json::parse(runner::to_ir(*pipeline))}});
  }
  if (json) {
    std::cout << nlohmann::ordered_json{{"schema_version", "1"}, {"pipelines", all}}.dump(2)
              << "\n";
  }
  std::cout.flush();
  return worst;
}

}  // namespace hm::cli
