// Pipelines written by hand: the project's own TOML format, read from .hm/NAME.toml.
//
// Unlike the IR (ir_json.h) the format is closed: a key it does not know is an error, because a
// misspelt `after` would otherwise silently change what runs. `from` and `after` may name steps
// that stand further down. Steps get the top-level [env] with their own on top. Pure functions,
// safe from any thread. Errors are kInvalid and one line: "FILE:LINE:COLUMN: what is wrong and what
// to do"; only a cycle, which stands on no single line, has no LINE:COLUMN.
#pragma once

#include <string_view>

#include "runner/pipeline.h"
#include "store/util/result.h"

namespace hm::runner {

// `origin` names the document in messages; "-" is standard input. The result passed check_graph().
Result<Pipeline> parse_toml(std::string_view text, std::string_view origin);

}  // namespace hm::runner
