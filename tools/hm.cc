// hm: runs pipelines of shell steps whose cache is keyed by what each step really looked at.
//
// Where to go from here: `hm run` is cli/cmd_run.cc → runner/scheduler.h (the graph) →
// runner/step_runner.h (look up, else execute and record) → runner/namespace_backend.cc (mount,
// sandbox, capture) → fs/session.h (what serves and records) and fs/view.h (what is served).

#include <array>
#include <exception>
#include <iostream>
#include <string>

#include "cli/cli.h"

namespace {

using hm::cli::Arguments;

int cmd_version(const Arguments&) {
  std::cout << "hm " << HM_VERSION << "\n";
  return 0;
}

int cmd_help(const Arguments&);

constexpr std::array<hm::cli::Verb, 13> kVerbs = {{
    {"run", "run a pipeline", hm::cli::cmd_run},
    {"exec", "run one command, cached by what it reads", hm::cli::cmd_exec},
    {"why", "say why the steps of the last run ran or did not", hm::cli::cmd_why},
    {"trace", "print what a step of the last run looked at", hm::cli::cmd_trace},
    {"log", "print what a step of the last run printed", hm::cli::cmd_log},
    {"export", "copy a path out of a step of the last run", hm::cli::cmd_export},
    {"render", "print a pipeline as IR", hm::cli::cmd_render},
    {"pipelines", "list the pipelines of this project", hm::cli::cmd_pipelines},
    {"image", "import, pull, list, show or remove images", hm::cli::cmd_image},
    {"cache", "show, check, prune or clear the store", hm::cli::cmd_cache},
    {"vm", "say what virtual machines need, or fetch a kernel for them", hm::cli::cmd_vm},
    {"version", "print the version", cmd_version},
    {"help", "print this help", cmd_help},
}};

void print_help(std::ostream& out) {
  out << "usage: hm COMMAND [OPTION]...\n\n";
  for (const auto& verb : kVerbs) {
    out << "  " << verb.name << std::string(12 - std::string(verb.name).size(), ' ') << verb.summary
        << "\n";
  }
  out << "\n`hm COMMAND --help` says more; hm(1) says all.\n";
}

int cmd_help(const Arguments&) {
  print_help(std::cout);
  return 0;
}

int dispatch(int argc, char** argv) {
  if (argc < 2) {
    print_help(std::cerr);
    return hm::cli::code(hm::runner::ExitCode::kUsage);
  }
  std::string name = argv[1];
  if (name == "--help" || name == "-h") name = "help";
  if (name == "--version") name = "version";
  for (const auto& verb : kVerbs) {
    if (name == verb.name) return verb.run(Arguments(argv + 2, argv + argc));
  }
  hm::cli::complain("unknown command '" + name + "' (see hm help)");
  return hm::cli::code(hm::runner::ExitCode::kUsage);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    hm::cli::set_up_process();
    return dispatch(argc, argv);
  } catch (const std::exception& error) {  // of a library, or out of memory
    hm::cli::complain(std::string("internal error: ") + error.what());
    return hm::cli::code(hm::runner::ExitCode::kInfrastructure);
  }
}
