// bench_native: the limit that hm is measured against. One command under bubblewrap, with the
// arguments, system call filter and resource limits of a step, on an overlay with hm's options, but
// over plain directories: nothing is served by FUSE and nothing is recorded.
//
//   bench_native DIR TIMES LOWER… -- COMMAND…     DIR: an empty directory; the first LOWER is
//   topmost
//
// Mounts once and runs the command so many times, one after the other. Its output is the command's,
// then a line "run NANOSECONDS" for each run, from the start of bubblewrap to its end.
#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "runner/isolation.h"
#include "runner/sandbox.h"
#include "runner/system_calls.h"
#include "store/util/fd.h"

namespace {

using hm::Fd;
using hm::Result;
using hm::Status;
using Words = std::vector<std::string>;

struct Plan {
  std::string dir;
  int times = 1;
  Words lowers;
  hm::runner::Command command;
};

Status make(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) != 0 || ::chmod(path.c_str(), mode) != 0) {
    return hm::fail_errno(path);
  }
  return {};
}

// As for a step: an empty /tmp that hides the one below.
Status mount_overlay(const Plan& plan) {
  for (const char* name : {"/upper", "/work", "/root"}) HM_TRY(make(plan.dir + name, 0755));
  const std::string tmp = plan.dir + "/upper/tmp";
  HM_TRY(make(tmp, 01777));
  if (::setxattr(tmp.c_str(), "user.overlay.opaque", "y", 1, 0) != 0) return hm::fail_errno(tmp);
  std::string options = "lowerdir=";
  for (const std::string& lower : plan.lowers) {
    options += (options.back() == '=' ? "" : ":") + lower;
  }
  options += ",upperdir=" + plan.dir + "/upper,workdir=" + plan.dir +
             "/work,userxattr,metacopy=off,index=off,xino=off,volatile";
  const std::string root = plan.dir + "/root";
  if (::mount("overlay", root.c_str(), "overlay", MS_NODEV, options.c_str()) != 0) {
    return hm::fail_errno("cannot mount an overlay");
  }
  return {};
}

// `given`: which descriptor becomes which number.
Result<int> run_once(const std::string& bubblewrap, const Words& command,
                     const std::vector<std::pair<int, int>>& given) {
  Words words = {"bwrap", "--args", std::to_string(hm::runner::kArgsFd), "--"};
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<char*, 1> env = {nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const auto& [fd, as] : given) ::posix_spawn_file_actions_adddup2(&actions, fd, as);
  pid_t pid = -1;
  const int error =
      ::posix_spawn(&pid, bubblewrap.c_str(), &actions, nullptr, argv.data(), env.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return hm::fail(hm::system_error(bubblewrap, error));
  int status = 0;
  if (::waitpid(pid, &status, 0) < 0) return hm::fail_errno("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result<int> run_all(const Plan& plan) {
  HM_ASSIGN(const std::string bubblewrap, hm::runner::find_bubblewrap());
  HM_TRY(hm::runner::enter_private_namespaces());
  hm::runner::apply_limits();
  HM_TRY(mount_overlay(plan));
  HM_TRY(hm::runner::make_host_files(plan.dir));
  const auto files = hm::runner::host_files(plan.dir);
  const Words args = hm::runner::bubblewrap_arguments(plan.dir + "/root", files, plan.command);
  HM_ASSIGN(const Fd null, hm::open_file("/dev/null", O_RDWR));
  std::vector<long long> took;
  for (int i = 0; i < plan.times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    HM_ASSIGN(const Fd arguments, hm::runner::arguments_file(args));
    HM_ASSIGN(const Fd filter, hm::runner::system_call_filter());
    // Above the numbers that are handed out.
    std::vector<Fd> high;
    std::vector<std::pair<int, int>> given;
    for (const auto& [fd, as] :
         {std::pair(null.get(), 0), std::pair(arguments.get(), hm::runner::kArgsFd),
          std::pair(null.get(), hm::runner::kStatusFd),
          std::pair(filter.get(), hm::runner::kFilterFd)}) {
      high.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 100));
      given.emplace_back(high.back().get(), as);
    }
    HM_ASSIGN(const int code, run_once(bubblewrap, plan.command.argv, given));
    if (code != 0) return code;
    took.push_back(std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::steady_clock::now() - start)
                       .count());
  }
  for (const long long ns : took) std::printf("run %lld\n", ns);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Words args(argv + 1, argv + argc);
  const auto dashes = std::find(args.begin(), args.end(), "--");
  if (dashes - args.begin() < 3 || dashes == args.end() || dashes + 1 == args.end()) {
    std::fprintf(stderr, "usage: bench_native DIR TIMES LOWER… -- COMMAND…\n");
    return 2;
  }
  Plan plan;
  plan.dir = args[0];
  plan.times = std::atoi(args[1].c_str());
  plan.lowers = Words(args.begin() + 2, dashes);
  plan.command.argv = Words(dashes + 1, args.end());
  plan.command.env = {{"HOME", "/root"},
                      {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}};
  const auto code = run_all(plan);
  if (code) return *code;
  std::fprintf(stderr, "bench_native: %s\n", code.error().message.c_str());
  return 4;
}
