// hm cache stats|clear.
#include <iostream>

#include "cli/cli.h"

namespace hm::cli {

namespace {

int print_stats(store::Store& store) {
  const auto stats = store.stats();
  if (!stats) return report(stats.error());
  std::cout << "store      " << store.home() << "\n"
            << "blobs      " << stats->blobs << "\n"
            << "bytes      " << stats->blob_bytes << "\n"
            << "records    " << stats->records << "\n"
            << "path sets  " << stats->path_sets << "\n"
            << "layers     " << stats->layers << "\n"
            << "files      " << stats->files << "\n"
            << std::flush;
  return 0;
}

int clear(store::Store& store) {
  const auto status = store.clear();
  return status ? 0 : report(status.error());
}

struct Action {
  const char* name;
  int (*run)(store::Store& store);
};
constexpr std::array<Action, 2> kActions = {{{"stats", print_stats}, {"clear", clear}}};

}  // namespace

int cmd_cache(const Arguments& arguments) {
  cxxopts::Options options("hm cache", "Show or clear the store");
  options.add_options()("action", "stats or clear", cxxopts::value<std::string>());
  options.parse_positional({"action"});
  options.positional_help("stats|clear");
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const std::string wanted =
      (*parsed)->count("action") > 0 ? (**parsed)["action"].as<std::string>() : "";
  for (const Action& action : kActions) {
    if (wanted != action.name) continue;
    const auto home = store_home();
    if (!home) return report(home.error());
    const auto store = store::Store::open(*home);
    return store ? action.run(**store) : report(store.error());
  }
  complain("say hm cache stats or hm cache clear");
  return code(runner::ExitCode::kUsage);
}

}  // namespace hm::cli
