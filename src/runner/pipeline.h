// Pipeline: the graph of steps that `hm run` executes, whatever document it was read from.
//
// Readers (ir_json.h, pipeline_toml.h) build it, `check_graph` refuses what cannot be run, `to_ir`
// prints it as Harmont's IR v0. Values; no thread-safety concerns.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runner/step_limits.h"
#include "store/util/result.h"

namespace hm::runner {

enum class Network { kHost, kNone };

// What a step says about reusing its result. Absent in the document = the defaults here.
struct CachePolicy {
  bool enabled = true;                      // false: `none`, always run
  std::optional<std::chrono::seconds> ttl;  // the record expires this long after it was made
  std::vector<std::string> on_change;       // paths and globs below /workspace, observed too
  std::string name = "auto";                // auto, none, forever, ttl, on_change, compose

  bool operator==(const CachePolicy&) const = default;
};

struct Step {
  std::string key;                         // unique in the pipeline
  std::string label;                       // for people; the key where the document has none
  std::string command;                     // run as `sh -c`
  std::vector<std::string> argv;           // run as it is instead of `command`; no document has it
  std::optional<std::string> image;        // only steps without a parent; see sources.h
  std::map<std::string, std::string> env;  // pipeline's and step's, merged
  // Below /workspace, "." = /workspace itself, "" = as the image says; no "..", no leading slash.
  std::string cwd;
  std::optional<std::chrono::milliseconds> timeout;
  CachePolicy cache;
  Network network = Network::kHost;
  Limits limits;
  std::optional<std::size_t> parent;  // index of the step whose filesystem this one starts from
  std::vector<std::size_t> after;     // order only; sorted, without the parent
  bool continue_on_failure = false;   // runs even if a step in `after` failed (flat `wait`)

  bool operator==(const Step&) const = default;
};

struct Pipeline {
  std::string name;
  std::optional<std::string> default_image;
  std::optional<std::chrono::milliseconds> timeout;  // the whole build
  std::vector<Step> steps;

  bool operator==(const Pipeline&) const = default;
};

}  // namespace hm::runner
