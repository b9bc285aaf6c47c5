#include "runner/sources.h"

#include <sys/stat.h>

#include <algorithm>
#include <sstream>

#include "fs/capture.h"
#include "fs/live_rules.h"
#include "fs/live_source.h"
#include "fs/stored_source.h"

namespace hm::runner {

namespace {

constexpr std::string_view kTreeMark = "@sha256:";
constexpr char kOwnerMark = '#';

// What stands for an image of the store, and back; nullopt for "host" and directories.
std::string stored_id(const store::Image& image) {
  return image.name + std::string(kTreeMark) + image.tree.hex();
}

struct StoredId {
  std::string name;
  Digest tree;
  std::uint32_t uid = 0, gid = 0;
};
std::optional<StoredId> parse_stored_id(const std::string& id) {
  const std::size_t mark = id.rfind(kTreeMark);
  if (id.starts_with("/") || mark == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(id).substr(mark + kTreeMark.size());
  const std::size_t owner = std::min(rest.find(kOwnerMark), rest.size());
  const auto tree = Digest::from_hex(rest.substr(0, owner));
  if (!tree) return std::nullopt;
  StoredId out{id.substr(0, mark), *tree};
  if (owner < rest.size()) {
    std::istringstream numbers{std::string(rest.substr(owner + 1))};
    char colon = 0;
    if (!(numbers >> out.uid >> colon >> out.gid)) return std::nullopt;
  }
  return out;
}

}  // namespace

bool is_stored_image(const std::string& id) { return parse_stored_id(id).has_value(); }

ShownImage shown_image(const std::string& id) {
  const auto stored = parse_stored_id(id);
  return stored ? ShownImage{stored->name, stored->tree.hex()} : ShownImage{id, ""};
}

std::string base_for(const std::string& id, const image::UserIds& user) {
  return id + kOwnerMark + std::to_string(user.uid) + ":" + std::to_string(user.gid);
}

Result<ResolvedImage> resolve_image(const std::string& name, const std::string& workspace,
                                    store::Store& store) {
  if (name == kHostImage) return ResolvedImage{name, {}};
  const std::string path = name.starts_with("/") ? name : workspace + "/" + name;
  struct stat st {};
  const bool is_directory = ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
  const std::string quoted = "image '" + fs::printable(name) + "'";
  // With a slash it is a path, if there is such a path.
  if (is_directory && (name.find('/') != std::string::npos || name.starts_with("."))) {
    return ResolvedImage{path, {}};
  }
  if (name.starts_with("/") || name.starts_with(".")) {
    return fail(ErrorCode::kNotFound, quoted + " is not a directory");
  }
  HM_ASSIGN(const auto image, store.image(name));
  if (image) {
    auto config = image::decode_config(image->config);
    if (!config) return fail(std::move(config).error().in(quoted));
    return ResolvedImage{stored_id(*image), std::move(*config)};
  }
  if (is_directory) return ResolvedImage{path, {}};
  const std::string shown = fs::printable(name);
  return fail(ErrorCode::kNotFound, quoted + " is not known: hm image pull " + shown +
                                        " gets it (with skopeo), hm image import " + shown +
                                        " SRC makes it of a directory or an archive");
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
    HM_ASSIGN(source, open_image(image));
  }
  fs::ViewBase base{source, workspace_};
  if (const auto id = parse_stored_id(image)) {
    base.uid = id->uid;
    base.gid = id->gid;
  }
  return base;
}

Result<std::shared_ptr<fs::Source>> Sources::open_image(const std::string& image) {
  if (const auto id = parse_stored_id(image)) {
    const auto owners = id_mode_ == IdMode::kSingle ? fs::Owners::kSquashed : fs::Owners::kReal;
    HM_TRY(store_.claim_layer(id->tree));
    HM_ASSIGN(const auto times, store_.layer_times(id->tree));
    const std::string named = "image '" + id->name + "'";
    if (!times) {
      return fail(ErrorCode::kNotFound, named + " (" + id->tree.hex().substr(0, 12) +
                                            ") is not in the store any longer: import it again");
    }
    auto tree = fs::load_layer(*times, store_.blobs());
    if (!tree) return fail(std::move(tree).error().in(named + ": import it again"));
    return std::shared_ptr<fs::Source>(
        std::make_shared<fs::StoredSource>(std::move(*tree), owners));
  }
  // The host's ids are others than those of a user namespace.
  const auto owners = id_mode_ == IdMode::kFull ? fs::Owners::kReal : fs::Owners::kSquashed;
  HM_ASSIGN(auto rules, image == kHostImage ? fs::host_rules(owners, {root_, store_.home()})
                                            : fs::directory_rules(image, owners, {store_.home()}));
  return std::shared_ptr<fs::Source>(std::make_shared<fs::LiveSource>(std::move(rules), store_));
}

Result<std::optional<std::string>> Sources::moved_rule_file() {
  std::vector<std::shared_ptr<fs::Source>> sources = {workspace_};
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
