// A guest that does not keep to the protocol: its step fails within its time, and nothing of it is
// kept. Most of what such a guest can do by FUSE messages and archives has tests of its own.
#include <glob.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "runner/backend.h"
#include "test_support.h"

namespace hm::runner {
namespace {

std::string kernel_for_guests() {
  for (const char* pattern :
       {"/boot/vmlinuz-*-amd64", "/var/lib/hmtest/kernel/boot/vmlinuz-*-amd64"}) {
    glob_t found{};
    const bool any = ::glob(pattern, 0, nullptr, &found) == 0 && found.gl_pathc > 0;
    const std::string path = any ? found.gl_pathv[0] : "";
    ::globfree(&found);
    if (!path.empty() && ::access(path.c_str(), R_OK) == 0) return path;
  }
  return "";
}

struct Deed {
  const char* name;
  int exit_code;
  const char* says;  // a part of the step's warning, or ""
};

class HostileGuest : public testing::TestWithParam<Deed> {
 protected:
  void SetUp() override {
    if (kernel_for_guests().empty()) GTEST_SKIP() << "no kernel for virtual machines";
    if (::access("/usr/bin/qemu-system-x86_64", X_OK) != 0) GTEST_SKIP() << "no QEMU";
    static const test::TempDir home;  // the guest is booted and saved once
    store_ = test::must(store::Store::open(home / "home"));
    VmSettings settings;
    settings.options.kernel = kernel_for_guests();
    settings.options.memory = std::uint64_t{256} << 20;
    settings.say = [](const std::string&) {};
    settings.patience = std::chrono::seconds(8);
    settings.init = test::slurp(HM_HOSTILE_INIT);
    backend_ = make_vm_backend(*store_, std::move(settings));
  }

  std::unique_ptr<store::Store> store_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(HostileGuest, FailsItsStepAndLeavesNothing) {
  const fs::View view({}, {}, now_ns());
  Command command;
  command.argv = {GetParam().name};
  command.timeout = std::chrono::seconds(4);
  std::size_t printed = 0;
  const auto execution = backend_->run(
      view, command, [&](Stream, std::string_view bytes) { printed += bytes.size(); }, {});
  ASSERT_TRUE(execution) << execution.error().message;
  EXPECT_EQ(execution->exit_code, GetParam().exit_code);
  EXPECT_FALSE(execution->captured);
  std::string warnings;
  for (const std::string& line : execution->warnings) warnings += line + "\n";
  EXPECT_NE(warnings.find(GetParam().says), std::string::npos) << warnings;
  for (const auto& left : std::filesystem::directory_iterator(store_->scratch().path())) {
    const std::string name = left.path().filename();
    EXPECT_TRUE(name == "lock" || name == "claims") << name << " is left in the scratch";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Deeds, HostileGuest,
    testing::Values(Deed{"unknown", 125, "unknown kind"}, Deed{"long", 125, "too long"},
                    Deed{"early", 125, "out of order"}, Deed{"twice", 125, "out of order"},
                    Deed{"exit", 125, "makes sense"}, Deed{"off", 125, "it ended"},
                    Deed{"silence", 125, "did not start"}, Deed{"silent-command", 124, ""},
                    Deed{"flood", 124, ""}, Deed{"console", 124, ""}, Deed{"fuse", 125, ""},
                    Deed{"archive", 125, ""}, Deed{"no-archive", 125, "stopped sending"},
                    Deed{"climbing-archive", 125, "/../escaped: not a path of the step's"},
                    Deed{"climbing-inside", 125, "not a path of the step's"},
                    Deed{"million", 125, "more entries than a layer may have"},
                    Deed{"endless-archive", 125, "stopped sending"},
                    Deed{"no-end-of-archive", 125, ""}),
    [](const auto& deed) {
      std::string name = deed.param.name;
      std::erase(name, '-');
      return name;
    });

}  // namespace
}  // namespace hm::runner
