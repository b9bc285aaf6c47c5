// hmfs: mounts a workspace's view by hand, read-only and in the foreground, and prints what is
// looked at, one observation per line (kind, path, value).
#include <unistd.h>

#include <cstring>
#include <iostream>
#include <mutex>

#include "cli/cli.h"
#include "fs/entry.h"
#include "fs/session.h"
#include "runner/sources.h"

namespace {

using hm::cli::complain;
using hm::runner::ExitCode;

int usage() {
  complain("usage: hmfs mount MNT [-d DIR] [--image IMAGE] [--passthrough MODE]");
  return hm::cli::code(ExitCode::kUsage);
}

void print(const hm::fs::Observation& item) {
  static std::mutex mutex;  // whole lines only
  const std::lock_guard lock(mutex);
  std::cout << hm::fs::to_string(item.kind) << "\t/" << hm::fs::printable(item.path) << "\t"
            << hm::fs::printable(item.value) << std::endl;
}

hm::Status serve(const std::string& mount_point, const std::string& dir,
                 const std::string& image_name, hm::fs::PassthroughMode passthrough) {
  HM_ASSIGN(const std::string workspace, hm::cli::workspace_of(dir));
  HM_ASSIGN(const std::string home, hm::cli::store_home());
  hm::cli::block_stop_signals();
  HM_ASSIGN(const auto store, hm::store::Store::open(home));
  const hm::cli::StopOnSignal signals;
  HM_ASSIGN(const auto sources,
            hm::runner::Sources::open(workspace, hm::runner::IdMode::kFull, *store));
  HM_ASSIGN(const auto image, hm::runner::resolve_image(image_name, workspace, *store));
  HM_ASSIGN(const hm::fs::ViewBase base, sources->base(image.id));
  const hm::fs::View view(base, {}, hm::now_ns());
  HM_ASSIGN(const auto session,
            hm::fs::Session::start(view, *store, mount_point, print, {}, passthrough));
  session->wait(signals.token());
  session->stop();
  return {};
}

int run(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "mount") != 0) return usage();
  cxxopts::Options options("hmfs mount", "Mount a workspace's view, read-only");
  auto add = options.add_options();
  add("mnt", "where", cxxopts::value<std::string>());
  add("d,dir", "project directory", cxxopts::value<std::string>()->default_value(""));
  add("image", "an image's name, host, or a directory",
      cxxopts::value<std::string>()->default_value("host"));
  hm::cli::add_passthrough(add);
  options.parse_positional({"mnt"});
  options.positional_help("MNT");
  const auto parsed = hm::cli::parse(options, hm::cli::Arguments(argv + 2, argv + argc));
  if (!parsed) return hm::cli::report(parsed.error());
  if (!*parsed) return 0;
  if ((*parsed)->count("mnt") == 0) return usage();
  const auto mount_point = hm::cli::directory((**parsed)["mnt"].as<std::string>());
  if (!mount_point) return hm::cli::report(mount_point.error());
  const auto passthrough = hm::cli::passthrough_of(**parsed);
  if (!passthrough) return hm::cli::report(passthrough.error());
  const auto status = serve(*mount_point, (**parsed)["dir"].as<std::string>(),
                            (**parsed)["image"].as<std::string>(), *passthrough);
  return status ? 0 : hm::cli::report(status.error());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    hm::cli::set_up_process();
    return run(argc, argv);
  } catch (const std::exception& error) {
    complain(std::string("internal error: ") + error.what());
    return hm::cli::code(ExitCode::kInfrastructure);
  }
}
