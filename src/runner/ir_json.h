// Harmont's pipeline IR, version 0, read and written.
//
// parse_ir() takes the graph form (steps with `cmd`, `action` or `eval`) and the older flat form
// (`steps` with `wait` barriers). Unknown fields are ignored, as Harmont ignores them; what we
// cannot run (dynamic and mount steps, secrets) is refused by name instead of being skipped. Three
// fields in a step are ours: `cwd`, `network` ("host" or "none") and, in the graph form,
// `continue_on_failure`; so are the top-level `name` and the cache policy "auto".
// Pure functions, safe from any thread. Errors are kInvalid, one line: "FILE:LINE:COLUMN: step
// 'KEY': reason"; what only the whole graph shows (a cycle) has no line and column.
#pragma once

#include <string>
#include <string_view>

#include "runner/pipeline.h"
#include "store/util/result.h"

namespace hm::runner {

// `origin` names the document in messages; "-" is standard input. The result passed check_graph().
Result<Pipeline> parse_ir(std::string_view text, std::string_view origin);

// The graph form, indented by two spaces, with a newline at the end. parse_ir() gives back an equal
// pipeline if this one came out of a reader. Timeouts are rounded up to whole seconds.
std::string to_ir(const Pipeline& pipeline);

}  // namespace hm::runner
