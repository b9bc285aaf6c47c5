#include "runner/project.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

#include "runner/graph.h"
#include "runner/ir_json.h"
#include "runner/pipeline_toml.h"
#include "store/util/fd.h"

namespace hm::runner {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxNameBytes = 64;
constexpr std::string_view kDirectory = ".hm";
constexpr std::string_view kConfigFile = "config.toml";

struct Ending {
  std::string_view text;
  PipelineFormat format;
};
constexpr Ending kEndings[] = {{".toml", PipelineFormat::kToml}, {".json", PipelineFormat::kIr}};

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && is_alphanumeric(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_alphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

tl::unexpected<Error> refuse_io(const fs::path& path, const std::error_code& error) {
  return fail(system_error(printable(path.string()), error.value()));
}

// A missing file is of type not_found, not an error.
Result<fs::file_type> type_of(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none) return refuse_io(path, error);
  return status.type();
}

// The regular files in `.hm/`, links to such included; unsorted.
Result<std::vector<fs::path>> list_files(const std::string& root) {
  const fs::path directory = fs::path(root) / kDirectory;
  HM_ASSIGN(const fs::file_type type, type_of(directory));
  std::vector<fs::path> files;
  if (type != fs::file_type::directory) return files;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::error_code ignored;  // a link that cannot be followed is no pipeline
    if (entry->is_regular_file(ignored)) files.push_back(entry->path());
  }
  if (error) return refuse_io(directory, error);
  return files;
}

std::string list_names(const std::vector<PipelineFile>& files) {
  std::string text;
  std::string_view last;
  for (const PipelineFile& file : files) {
    if (file.name == last) continue;
    text += (text.empty() ? "" : ", ") + file.name;
    last = file.name;
  }
  return text;
}

std::string describe_choice(const std::string& root, const std::vector<PipelineFile>& files) {
  const std::string directory = printable((fs::path(root) / kDirectory).string());
  if (files.empty() && has_python_pipelines(root)) {
    return directory + "/*.py is Harmont's own: save what its hm render prints as " + directory +
           "/NAME.json";
  }
  if (files.empty()) {
    return "there are no pipelines in " + directory + "; write one to " + directory + "/ci.toml";
  }
  return "the pipelines in " + directory + " are: " + list_names(files);
}

// The name to load, when the user may have left it out.
Result<std::string> choose_name(const std::string& root, const std::vector<PipelineFile>& files,
                                const std::optional<std::string>& name) {
  const auto known = [&](const PipelineFile& file) { return file.name == name; };
  if (name && std::any_of(files.begin(), files.end(), known)) return *name;
  std::string why;
  if (name && !is_name(*name)) {
    why = in_quotes(*name) +
          " cannot be a pipeline's name (letters, digits, '-', '_' and '.', at most 64); ";
  } else if (name) {
    why = "there is no pipeline " + in_quotes(*name) + "; ";
  } else if (!files.empty()) {
    if (files.front().name == files.back().name) return files.front().name;  // sorted: just one
    why = "there are several pipelines, name one; ";
  }
  return fail(ErrorCode::kNotFound, why + describe_choice(root, files));
}

}  // namespace

Result<std::optional<std::string>> find_root(const std::string& start_dir) {
  std::error_code error;
  fs::path directory = fs::canonical(start_dir, error);
  if (error) return refuse_io(start_dir, error);
  while (true) {
    HM_ASSIGN(const fs::file_type type, type_of(directory / kDirectory));
    if (type == fs::file_type::directory) return directory.string();
    if (directory == directory.root_path()) return std::optional<std::string>();
    directory = directory.parent_path();
  }
}

Result<std::vector<PipelineFile>> list_pipelines(const std::string& root) {
  HM_ASSIGN(const std::vector<fs::path> paths, list_files(root));
  std::vector<PipelineFile> files;
  for (const fs::path& path : paths) {
    if (path.filename() == kConfigFile) continue;
    for (const Ending& ending : kEndings) {
      std::string name = path.stem().string();
      if (path.extension() != ending.text || !is_name(name)) continue;
      files.push_back({std::move(name), path.string(), ending.format});
    }
  }
  std::sort(files.begin(), files.end(), [](const PipelineFile& a, const PipelineFile& b) {
    return std::tie(a.name, a.path) < std::tie(b.name, b.path);
  });
  return files;
}

Result<Pipeline> load_pipeline(const std::string& root, const std::optional<std::string>& name) {
  HM_ASSIGN(const std::vector<PipelineFile> files, list_pipelines(root));
  HM_ASSIGN(const std::string chosen, choose_name(root, files, name));
  const auto is_chosen = [&](const PipelineFile& file) { return file.name == chosen; };
  const auto file = std::find_if(files.begin(), files.end(), is_chosen);
  const auto rival = std::find_if(file + 1, files.end(), is_chosen);
  if (rival != files.end()) {
    return fail(ErrorCode::kInvalid, "pipeline " + in_quotes(chosen) + " is declared twice, in " +
                                         printable(file->path) + " and " + printable(rival->path) +
                                         "; remove one");
  }
  HM_ASSIGN(const std::string text, read_file(file->path));
  auto pipeline = file->format == PipelineFormat::kToml ? parse_toml(text, file->path)
                                                        : parse_ir(text, file->path);
  if (pipeline) pipeline->name = chosen;
  return pipeline;
}

bool has_python_pipelines(const std::string& root) {
  const auto files = list_files(root);
  return files && std::any_of(files->begin(), files->end(),
                              [](const fs::path& path) { return path.extension() == ".py"; });
}

}  // namespace hm::runner
