// hm cache stats|clear|verify|prune.
#include <array>
#include <iostream>

#include "cli/cli.h"
#include "fs/entry.h"
#include "runner/prune.h"
#include "runner/store_check.h"
#include "store/check.h"

namespace hm::cli {

namespace {

using cxxopts::ParseResult;

// Opens the store as a run would, and hands it on.
int with_store(const std::string& home, int (*action)(store::Store& store)) {
  const auto store = store::Store::open(home);
  return store ? action(**store) : report(store.error());
}

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
            << "images     " << stats->images << "\n"
            << std::flush;
  return 0;
}

int stats(const std::string& home, const ParseResult&) { return with_store(home, print_stats); }

int clear(const std::string& home, const ParseResult&) {
  return with_store(home, [](store::Store& store) {
    const auto status = store.clear();
    return status ? 0 : report(status.error());
  });
}

// Without a usable database the blobs are still checked, but nothing says what they are for.
Result<runner::StoreTotals> verify_store(const std::string& home, store::Repair repair,
                                         store::Findings& findings, std::size_t& blobs) {
  HM_TRY(store::check_database(home, repair, findings));
  const bool usable = findings.clean();
  HM_ASSIGN(auto sizes, store::check_blobs(home, repair, findings));
  blobs = sizes.size();
  if (!usable) return runner::StoreTotals{};
  HM_ASSIGN(const auto store, store::Store::open(home));
  return runner::check_meanings(*store, std::move(sizes), repair, findings);
}

int verify(const std::string& home, const ParseResult& args) {
  store::Findings findings;
  findings.print = [](const std::string& line) { std::cout << fs::printable(line) << "\n"; };
  const auto repair = args.count("repair") > 0 ? store::Repair::kYes : store::Repair::kNo;
  std::size_t blobs = 0;
  const auto totals = verify_store(home, repair, findings, blobs);
  std::cout << std::flush;
  if (!totals) return report(totals.error());
  std::cout << totals->records << " records, " << totals->layers << " layers, " << blobs
            << " blobs: " << findings.problems << " problems, " << findings.repaired
            << " repaired\n"
            << std::flush;
  return findings.clean() ? 0 : code(runner::ExitCode::kInfrastructure);
}

int prune(const std::string& home, const ParseResult& args) {
  std::optional<std::uint64_t> max_bytes;
  if (args.count("max-size") > 0) {
    const auto size = parse_size("--max-size", args["max-size"].as<std::string>());
    if (!size) return report(size.error());
    max_bytes = *size;
  }
  const auto store = store::Store::open(home);
  if (!store) return report(store.error());
  const auto pruned = runner::prune(**store, max_bytes);
  if (!pruned) return report(pruned.error());
  std::cout << "removed " << pruned->records << " records, " << pruned->runs << " reports, "
            << pruned->layers << " layers, " << pruned->blobs.blobs << " blobs ("
            << pruned->blobs.bytes << " bytes); kept " << pruned->kept_bytes << " bytes\n"
            << std::flush;
  return 0;
}

struct Action {
  const char* name;
  const char* option;  // the only one that it takes besides --help, or null
  int (*run)(const std::string& home, const ParseResult& args);
};
constexpr std::array<Action, 4> kActions = {{{"stats", nullptr, stats},
                                             {"clear", nullptr, clear},
                                             {"verify", "repair", verify},
                                             {"prune", "max-size", prune}}};
constexpr std::array<const char*, 2> kOptions = {"repair", "max-size"};

int run_action(const Action& action, const ParseResult& args) {
  for (const char* option : kOptions) {
    const bool takes = action.option != nullptr && std::string_view(action.option) == option;
    if (args.count(option) == 0 || takes) continue;
    complain(std::string("hm cache ") + action.name + " takes no --" + option);
    return code(runner::ExitCode::kUsage);
  }
  const auto home = store_home();
  return home ? action.run(*home, args) : report(home.error());
}

}  // namespace

int cmd_cache(const Arguments& arguments) {
  cxxopts::Options options("hm cache", "Show, check, prune or clear the store");
  auto add = options.add_options();
  add("action", "stats, clear, verify or prune", cxxopts::value<std::string>());
  add("repair", "verify: take away what is damaged");
  options.parse_positional({"action"});
  add("max-size", "prune: forget the oldest until it fits (500M, 10G)",
      cxxopts::value<std::string>());
  options.positional_help("stats|clear|verify|prune");
  const auto parsed = parse(options, arguments);
  if (!parsed) return report(parsed.error());
  if (!*parsed) return 0;
  const std::string wanted =
      (*parsed)->count("action") > 0 ? (**parsed)["action"].as<std::string>() : "";
  for (const Action& action : kActions) {
    if (wanted == action.name) return run_action(action, **parsed);
  }
  complain("say hm cache stats, clear, verify or prune");
  return code(runner::ExitCode::kUsage);
}

}  // namespace hm::cli
