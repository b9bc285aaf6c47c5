#include "runner/sources.h"

#include <sys/stat.h>

#include "fs/live_rules.h"

namespace hm::runner {

Result<std::string> resolve_image(const std::string& name, const std::string& workspace) {
  if (name == kHostImage) return name;
  const std::string path = name.starts_with("/") ? name : workspace + "/" + name;
  struct stat st {};
  if (::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return path;
  if (name.starts_with("/") || name.starts_with(".")) {
    return fail(ErrorCode::kNotFound, "image '" + name + "' is not a directory");
  }
  return fail(ErrorCode::kNotFound, "image '" + name +
                                        "' is not known: use \"host\" or the path of a directory "
                                        "(in the document, or with --image)");
}

Result<std::unique_ptr<Sources>> Sources::open(const std::string& workspace, IdMode id_mode,
                                               store::Store& store) {
  std::unique_ptr<Sources> sources(new Sources(workspace, id_mode, store));
  HM_ASSIGN(auto rules, fs::workspace_rules(workspace, {store.home()}, store));
  sources->workspace_ = std::make_shared<fs::LiveSource>(std::move(rules), store);
  return sources;
}

Result<fs::ViewBase> Sources::base(const std::string& image) {
  const std::lock_guard lock(mutex_);
  auto& source = images_[image];
  if (!source) {
    const auto owners = id_mode_ == IdMode::kFull ? fs::Owners::kReal : fs::Owners::kSquashed;
    HM_ASSIGN(auto rules, image == kHostImage
                              ? fs::host_rules(owners, {root_, store_.home()})
                              : fs::directory_rules(image, owners, {store_.home()}));
    source = std::make_shared<fs::LiveSource>(std::move(rules), store_);
  }
  return fs::ViewBase{source, workspace_};
}

Result<std::optional<std::string>> Sources::moved_rule_file() {
  std::vector<std::shared_ptr<fs::LiveSource>> sources = {workspace_};
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, source] : images_) {
      if (source) sources.push_back(source);
    }
  }
  for (const auto& source : sources) {
    HM_ASSIGN(auto moved, source->moved_rule_file());
    if (moved) return moved;
  }
  return std::optional<std::string>{};
}

void Sources::submit_learned() {
  const std::lock_guard lock(mutex_);
  store::Batch batch;
  batch.files = workspace_->take_learned();
  for (const auto& [name, source] : images_) {
    if (!source) continue;
    const auto more = source->take_learned();
    batch.files.insert(batch.files.end(), more.begin(), more.end());
  }
  if (!batch.files.empty()) store_.submit(std::move(batch));
}

}  // namespace hm::runner
