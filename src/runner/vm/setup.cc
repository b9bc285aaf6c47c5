#include "runner/vm/setup.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "runner/vm/hypervisor.h"
#include "runner/vm/program.h"
#include "store/util/fd.h"

namespace hm::runner::vm {

namespace {

constexpr const char* kPackage = "linux-image-cloud-amd64";

Result<std::string> program(const std::string& name) {
  if (auto path = find_program(name)) return *path;
  return fail(ErrorCode::kRefused, name +
                                       " is not installed: fetching a kernel needs Debian, else "
                                       "name one as [vm] kernel in .hm/config.toml");
}

// The package with the image itself, whose name has the kernel's version.
Result<std::string> package_with_image(const std::string& directory) {
  HM_ASSIGN(const std::string apt_cache, program("apt-cache"));
  HM_ASSIGN(const std::string text, run_program({apt_cache, "depends", kPackage}, directory));
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (word.starts_with("linux-image-") && word != kPackage) return word;
  }
  return fail(ErrorCode::kRefused,
              std::string("apt knows no ") + kPackage + ": run apt-get update first");
}

Status unpack(const std::string& directory) {
  HM_ASSIGN(const std::string dpkg, program("dpkg-deb"));
  HM_ASSIGN(const Fd folder, open_file(directory, O_RDONLY | O_DIRECTORY));
  HM_ASSIGN(const auto names, names_at(folder.get()));
  const auto package = std::find_if(names.begin(), names.end(),
                                    [](const std::string& name) { return name.ends_with(".deb"); });
  if (package == names.end()) return fail(ErrorCode::kRefused, "apt-get has fetched nothing");
  HM_TRY(run_program({dpkg, "--extract", *package, "root"}, directory));
  return {};
}

Status fetch_into(const std::string& directory) {
  HM_ASSIGN(const std::string apt_get, program("apt-get"));
  HM_ASSIGN(const std::string package, package_with_image(directory));
  HM_TRY(run_program({apt_get, "-qq", "download", package}, directory));
  return unpack(directory);
}

}  // namespace

Result<Kernel> fetch_kernel(const std::string& store_home) {
  const std::string base = vm_directory(store_home);
  HM_TRY(make_directories(base, 0700));
  std::string fresh = base + "/fetch-XXXXXX";
  if (::mkdtemp(fresh.data()) == nullptr) return fail_errno(fresh);
  const std::string kept = base + "/kernel";
  Status status = fetch_into(fresh);
  if (status) status = remove_tree(AT_FDCWD, kept);
  if (status && ::rename((fresh + "/root").c_str(), kept.c_str()) != 0) status = fail_errno(kept);
  (void)remove_tree(AT_FDCWD, fresh);
  if (!status) return fail(std::move(status).error());
  return find_kernel(std::nullopt, kept);
}

}  // namespace hm::runner::vm
