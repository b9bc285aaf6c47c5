// Sources: the live trees that the views of one attempt share — the workspace and the images.
//
// Each attempt of a run has fresh Sources, and with them fresh pins. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "fs/view.h"
#include "image/config.h"
#include "runner/isolation.h"
#include "store/store.h"

namespace hm::runner {

inline constexpr const char* kHostImage = "host";

// What an image's name means at this moment.
struct ResolvedImage {
  // For Sources::base, and for the report of the run: "host", the absolute path of a directory, or
  // NAME@sha256:TREE of an image in the store.
  std::string id;
  image::ImageConfig config;
};
bool is_stored_image(const std::string& id);
// The parts of a stored image's id: its name, and the digest of its tree in hex.
struct ShownImage {
  std::string name, tree;
};
ShownImage shown_image(const std::string& id);
// For Sources::base: the image with this id, and a workspace that belongs to `user`.
std::string base_for(const std::string& id, const image::UserIds& user);
// "host", a directory (relative to the workspace), or the name of an image in the store. kNotFound,
// saying how to get it, for anything else.
Result<ResolvedImage> resolve_image(const std::string& name, const std::string& workspace,
                                    store::Store& store);

class Sources {
 public:
  // `workspace` is the project root.
  static Result<std::unique_ptr<Sources>> open(const std::string& workspace, IdMode id_mode,
                                               store::Store& store);

  // `image` is a ResolvedImage's id, or of base_for. kNotFound when it is not in the store any
  // longer.
  Result<fs::ViewBase> base(const std::string& image);
  // What decides how a source looks and is not as it was: an ignore file, the root itself.
  Result<std::optional<std::string>> moved_rule_file();
  // Queues what was learned about file digests for the store.
  void submit_learned();

 private:
  Result<std::shared_ptr<fs::Source>> open_image(const std::string& image);
  Sources(std::string root, IdMode id_mode, store::Store& store)
      : root_(std::move(root)), id_mode_(id_mode), store_(store) {}

  const std::string root_;
  const IdMode id_mode_;
  store::Store& store_;
  std::shared_ptr<fs::Source> workspace_;
  std::mutex mutex_;  // guards images_
  std::map<std::string, std::shared_ptr<fs::Source>> images_;
};

}  // namespace hm::runner
