// hm vm check|setup.
#include <algorithm>
#include <array>
#include <iostream>

#include "cli/cli.h"
#include "runner/vm/hypervisor.h"
#include "runner/vm/kernel.h"
#include "runner/vm/setup.h"

namespace hm::cli {

namespace {

using runner::ExitCode;

struct Where {
  std::string home;
  runner::VmOptions options;
};

Result<Where> where(const cxxopts::ParseResult& args) {
  Where out;
  HM_ASSIGN(out.home, store_home());
  HM_ASSIGN(const std::string workspace, workspace_of(args["dir"].as<std::string>()));
  HM_ASSIGN(out.options, runner::load_vm_options(workspace));
  return out;
}

int check(const Where& at) {
  bool ready = true;
  for (const auto& item : runner::vm::requirements(at.options, at.home)) {
    ready = ready && (item.met || !item.needed);
    std::cout << item.line() << "\n";
  }
  std::cout << std::flush;
  return ready ? 0 : code(ExitCode::kInfrastructure);
}

int setup(const Where& at) {
  const auto kernel = runner::vm::fetch_kernel(at.home);
  if (!kernel) return report(kernel.error());
  std::cout << "kernel: " << kernel->image << "\n" << std::flush;
  return 0;
}

struct Action {
  const char* name;
  int (*run)(const Where& at);
};
constexpr std::array<Action, 2> kActions = {{{"check", check}, {"setup", setup}}};

}  // namespace

int cmd_vm(const Arguments& arguments) {
  cxxopts::Options options("hm vm", "What `hm run --backend vm` needs");
  auto add = options.add_options();
  add("action", "check: say what is there and what is missing; setup: fetch a kernel",
      cxxopts::value<std::string>());
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  options.parse_positional({"action"});
  options.positional_help("check|setup");
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const std::string wanted =
      (*parsed)->count("action") > 0 ? (**parsed)["action"].as<std::string>() : "";
  const auto* action = std::find_if(kActions.begin(), kActions.end(),
                                    [&](const Action& item) { return wanted == item.name; });
  if (action == kActions.end()) {
    complain("say hm vm check or setup");
    return code(ExitCode::kUsage);
  }
  const auto at = where(**parsed);
  return at ? action->run(*at) : report(at.error());
}

}  // namespace hm::cli
