#include "image/config.h"

#include <sys/utsname.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace hm::image {

namespace {

using Json = nlohmann::json;

tl::unexpected<Error> refuse(const std::string& what) {
  return fail(ErrorCode::kInvalid, "its configuration: " + what);
}

bool is_text(const std::string& text) { return text.find('\0') == std::string::npos; }

// The text `name` of an object; "" where it is missing or null.
Result<std::string> text_in(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || it->is_null()) return std::string();
  if (!it->is_string() || !is_text(it->get<std::string>())) {
    return refuse(std::string(name) + " is not a text");
  }
  return it->get<std::string>();
}

Status read_env(const Json& config, ImageConfig& out) {
  const auto it = config.find("Env");
  if (it == config.end() || it->is_null()) return {};
  if (!it->is_array()) return refuse("Env is not a list");
  for (const Json& item : *it) {
    if (!item.is_string()) return refuse("Env is not a list of texts");
    const std::string text = item.get<std::string>();
    const std::size_t equals = text.find('=');
    if (equals == 0 || !is_text(text)) return refuse("Env has a variable that cannot be");
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
    out.env[text.substr(0, equals)] = value;
  }
  return {};
}

}  // namespace

Result<ImageConfig> parse_oci_config(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return refuse("is not a JSON object");
  ImageConfig out;
  HM_ASSIGN(const std::string os, text_in(json, "os"));
  HM_ASSIGN(const std::string architecture, text_in(json, "architecture"));
  if (!os.empty() && !architecture.empty()) out.platform = os + "/" + architecture;
  const auto config = json.find("config");
  if (config == json.end() || config->is_null()) return out;
  if (!config->is_object()) return refuse("config is not an object");
  HM_TRY(read_env(*config, out));
  HM_ASSIGN(out.working_dir, text_in(*config, "WorkingDir"));
  HM_ASSIGN(out.user, text_in(*config, "User"));
  if (!out.working_dir.empty() && out.working_dir[0] != '/')
    out.working_dir = "/" + out.working_dir;
  return out;
}

namespace {

Json encode_ids(const UserIds& ids) {
  return {{"uid", ids.uid}, {"gid", ids.gid}, {"groups", ids.groups}, {"home", ids.home}};
}

// False when it cannot be what encode_ids wrote.
bool decode_id(const Json& json, std::uint32_t& out) {
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() > 0xfffffffe) return false;
  out = json.get<std::uint32_t>();
  return true;
}

bool decode_ids(const Json& json, UserIds& out) {
  const auto has = [&](const char* name) { return json.contains(name); };
  if (!json.is_object() || !has("uid") || !has("gid") || !has("groups") || !has("home")) {
    return false;
  }
  if (!decode_id(json["uid"], out.uid) || !decode_id(json["gid"], out.gid)) return false;
  if (!json["groups"].is_array() || !json["home"].is_string()) return false;
  for (const Json& group : json["groups"]) {
    if (!decode_id(group, out.groups.emplace_back())) return false;
  }
  out.home = json["home"].get<std::string>();
  return true;
}

}  // namespace

std::string encode_config(const ImageConfig& config) {
  Json json = {{"env", config.env},
               {"working_dir", config.working_dir},
               {"user", config.user},
               {"platform", config.platform}};
  if (config.ids) json["ids"] = encode_ids(*config.ids);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<ImageConfig> decode_config(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  const auto damaged = [] { return fail(ErrorCode::kCorrupt, "damaged configuration"); };
  if (!json.is_object()) return damaged();
  ImageConfig out;
  const std::array<std::pair<const char*, std::string*>, 3> texts = {
      {{"working_dir", &out.working_dir}, {"user", &out.user}, {"platform", &out.platform}}};
  for (const auto& [name, value] : texts) {
    if (!json.contains(name) || !json[name].is_string()) return damaged();
    *value = json[name].get<std::string>();
  }
  if (!json.contains("env") || !json["env"].is_object()) return damaged();
  for (const auto& [name, value] : json["env"].items()) {
    if (!value.is_string()) return damaged();
    out.env[name] = value.get<std::string>();
  }
  if (json.contains("ids") && !decode_ids(json["ids"], out.ids.emplace())) return damaged();
  return out;
}

std::string own_platform() {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kNames = {
      {{"x86_64", "amd64"}, {"aarch64", "arm64"}, {"armv7l", "arm"}}};
  utsname name{};
  ::uname(&name);
  std::string machine = name.machine;
  for (const auto& [ours, theirs] : kNames) {
    if (machine == ours) machine = theirs;
  }
  return "linux/" + machine;
}

}  // namespace hm::image
