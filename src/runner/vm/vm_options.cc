#include "runner/vm/vm_options.h"

#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "runner/graph.h"
#include "runner/step_limits.h"
#include "store/util/fd.h"

namespace hm::runner {

namespace {

constexpr std::uint64_t kLeast = std::uint64_t{192} << 20;  // bytes that a guest can boot with
constexpr std::int64_t kMostCpus = 64;

Status set_option(VmOptions& options, std::string_view name, const toml::node& value) {
  const auto text = value.value_exact<std::string>();
  const auto number = value.value_exact<std::int64_t>();
  if (name == "kernel" && text && text->starts_with("/")) {
    options.kernel = *text;
  } else if (name == "kernel") {
    return fail(ErrorCode::kInvalid, "kernel is the absolute path of a kernel's image");
  } else if (name == "memory") {
    HM_ASSIGN(options.memory, parse_memory(text.value_or("")));
    if (options.memory < kLeast) return fail(ErrorCode::kInvalid, "memory is at least \"192M\"");
  } else if (name == "cpus" && number && *number >= 1 && *number <= kMostCpus) {
    options.cpus = static_cast<unsigned>(*number);
  } else if (name == "cpus") {
    return fail(ErrorCode::kInvalid, "cpus is a number from 1 to " + std::to_string(kMostCpus));
  } else {
    return fail(ErrorCode::kInvalid,
                in_quotes(name) + " is not known; write kernel, memory or cpus");
  }
  return {};
}

Status set_options(VmOptions& options, const toml::table& document) {
  const toml::node* section = document.get("vm");
  if (section == nullptr) return {};
  if (!section->is_table()) return fail(ErrorCode::kInvalid, "vm is a table: write [vm]");
  for (const auto& [name, value] : *section->as_table()) {
    if (auto set = set_option(options, name.str(), value); !set) {
      return fail(std::move(set).error().in("[vm]"));
    }
  }
  return {};
}

}  // namespace

Result<VmOptions> load_vm_options(const std::string& root) {
  VmOptions options;
  options.cpus = std::max(1U, std::thread::hardware_concurrency());
  const std::string path = root + "/.hm/config.toml";
  if (::access(path.c_str(), F_OK) != 0) return options;
  HM_ASSIGN(const std::string text, read_file(path));
  try {
    if (auto set = set_options(options, toml::parse(text)); !set) {
      return fail(std::move(set).error().in(path));
    }
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kInvalid, path + ":" + std::to_string(error.source().begin.line) + ": " +
                                         std::string(error.description()));
  }
  return options;
}

}  // namespace hm::runner
