// The rules every pipeline obeys whatever document it came from, and the walks over its graph.
//
// The readers (ir_json.h, pipeline_toml.h) share the pieces at the top so that both formats refuse
// the same things in the same words. Pure functions over values, safe from any thread. Errors are
// kInvalid for a pipeline that cannot be run and kNotFound for a step that does not exist; every
// message is one line.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "runner/pipeline.h"
#include "store/util/result.h"

namespace hm::runner {

// `text` fit for one line of a message: control characters and bytes that are not UTF-8 escaped,
// cut after about 200 bytes.
std::string printable(std::string_view text);
// printable() in single quotes.
std::string in_quotes(std::string_view text);
// A document's name in messages: "-" is "<stdin>".
std::string shown_origin(std::string_view origin);

// What is wrong with this step taken alone (key, command, image, env, cwd); "" if nothing is.
std::string step_problem(const Step& step);
// A path below /workspace without ".", doubled or trailing slashes ("" is /workspace itself);
// absolute paths and ".." are refused.
Result<std::string> workspace_path(std::string_view path);
// Makes `all` hold what it held and `one` too: the shorter ttl, the paths of both, none wins.
void add_policy(CachePolicy& all, const CachePolicy& one);

// Refuses step_problem()s, duplicate keys, indexes that name no step, and cycles. A pipeline
// without steps is fine, as it is for Harmont.
Status check_graph(const Pipeline& pipeline, std::string_view origin);

// Every step after its parent and the steps it is `after`; otherwise in document order. Steps on a
// cycle, and those behind one, are left out: check_graph() first.
std::vector<std::size_t> topological_order(const Pipeline& pipeline);

// The named steps and all their ancestors, in document order; no names = the whole pipeline.
Result<Pipeline> restrict_to(const Pipeline& pipeline, const std::vector<std::string>& keys);

}  // namespace hm::runner
