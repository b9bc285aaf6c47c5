// The project on disk: where it begins and which pipelines it declares.
//
// A project is the directory that holds `.hm/`; its pipelines are `.hm/NAME.toml` (the TOML format)
// and `.hm/NAME.json` (Harmont's IR). `.hm/config.toml` is configuration and never a pipeline.
// Functions without state that read the file system; safe from any thread. Errors: kNotFound when
// the user must name another pipeline (the message lists them), kInvalid when one is wrong, kIo
// when the operating system refuses. Every message is one line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runner/pipeline.h"
#include "store/util/result.h"

namespace hm::runner {

enum class PipelineFormat { kToml, kIr };

struct PipelineFile {
  std::string name;  // the file's name without its ending
  std::string path;
  PipelineFormat format = PipelineFormat::kToml;

  bool operator==(const PipelineFile&) const = default;
};

// The nearest directory at or above `start_dir` that has a `.hm` directory; absolute, symbolic
// links resolved. nullopt: there is none.
Result<std::optional<std::string>> find_root(const std::string& start_dir);

// Sorted by name, then path; empty without `.hm`. Regular files whose name starts with a letter or
// digit and goes on with letters, digits, '-', '_' and '.', at most 64; others are no pipelines.
Result<std::vector<PipelineFile>> list_pipelines(const std::string& root);

// Reads the named pipeline, or the only one there is, and nothing but that file. Pipeline::name is
// the file's name.
Result<Pipeline> load_pipeline(const std::string& root, const std::optional<std::string>& name);

// Whether `.hm/` has *.py files: Harmont's own DSL, which has to be rendered to the IR first.
bool has_python_pipelines(const std::string& root);

}  // namespace hm::runner
