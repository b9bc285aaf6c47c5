#include "runner/graph.h"

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <utility>

namespace hm::runner {
namespace {

constexpr std::size_t kMaxKeyBytes = 200;
constexpr std::size_t kMaxShownBytes = 200;

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string escape(char c) {
  constexpr char kHex[] = "0123456789abcdef";
  if (c == '\n') return "\\n";
  if (c == '\t') return "\\t";
  const auto byte = static_cast<unsigned char>(c);
  return {'\\', 'x', kHex[byte >> 4], kHex[byte & 0xf]};
}

// Bytes of the character `text` starts with; 0 if that is not UTF-8. Overlong forms and surrogates
// are ruled out by the range of the second byte.
std::size_t utf8_size(std::string_view text) {
  struct Form {
    unsigned char first_low, first_high, second_low, second_high;
    std::size_t size;
  };
  constexpr Form kForms[] = {
      {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
      {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
      {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (const Form& form : kForms) {
    if (byte(0) < form.first_low || byte(0) > form.first_high) continue;
    if (text.size() < form.size) return 0;
    if (form.size > 1 && (byte(1) < form.second_low || byte(1) > form.second_high)) return 0;
    for (std::size_t i = 2; i < form.size; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    return form.size;
  }
  return 0;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

bool has_nul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

// Keys become file names and prefixes of log lines.
std::string key_problem(std::string_view key) {
  if (key.empty()) return "the key is empty; every step needs a name of its own";
  if (key.size() > kMaxKeyBytes) return "the key is longer than 200 bytes";
  if (key == "." || key == "..") return "the key may not be '.' or '..'";
  if (key.find('/') != std::string_view::npos) return "the key may not contain '/'";
  if (std::any_of(key.begin(), key.end(), is_control)) {
    return "the key may not contain control characters";
  }
  return "";
}

std::string env_problem(const std::map<std::string, std::string>& env) {
  for (const auto& [name, value] : env) {
    if (name.empty()) return "env: the name of a variable is empty";
    if (name.find('=') != std::string::npos || has_nul(name)) {
      return "env: " + in_quotes(name) + " cannot be the name of a variable";
    }
    if (has_nul(value)) return "env: the value of " + in_quotes(name) + " contains a NUL character";
  }
  return "";
}

// Every step this one has to wait for.
std::vector<std::size_t> prerequisites(const Step& step) {
  std::vector<std::size_t> all = step.after;
  if (step.parent) all.push_back(*step.parent);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

std::string index_problem(const Step& step, std::size_t count) {
  for (const std::size_t index : prerequisites(step)) {
    if (index >= count)
      return "it waits for step number " + std::to_string(index) + ", which does not exist";
  }
  return "";
}

// A step that topological_order() left out always waits for another such step, so walking that way
// must come around. Arrows point from the step that runs first.
std::string describe_cycle(const Pipeline& pipeline, const std::vector<bool>& ordered) {
  std::vector<std::size_t> walk;
  std::vector<std::size_t> seen_at(pipeline.steps.size(), pipeline.steps.size());
  auto at =
      static_cast<std::size_t>(std::find(ordered.begin(), ordered.end(), false) - ordered.begin());
  while (seen_at[at] == pipeline.steps.size()) {
    seen_at[at] = walk.size();
    walk.push_back(at);
    const auto needs = prerequisites(pipeline.steps[at]);
    at = *std::find_if(needs.begin(), needs.end(), [&](std::size_t i) { return !ordered[i]; });
  }
  std::vector<std::size_t> cycle(walk.rbegin(),
                                 walk.rend() - static_cast<std::ptrdiff_t>(seen_at[at]));
  std::rotate(cycle.begin(), std::min_element(cycle.begin(), cycle.end()), cycle.end());
  std::string text;
  for (const std::size_t index : cycle) text += printable(pipeline.steps[index].key) + " -> ";
  return text + printable(pipeline.steps[cycle.front()].key);
}

Status check_cycles(const Pipeline& pipeline, const std::string& origin) {
  for (const Step& step : pipeline.steps) {
    const auto needs = prerequisites(step);
    const auto index = static_cast<std::size_t>(&step - pipeline.steps.data());
    if (!std::binary_search(needs.begin(), needs.end(), index)) continue;
    return fail(ErrorCode::kInvalid,
                origin + ": step " + in_quotes(step.key) + " waits for itself");
  }
  std::vector<bool> ordered(pipeline.steps.size(), false);
  const auto order = topological_order(pipeline);
  for (const std::size_t index : order) ordered[index] = true;
  if (order.size() == pipeline.steps.size()) return {};
  return fail(ErrorCode::kInvalid,
              origin + ": the steps form a cycle: " + describe_cycle(pipeline, ordered));
}

std::string known_keys(const Pipeline& pipeline) {
  std::string text;
  for (const Step& step : pipeline.steps) text += (text.empty() ? "" : ", ") + printable(step.key);
  return text.empty() ? "it has no steps" : "the steps are: " + text;
}

// Marks the named steps and everything they wait for.
Result<std::vector<bool>> mark_ancestors(const Pipeline& pipeline,
                                         const std::vector<std::string>& keys) {
  std::map<std::string_view, std::size_t> by_key;
  for (std::size_t i = 0; i < pipeline.steps.size(); ++i) by_key.emplace(pipeline.steps[i].key, i);
  std::vector<bool> marked(pipeline.steps.size(), false);
  std::vector<std::size_t> open;
  for (const std::string& key : keys) {
    const auto found = by_key.find(key);
    if (found == by_key.end()) {
      return fail(ErrorCode::kNotFound,
                  "the pipeline has no step " + in_quotes(key) + "; " + known_keys(pipeline));
    }
    open.push_back(found->second);
  }
  while (!open.empty()) {
    const std::size_t index = open.back();
    open.pop_back();
    if (marked[index]) continue;
    marked[index] = true;
    for (const std::size_t needed : prerequisites(pipeline.steps[index])) open.push_back(needed);
  }
  return marked;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= kMaxShownBytes) return out + "...";
    const std::size_t size = utf8_size(text);
    if (size == 0 || is_control(text.front())) {
      out += escape(text.front());
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

std::string in_quotes(std::string_view text) { return "'" + printable(text) + "'"; }

std::string shown_origin(std::string_view origin) {
  return origin == "-" ? "<stdin>" : printable(origin);
}

std::string step_problem(const Step& step) {
  if (std::string problem = key_problem(step.key); !problem.empty()) return problem;
  if (step.argv.empty() && is_blank(step.command)) return "the command is empty";
  if (has_nul(step.command) || std::any_of(step.argv.begin(), step.argv.end(), has_nul)) {
    return "the command contains a NUL character";
  }
  if (step.image && (is_blank(*step.image) || has_nul(*step.image))) return "the image has no name";
  if (std::string problem = env_problem(step.env); !problem.empty()) return problem;
  const auto cwd = workspace_path(step.cwd);
  return cwd ? "" : "cwd " + cwd.error().message;
}

Result<std::string> workspace_path(std::string_view path) {
  constexpr std::size_t kLongestName = 255;
  constexpr std::size_t kLongestWorkspacePath = 4000;  // PATH_MAX with room for /workspace
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::kInvalid, in_quotes(path) + " " + std::string(why));
  };
  if (path.starts_with('/')) {
    return refuse("is absolute; write a path below /workspace, such as \"packages/a\"");
  }
  if (has_nul(path)) return refuse("contains a NUL character");
  std::string clean;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      return fail(ErrorCode::kInvalid, "may not contain \"..\"; write a path below /workspace");
    }
    if (part.size() > kLongestName) {
      return fail(ErrorCode::kInvalid, "has a name of more than 255 bytes: " + in_quotes(part));
    }
    clean += (clean.empty() ? "" : "/") + std::string(part);
  }
  if (clean.size() > kLongestWorkspacePath) {
    return fail(ErrorCode::kInvalid, "is longer than 4000 bytes: " + in_quotes(clean));
  }
  return clean;
}

void add_policy(CachePolicy& all, const CachePolicy& one) {
  all.enabled = all.enabled && one.enabled;
  if (one.ttl && (!all.ttl || *one.ttl < *all.ttl)) all.ttl = one.ttl;
  for (const std::string& path : one.on_change) {
    const bool known =
        std::find(all.on_change.begin(), all.on_change.end(), path) != all.on_change.end();
    if (!known) all.on_change.push_back(path);
  }
}

Status check_graph(const Pipeline& pipeline, std::string_view origin) {
  const std::string where = shown_origin(origin);
  std::map<std::string_view, std::size_t> by_key;
  for (std::size_t i = 0; i < pipeline.steps.size(); ++i) {
    const Step& step = pipeline.steps[i];
    std::string problem = step_problem(step);
    if (problem.empty() && !by_key.emplace(step.key, i).second) {
      problem = "two steps have this key";
    }
    if (problem.empty()) problem = index_problem(step, pipeline.steps.size());
    if (problem.empty()) continue;
    return fail(ErrorCode::kInvalid, where + ": step " + in_quotes(step.key) + ": " + problem);
  }
  return check_cycles(pipeline, where);
}

std::vector<std::size_t> topological_order(const Pipeline& pipeline) {
  const std::size_t count = pipeline.steps.size();
  std::vector<std::size_t> missing(count, 0);
  std::vector<std::vector<std::size_t>> dependents(count);
  std::priority_queue<std::size_t, std::vector<std::size_t>, std::greater<>> ready;
  for (std::size_t i = 0; i < count; ++i) {
    const auto needs = prerequisites(pipeline.steps[i]);
    missing[i] = needs.size();
    for (const std::size_t needed : needs) dependents[needed].push_back(i);
    if (needs.empty()) ready.push(i);
  }
  std::vector<std::size_t> order;
  while (!ready.empty()) {
    const std::size_t index = ready.top();
    ready.pop();
    order.push_back(index);
    for (const std::size_t dependent : dependents[index]) {
      if (--missing[dependent] == 0) ready.push(dependent);
    }
  }
  return order;
}

Result<Pipeline> restrict_to(const Pipeline& pipeline, const std::vector<std::string>& keys) {
  if (keys.empty()) return pipeline;
  HM_ASSIGN(const std::vector<bool> marked, mark_ancestors(pipeline, keys));
  Pipeline out = pipeline;
  out.steps.clear();
  std::vector<std::size_t> new_index(pipeline.steps.size(), 0);
  for (std::size_t i = 0; i < pipeline.steps.size(); ++i) {
    if (!marked[i]) continue;
    new_index[i] = out.steps.size();
    out.steps.push_back(pipeline.steps[i]);
  }
  // Everything a marked step waits for is marked too, and document order is kept, so `after`
  // stays sorted.
  for (Step& step : out.steps) {
    if (step.parent) step.parent = new_index[*step.parent];
    for (std::size_t& index : step.after) index = new_index[index];
  }
  return out;
}

}  // namespace hm::runner
