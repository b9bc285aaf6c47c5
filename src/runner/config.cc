#include "runner/config.h"

#include <toml++/toml.h>

#include <array>
#include <cstdlib>
#include <sstream>

#include "store/util/fd.h"

namespace hm::runner {

namespace {

constexpr std::size_t kLongestFile = std::size_t{1} << 20;

struct Key {
  const char* table;
  const char* name;
  const char* variable;
  Status (*set)(const std::string& text, const std::string& where, Config& config);
};

Status set_pull(const std::string& text, const std::string& where, Config& config) {
  HM_ASSIGN(config.pull, parse_pull(text, where));
  return {};
}

constexpr std::array<Key, 1> kKeys = {{{"image", "pull", "HM_IMAGE__PULL", set_pull}}};

std::string place(const std::string& path, const toml::node& node) {
  return path + ":" + std::to_string(node.source().begin.line);
}

Status take_table(const toml::table& table, const char* name, const std::string& path,
                  Config& config) {
  for (const auto& [key_node, node] : table) {
    const std::string_view word = key_node.str();
    const auto* key = std::find_if(kKeys.begin(), kKeys.end(), [&](const Key& known) {
      return std::string_view(known.table) == name && word == known.name;
    });
    const std::string where = place(path, node) + ": " + name + "." + std::string(word);
    if (key == kKeys.end()) return fail(ErrorCode::kInvalid, where + " is no setting of hm");
    const auto text = node.value<std::string>();
    if (!node.is_string() || !text) return fail(ErrorCode::kInvalid, where + " is not a text");
    HM_TRY(key->set(*text, where, config));
  }
  return {};
}

Status read_config(const std::string& path, Config& config) {
  auto text = read_file(path);
  if (!text && (text.error().errno_value == ENOENT || text.error().errno_value == ENOTDIR))
    return {};
  if (!text) return fail(std::move(text).error());
  if (text->size() > kLongestFile) return fail(ErrorCode::kInvalid, path + " is too long");
  toml::table document;
  try {
    document = toml::parse(*text);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kInvalid, path + ":" + std::to_string(error.source().begin.line) + ": " +
                                         std::string(error.description()));
  }
  for (const Key& key : kKeys) {
    const toml::node* node = document.get(key.table);
    if (node == nullptr) continue;
    if (!node->is_table()) {
      return fail(ErrorCode::kInvalid, place(path, *node) + ": " + key.table + " is not a table");
    }
    HM_TRY(take_table(*node->as_table(), key.table, path, config));
  }
  return {};
}

std::string user_file() {
  const auto env = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (!env("XDG_CONFIG_HOME").empty()) return env("XDG_CONFIG_HOME") + "/hm/config.toml";
  return env("HOME").empty() ? "" : env("HOME") + "/.config/hm/config.toml";
}

}  // namespace

Result<Pull> parse_pull(const std::string& text, const std::string& where) {
  if (text == "missing") return Pull::kMissing;
  if (text == "never") return Pull::kNever;
  return fail(ErrorCode::kNotFound, where + " is missing or never, not '" + text + "'");
}

Result<Config> load_config(const std::string& workspace) {
  Config config;
  if (const std::string path = user_file(); !path.empty()) HM_TRY(read_config(path, config));
  HM_TRY(read_config(workspace + "/.hm/config.toml", config));
  for (const Key& key : kKeys) {
    const char* value = std::getenv(key.variable);
    if (value != nullptr && *value != '\0') HM_TRY(key.set(value, key.variable, config));
  }
  return config;
}

}  // namespace hm::runner
