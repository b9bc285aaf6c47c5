#include "runner/static_key.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "fs/skeleton.h"
#include "runner/sandbox.h"
#include "store/util/fd.h"

namespace hm::runner {

namespace {

// Raised whenever the meaning of a recorded trace or layer changes.
constexpr const char* kKeyFormat = "hm-key-2";

// Of the digest of a component, in the report of a run: enough to see that it changed. A whole one
// for each would make the reports most of what a run writes.
constexpr std::size_t kKeptDigits = 16;

// Supplementary groups, which only root can drop.
std::string groups() {
  std::vector<gid_t> ids(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
  const int count = ::getgroups(static_cast<int>(ids.size()), ids.data());
  std::string out;
  for (int i = 0; i < count; ++i) out += " " + std::to_string(ids[static_cast<std::size_t>(i)]);
  return out;
}

// How many ids there are: chown to another fails. Not which ids of the host they stand for.
std::string id_ranges() {
  std::string out;
  for (const char* map : {"/proc/self/uid_map", "/proc/self/gid_map"}) {
    std::istringstream lines(read_file(map).value_or(""));
    std::uint64_t inside = 0, outside = 0, count = 0;
    while (lines >> inside >> outside >> count) {
      out += " " + std::to_string(inside) + "+" + std::to_string(count);
    }
  }
  return out;
}

std::string ids_text(IdMode mode) {
  // What the two say of root on a machine of its own.
  constexpr const char* kOfGuest = " 0+4294967295 0+4294967295";
  return to_string(mode) + (mode == IdMode::kGuest ? kOfGuest : groups() + id_ranges());
}

std::string digest_of_list(const std::vector<std::string>& items) {
  Hasher hasher;
  for (const std::string& item : items) hasher.field(item);
  return hasher.finish().hex();
}

std::string platform_text() {
  utsname name{};
  ::uname(&name);
  return std::string(name.sysname) + "/" + name.machine;
}

std::string user_text(const image::UserIds& user) {
  std::string out = std::to_string(user.uid) + ":" + std::to_string(user.gid);
  for (const std::uint32_t group : user.groups) out += " " + std::to_string(group);
  return out;
}

// How the change of a component reads, by its name.
std::string describe(const std::string& component) {
  static const std::map<std::string, std::string> kTexts = {
      {"command", "the command changed"},
      {"cwd", "the directory it runs in changed"},
      {"network", "its network setting changed"},
      {"on_change", "its on_change list changed"},
      {"ids", "it runs in another id mode (root or rootless)"},
      {"user", "the user that it runs as changed"},
      {"limits", "its resource limits changed"},
      {"platform", "it runs on another platform"},
      {"sandbox", "the sandbox changed with this version of hm"},
      {"format", "the cache format changed with this version of hm"}};
  if (component.starts_with("env."))
    return "environment variable " + component.substr(4) + " changed";
  const auto it = kTexts.find(component);
  return it != kTexts.end() ? it->second : component + " changed";
}

std::string text(std::string_view value) { return Digest::of(value).hex(); }

}  // namespace

KeyBase::KeyBase(IdMode id_mode)
    : ids(text(ids_text(id_mode))),
      platform(text(platform_text())),
      sandbox(text(sandbox_description() + fs::skeleton_digest().hex())),
      limits(limits_description()) {}

StaticKey static_key(const Command& command, const KeyBase& base) {
  StaticKey key;
  auto& parts = key.components;
  parts["format"] = text(kKeyFormat);
  parts["command"] = digest_of_list(command.argv);
  for (const auto& [name, value] : command.env) parts["env." + name] = text(value);
  const bool of_image = command.cwd.empty() && !command.working_dir.empty();
  parts["cwd"] = text(of_image ? command.working_dir : command.cwd);
  parts["network"] = text(command.network == Network::kHost ? "host" : "none");
  parts["ids"] = base.ids;
  if (command.user) parts["user"] = text(user_text(*command.user));
  parts["limits"] = text(base.limits + limits_text(command.limits));
  parts["platform"] = base.platform;
  parts["sandbox"] = base.sandbox;
  parts["on_change"] = digest_of_list(command.on_change);
  Hasher hasher;
  for (const auto& [name, value] : parts) {
    hasher.field(name);
    hasher.field(value);
  }
  key.digest = hasher.finish();
  return key;
}

std::string encode_components(const StaticKey& key) {
  auto parts = key.components;
  for (auto& [name, value] : parts) value.resize(std::min(value.size(), kKeptDigits));
  return nlohmann::json(parts).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string components_change(const std::string& before, const StaticKey& now) {
  const auto json = nlohmann::json::parse(before, nullptr, false);
  if (!json.is_object()) return "";
  std::map<std::string, std::string> old;
  for (const auto& [name, value] : json.items()) {
    if (value.is_string()) old[name] = value.get<std::string>();
  }
  std::vector<std::string> changes;
  for (const auto& [name, value] : now.components) {
    const auto it = old.find(name);
    const bool same = it != old.end() && it->second.size() >= kKeptDigits &&
                      std::string_view(value).starts_with(it->second);
    if (!same) changes.push_back(name);
  }
  for (const auto& [name, value] : old) {
    if (!now.components.contains(name)) changes.push_back(name);
  }
  if (changes.empty()) return "";
  std::string out = describe(changes.front());
  if (changes.size() > 1) out += " (and " + std::to_string(changes.size() - 1) + " more)";
  return out;
}

}  // namespace hm::runner
