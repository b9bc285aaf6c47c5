// The small readers of outside text, chosen by the first byte: durations, sizes, paths, names of
// attributes, access control lists, the kernel's lists of cgroups and mounts, JSON of the database.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "fs/entry.h"
#include "fs/overlay_xattr.h"
#include "runner/cgroup.h"
#include "runner/duration.h"
#include "runner/graph.h"
#include "runner/static_key.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void read_duration(std::string_view text) {
  const auto duration = hm::runner::parse_duration(text);
  require(!duration || (duration->count() > 0 && *duration <= hm::runner::kMaxDuration));
}

void read_memory(std::string_view text) {
  const auto bytes = hm::runner::parse_memory(text);
  if (!bytes) return;
  require(*bytes >= hm::runner::kLeastMemory && *bytes <= hm::runner::kMostMemory);
  const auto again = hm::runner::parse_memory(hm::runner::memory_text(*bytes));
  require(again && *again == *bytes);
}

void read_path(std::string_view text) {
  if (hm::fs::is_valid_path(text)) {
    require(text.empty() || text.front() != '/');
    require(("/" + std::string(text) + "/").find("/../") == std::string::npos);
    require(text.empty() || hm::fs::is_valid_name(hm::fs::base_name(text)));
  }
  const auto path = hm::runner::workspace_path(text);
  require(!path || path->empty() || hm::fs::is_valid_path(*path));
}

void read_attribute(std::string_view text) {
  const std::string name(text);
  require(hm::fs::unescape_overlay_xattr(hm::fs::escape_overlay_xattr(name)) == name);
  require(!hm::fs::is_overlays_own_xattr(hm::fs::escape_overlay_xattr(name)));
  const std::string list = hm::fs::without_foreign_ids(text);
  require(hm::fs::without_foreign_ids(list) == list);
}

void read_cgroups(std::string_view text) {
  const std::size_t half = text.find('\f');
  const std::string_view mounts = half == std::string_view::npos ? text : text.substr(half + 1);
  for (const char* controller : {"", "memory", "pids"}) {
    (void)hm::runner::cgroup_directory(text.substr(0, half), mounts, controller);
  }
}

void read_components(std::string_view text) {
  (void)hm::runner::components_change(std::string(text), hm::runner::StaticKey{});
}

void print(std::string_view text) {
  for (const std::string& shown : {hm::fs::printable(text), hm::runner::printable(text)}) {
    for (const char c : shown) require(static_cast<unsigned char>(c) >= ' ' && c != '\x7f');
  }
}

constexpr std::array kReaders = {read_duration, read_memory,     read_path, read_attribute,
                                 read_cgroups,  read_components, print};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  kReaders.at(data[0] % kReaders.size())(text);
  return 0;
}
