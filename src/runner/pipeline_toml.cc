#include "runner/pipeline_toml.h"

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runner/duration.h"
#include "runner/graph.h"

namespace hm::runner {
namespace {

constexpr const char kCacheForms[] =
    "\"auto\", \"none\", \"forever\", { ttl = \"1d\" }, { on_change = [\"a.lock\"] } or a list of "
    "these";

// Words people bring along from other systems.
constexpr std::pair<std::string_view, std::string_view> kOtherWords[] = {
    {"cmd", "run"},
    {"command", "run"},
    {"script", "run"},
    {"needs", "after"},
    {"depends_on", "after"},
    {"builds_in", "from"},
    {"workdir", "cwd"},
    {"working_directory", "cwd"},
    {"id", "key"},
    {"name", "key"},
    {"timeout_seconds", "timeout"},
    {"mem_limit", "memory"},
    {"memory_limit", "memory"},
    {"pids_limit", "pids"},
    {"steps", "step"},
};

// How many letters have to be inserted, deleted or replaced to get from one word to the other.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

// "; did you mean 'x'?" for a near miss, else "".
std::string did_you_mean(std::string_view word, const std::vector<std::string_view>& known) {
  constexpr std::size_t kLongestWord = 64;  // nobody misspells more than that
  if (word.size() > kLongestWord) return "";
  std::string_view best;
  std::size_t best_distance = word.size() <= 3 ? 2 : 3;  // must be below
  for (const std::string_view candidate : known) {
    if (candidate.size() > kLongestWord) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  for (const auto& [foreign, ours] : kOtherWords) {
    const bool fits = std::find(known.begin(), known.end(), ours) != known.end();
    if (foreign == word && fits) best = ours;
  }
  return best.empty() ? "" : "; did you mean " + in_quotes(best) + "?";
}

std::string list(const std::vector<std::string_view>& words) {
  std::string text;
  for (const std::string_view word : words) text += (text.empty() ? "" : ", ") + printable(word);
  return text;
}

const char* describe(const toml::node& node) {
  if (node.is_string()) return "a string";
  if (node.is_integer() || node.is_floating_point()) return "a number";
  if (node.is_boolean()) return "a boolean";
  if (node.is_array()) return "an array";
  return node.is_table() ? "a table" : "a date or time";
}

class Reader {
 public:
  explicit Reader(std::string_view origin) : origin_(shown_origin(origin)) {}

  Result<Pipeline> read(std::string_view text, std::string_view origin);

 private:
  struct TopField {
    std::string_view name;
    Status (Reader::*read)(const toml::node&);
  };
  struct StepField {
    std::string_view name;
    Status (Reader::*read)(const toml::node&, Step&);  // null: read once all keys are known
  };
  struct Policy {
    std::string_view name;
    Status (Reader::*read)(const toml::node&, CachePolicy&);
  };
  static const TopField kTopFields[];
  static const StepField kStepFields[];
  static const Policy kPolicies[];  // those written as a table

  template <class Field, std::size_t count>
  static std::vector<std::string_view> names_of(const Field (&fields)[count]) {
    std::vector<std::string_view> names;
    for (const Field& field : fields) names.push_back(field.name);
    return names;
  }

  tl::unexpected<Error> refuse(const toml::source_region& at, std::string_view why) const;
  tl::unexpected<Error> refuse(const toml::node& at, std::string_view why) const;
  Status check_keys(const toml::table& table, const std::vector<std::string_view>& known,
                    std::string_view owner) const;
  Result<std::string> text_of(const toml::node& node, std::string_view what,
                              std::string_view example) const;
  Result<std::chrono::seconds> duration_of(const toml::node& node, std::string_view what) const;
  Status add_env(const toml::node& node, std::map<std::string, std::string>& out) const;

  Result<Pipeline> read_document(const toml::table& root, std::string_view origin);
  Status read_default_image(const toml::node& node);
  Status read_build_timeout(const toml::node& node);
  Status read_base_env(const toml::node& node);
  Status read_steps(const toml::node& node);
  Status read_step(const toml::table& table);
  Status require_key_and_run(const toml::table& table) const;

  Status read_key(const toml::node& node, Step& out);
  Status read_run(const toml::node& node, Step& out);
  Status read_cwd(const toml::node& node, Step& out);
  Status read_env(const toml::node& node, Step& out);
  Status read_cache(const toml::node& node, Step& out);
  Status read_timeout(const toml::node& node, Step& out);
  Status read_network(const toml::node& node, Step& out);
  Status read_memory(const toml::node& node, Step& out);
  Status read_pids(const toml::node& node, Step& out);
  Status read_label(const toml::node& node, Step& out);
  Status read_image(const toml::node& node, Step& out);

  Status read_policy(const toml::node& node, CachePolicy& out);
  Status read_named_policy(const toml::node& node, CachePolicy& out);
  Status read_table_policy(const toml::table& table, CachePolicy& out);
  Status read_ttl(const toml::node& node, CachePolicy& out);
  Status read_on_change(const toml::node& node, CachePolicy& out);

  Status resolve(std::size_t index);
  Status resolve_after(const toml::node& node, Step& step);
  Result<std::size_t> index_of(const toml::node& node, std::string_view what,
                               std::string_view example) const;

  std::string origin_;
  std::string subject_;  // "step 'test': " while that step is read
  Pipeline pipeline_;
  std::map<std::string, std::string> base_env_;
  std::vector<const toml::table*> tables_;  // of each step
  std::map<std::string, std::size_t> by_key_;
};

// In the order they are read: [env] and the key before whatever needs them.
const Reader::TopField Reader::kTopFields[] = {
    {"image", &Reader::read_default_image},
    {"timeout", &Reader::read_build_timeout},
    {"env", &Reader::read_base_env},
    {"step", &Reader::read_steps},
};

const Reader::StepField Reader::kStepFields[] = {
    {"key", &Reader::read_key},
    {"run", &Reader::read_run},
    {"from", nullptr},
    {"after", nullptr},
    {"cwd", &Reader::read_cwd},
    {"env", &Reader::read_env},
    {"cache", &Reader::read_cache},
    {"timeout", &Reader::read_timeout},
    {"network", &Reader::read_network},
    {"memory", &Reader::read_memory},
    {"pids", &Reader::read_pids},
    {"label", &Reader::read_label},
    {"image", &Reader::read_image},
};

const Reader::Policy Reader::kPolicies[] = {
    {"ttl", &Reader::read_ttl},
    {"on_change", &Reader::read_on_change},
};

tl::unexpected<Error> Reader::refuse(const toml::source_region& at, std::string_view why) const {
  return fail(ErrorCode::kInvalid, origin_ + ":" + std::to_string(at.begin.line) + ":" +
                                       std::to_string(at.begin.column) + ": " + subject_ +
                                       std::string(why));
}

tl::unexpected<Error> Reader::refuse(const toml::node& at, std::string_view why) const {
  return refuse(at.source(), why);
}

// Tables iterate in the order of the alphabet; the message is about the first unknown key in the
// file.
Status Reader::check_keys(const toml::table& table, const std::vector<std::string_view>& known,
                          std::string_view owner) const {
  const toml::key* unknown = nullptr;
  for (const auto& [key, node] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    if (unknown == nullptr || key.source().begin < unknown->source().begin) unknown = &key;
  }
  if (unknown == nullptr) return {};
  const std::string hint = did_you_mean(unknown->str(), known);
  return refuse(unknown->source(), "unknown key " + in_quotes(unknown->str()) + " in " +
                                       std::string(owner) +
                                       (hint.empty() ? "; there are " + list(known) : hint));
}

Result<std::string> Reader::text_of(const toml::node& node, std::string_view what,
                                    std::string_view example) const {
  if (const auto* text = node.as_string()) return text->get();
  return refuse(node, std::string(what) + " must be a string, not " + describe(node) + "; write " +
                          std::string(example));
}

Result<std::chrono::seconds> Reader::duration_of(const toml::node& node,
                                                 std::string_view what) const {
  HM_ASSIGN(const std::string text,
            text_of(node, what, std::string(what) + " = \"30s\" (or m, h, d)"));
  auto duration = parse_duration(text);
  if (!duration) return refuse(node, std::string(what) + " " + duration.error().message);
  return duration;
}

Status Reader::add_env(const toml::node& node, std::map<std::string, std::string>& out) const {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    return refuse(node, std::string("env must be a table, not ") + describe(node) +
                            "; write env = { NAME = \"value\" }");
  }
  for (const auto& [key, value] : *table) {
    const std::string name(key.str());
    HM_ASSIGN(out[name], text_of(value, "env: " + in_quotes(name),
                                 printable(name) + " = \"value\", in quotes"));
  }
  return {};
}

// ---- The document -------------------------------------------------------------------------------

Result<Pipeline> Reader::read(std::string_view text, std::string_view origin) {
  try {
    const toml::table root = toml::parse(text, origin_);
    return read_document(root, origin);
  } catch (const toml::parse_error& error) {
    return refuse(error.source(), "not TOML: " + printable(error.description()));
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInvalid, origin_ + ": not TOML: " + printable(error.what()));
  }
}

Result<Pipeline> Reader::read_document(const toml::table& root, std::string_view origin) {
  HM_TRY(check_keys(root, names_of(kTopFields), "a pipeline"));
  for (const TopField& field : kTopFields) {
    const toml::node* node = root.get(field.name);
    if (node != nullptr) HM_TRY((this->*field.read)(*node));
  }
  if (pipeline_.steps.empty()) {
    return fail(ErrorCode::kInvalid, origin_ +
                                         ":1:1: the pipeline has no steps; add [[step]] with key = "
                                         "\"name\" and run = \"command\"");
  }
  for (std::size_t i = 0; i < pipeline_.steps.size(); ++i) HM_TRY(resolve(i));
  subject_.clear();
  HM_TRY(check_graph(pipeline_, origin));
  return std::move(pipeline_);
}

Status Reader::read_default_image(const toml::node& node) {
  HM_ASSIGN(std::string image,
            text_of(node, "image", "image = \"debian:12\", \"host\" or a directory's path"));
  if (image.empty())
    return refuse(node, "image is empty; write \"debian:12\", \"host\" or a directory's path");
  pipeline_.default_image = std::move(image);
  return {};
}

Status Reader::read_build_timeout(const toml::node& node) {
  HM_ASSIGN(pipeline_.timeout, duration_of(node, "timeout"));
  return {};
}

Status Reader::read_base_env(const toml::node& node) { return add_env(node, base_env_); }

Status Reader::read_steps(const toml::node& node) {
  const toml::array* steps = node.as_array();
  if (steps == nullptr) {
    return refuse(node, std::string("step must be an array of tables, not ") + describe(node) +
                            "; write [[step]] with two brackets");
  }
  for (const toml::node& step : *steps) {
    const toml::table* table = step.as_table();
    if (table == nullptr) {
      return refuse(step, std::string("a step must be a table, not ") + describe(step) +
                              "; write [[step]] with two brackets");
    }
    subject_ = "step number " + std::to_string(pipeline_.steps.size() + 1) + ": ";
    HM_TRY(read_step(*table));
  }
  subject_.clear();
  return {};
}

Status Reader::read_step(const toml::table& table) {
  HM_TRY(check_keys(table, names_of(kStepFields), "a step"));
  HM_TRY(require_key_and_run(table));
  Step step;
  step.env = base_env_;
  for (const StepField& field : kStepFields) {
    const toml::node* node = table.get(field.name);
    if (node != nullptr && field.read != nullptr) HM_TRY((this->*field.read)(*node, step));
  }
  if (step.label.empty()) step.label = step.key;
  const auto [first, is_new] = by_key_.emplace(step.key, pipeline_.steps.size());
  if (!is_new) {
    const auto line = tables_[first->second]->get("key")->source().begin.line;
    return refuse(*table.get("key"), "the step on line " + std::to_string(line) +
                                         " has this key too; rename one of them");
  }
  // Whatever is left (a NUL in a value, a bad name in env) belongs to the step as a whole.
  if (const std::string problem = step_problem(step); !problem.empty()) {
    return refuse(table, problem);
  }
  tables_.push_back(&table);
  pipeline_.steps.push_back(std::move(step));
  return {};
}

Status Reader::require_key_and_run(const toml::table& table) const {
  if (!table.contains("key")) return refuse(table, "the step has no key; add key = \"name\"");
  if (table.contains("run")) return {};
  const auto key = table["key"].value<std::string>().value_or("");
  return refuse(table, in_quotes(key) + " has nothing to run; add run = \"command\"");
}

// ---- The fields of a step -----------------------------------------------------------------------

Status Reader::read_key(const toml::node& node, Step& out) {
  HM_ASSIGN(out.key, text_of(node, "key", "key = \"name\""));
  Step probe;
  probe.key = out.key;
  probe.command = "true";
  if (const std::string problem = step_problem(probe); !problem.empty()) {
    return refuse(node, problem);
  }
  subject_ = "step " + in_quotes(out.key) + ": ";
  return {};
}

Status Reader::read_run(const toml::node& node, Step& out) {
  HM_ASSIGN(out.command, text_of(node, "run", "run = \"command\""));
  if (out.command.find_first_not_of(" \t\r\n") == std::string::npos) {
    return refuse(node, "run is empty; write the command, such as run = \"make\"");
  }
  return {};
}

Status Reader::read_cwd(const toml::node& node, Step& out) {
  HM_ASSIGN(const std::string text, text_of(node, "cwd", "cwd = \"packages/a\""));
  auto path = workspace_path(text);
  if (!path) return refuse(node, "cwd " + path.error().message);
  out.cwd = path->empty() ? "." : std::move(*path);
  return {};
}

Status Reader::read_env(const toml::node& node, Step& out) { return add_env(node, out.env); }

Status Reader::read_timeout(const toml::node& node, Step& out) {
  HM_ASSIGN(out.timeout, duration_of(node, "timeout"));
  return {};
}

Status Reader::read_network(const toml::node& node, Step& out) {
  static constexpr std::array<std::pair<std::string_view, Network>, 2> kNetworks = {
      {{"host", Network::kHost}, {"none", Network::kNone}}};
  HM_ASSIGN(const std::string network, text_of(node, "network", "network = \"none\" or \"host\""));
  const auto* row = std::find_if(kNetworks.begin(), kNetworks.end(),
                                 [&](const auto& known) { return known.first == network; });
  if (row == kNetworks.end()) {
    return refuse(node,
                  "there is no network " + in_quotes(network) + "; write \"host\" or \"none\"");
  }
  out.network = row->second;
  return {};
}

Status Reader::read_memory(const toml::node& node, Step& out) {
  HM_ASSIGN(const std::string text, text_of(node, "memory", "memory = \"512M\" (or K, G, T)"));
  auto memory = parse_memory(text);
  if (!memory) return refuse(node, "memory " + memory.error().message);
  out.limits.memory = *memory;
  return {};
}

Status Reader::read_pids(const toml::node& node, Step& out) {
  const auto number = node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
  if (!number || *number < 1 || *number > static_cast<std::int64_t>(kMostPids)) {
    return refuse(node, "pids must be a whole number from 1 to " + std::to_string(kMostPids) +
                            "; write pids = 200");
  }
  out.limits.pids = static_cast<std::uint64_t>(*number);
  return {};
}

Status Reader::read_label(const toml::node& node, Step& out) {
  HM_ASSIGN(out.label, text_of(node, "label", "label = \"text\""));
  return {};
}

Status Reader::read_image(const toml::node& node, Step& out) {
  HM_ASSIGN(std::string image,
            text_of(node, "image", "image = \"debian:12\", \"host\" or a directory's path"));
  if (image.empty())
    return refuse(node, "image is empty; write \"debian:12\", \"host\" or a directory's path");
  out.image = std::move(image);
  return {};
}

// ---- The cache of a step
// -------------------------------------------------------------------------

Status Reader::read_cache(const toml::node& node, Step& out) {
  const toml::array* policies = node.as_array();
  if (policies == nullptr) return read_policy(node, out.cache);
  if (policies->empty()) {
    return refuse(node, std::string("cache is an empty list; write ") + kCacheForms);
  }
  out.cache.name = "compose";
  for (const toml::node& item : *policies) {
    CachePolicy policy;
    HM_TRY(read_policy(item, policy));
    add_policy(out.cache, policy);
  }
  return {};
}

Status Reader::read_policy(const toml::node& node, CachePolicy& out) {
  if (node.is_string()) return read_named_policy(node, out);
  if (const toml::table* table = node.as_table()) return read_table_policy(*table, out);
  return refuse(node, std::string("cache cannot be ") + describe(node) + "; write " + kCacheForms);
}

Status Reader::read_named_policy(const toml::node& node, CachePolicy& out) {
  const std::string& name = node.as_string()->get();
  if (name != "auto" && name != "none" && name != "forever") {
    return refuse(node, "there is no cache " + in_quotes(name) + "; write " + kCacheForms);
  }
  out.name = name;
  out.enabled = name != "none";
  return {};
}

Status Reader::read_table_policy(const toml::table& table, CachePolicy& out) {
  HM_TRY(check_keys(table, names_of(kPolicies), "a cache table"));
  if (table.size() != 1) {
    return refuse(table,
                  "a cache table holds one of ttl and on_change; for both write "
                  "cache = [{ ttl = \"1d\" }, { on_change = [\"a.lock\"] }]");
  }
  for (const Policy& policy : kPolicies) {
    const toml::node* node = table.get(policy.name);
    if (node == nullptr) continue;
    out.name = policy.name;
    HM_TRY((this->*policy.read)(*node, out));
  }
  return {};
}

Status Reader::read_ttl(const toml::node& node, CachePolicy& out) {
  HM_ASSIGN(out.ttl, duration_of(node, "ttl"));
  return {};
}

Status Reader::read_on_change(const toml::node& node, CachePolicy& out) {
  const toml::array* paths = node.as_array();
  if (paths == nullptr || paths->empty()) {
    return refuse(node,
                  "on_change must be a list of paths; write "
                  "on_change = [\"a.lock\", \"src/**\"]");
  }
  for (const toml::node& item : *paths) {
    HM_ASSIGN(const std::string text, text_of(item, "a path in on_change", "\"a.lock\""));
    const auto path = workspace_path(text);
    if (!path) return refuse(item, "a path in on_change " + path.error().message);
    if (path->empty())
      return refuse(item,
                    "a path in on_change is empty; "
                    "write \"**\" for every file");
    out.on_change.push_back(*path);
  }
  return {};
}

// ---- from and after -----------------------------------------------------------------------------

Status Reader::resolve(std::size_t index) {
  Step& step = pipeline_.steps[index];
  const toml::table& table = *tables_[index];
  subject_ = "step " + in_quotes(step.key) + ": ";
  if (const toml::node* from = table.get("from")) {
    HM_ASSIGN(step.parent, index_of(*from, "from", "from = \"key\""));
    if (step.parent == index)
      return refuse(*from, "it cannot start from itself; name another step");
    if (const toml::node* image = table.get("image")) {
      return refuse(*image,
                    "a step with from starts from that step's files and has no image; "
                    "remove image or from");
    }
  }
  if (const toml::node* after = table.get("after")) HM_TRY(resolve_after(*after, step));
  return {};
}

Status Reader::resolve_after(const toml::node& node, Step& step) {
  const toml::array* keys = node.as_array();
  if (keys == nullptr) {
    return refuse(node, std::string("after must be a list, not ") + describe(node) +
                            "; write after = [\"key\"]");
  }
  for (const toml::node& item : *keys) {
    HM_ASSIGN(const std::size_t index, index_of(item, "after", "after = [\"key\"]"));
    if (&pipeline_.steps[index] == &step) {
      return refuse(item, "it cannot run after itself; name another step");
    }
    if (index != step.parent) step.after.push_back(index);
  }
  std::sort(step.after.begin(), step.after.end());
  step.after.erase(std::unique(step.after.begin(), step.after.end()), step.after.end());
  return {};
}

Result<std::size_t> Reader::index_of(const toml::node& node, std::string_view what,
                                     std::string_view example) const {
  HM_ASSIGN(const std::string key, text_of(node, what, example));
  const auto found = by_key_.find(key);
  if (found != by_key_.end()) return found->second;
  std::vector<std::string_view> known;
  for (const Step& step : pipeline_.steps) known.push_back(step.key);
  const std::string hint = did_you_mean(key, known);
  return refuse(node, std::string(what) + " names " + in_quotes(key) + ", which is no step's key" +
                          (hint.empty() ? "; the steps are: " + list(known) : hint));
}

}  // namespace

Result<Pipeline> parse_toml(std::string_view text, std::string_view origin) {
  return Reader(origin).read(text, origin);
}

}  // namespace hm::runner
