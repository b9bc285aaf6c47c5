// View: sources plus layers, later ones on top; a pure function path → entry.
//
// From the top: the sandbox's mount points (skeleton.h), the layers newest first, the workspace at
// /workspace, the image, the skeleton's defaults. Composition is overlayfs's: a whiteout hides what
// is below, an opaque directory hides the children below, both indistinguishable from "never
// existed". The same function serves a step's root and evaluates observations. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"
#include "fs/layer.h"
#include "fs/live_source.h"

namespace hm::fs {

// Where a path's entry comes from; larger is newer. Layer i of the chain is kOriginFirstLayer + i.
using Origin = std::uint32_t;
inline constexpr Origin kOriginWorkspace = 0;
inline constexpr Origin kOriginImage = 1;
inline constexpr Origin kOriginFirstLayer = 2;

struct ViewLayer {
  Digest digest;
  std::shared_ptr<const Layer> layer;
  std::int64_t started_ns = 0;
  std::int64_t captured_ns = 0;
};

// What is below the layers. The view shares the sources with the other views of one run.
struct ViewBase {
  std::shared_ptr<LiveSource> image;      // null: only the skeleton
  std::shared_ptr<LiveSource> workspace;  // null: /workspace is an empty directory
};

class View {
 public:
  // One existing path. Valid only with the view it came from.
  struct Node {
    std::string path;
    Entry entry;
    Origin origin = kOriginImage;
    std::int64_t mtime_ns = kFixedTimeNs;

   private:
    friend class View;
    enum class Base : std::uint8_t { kNone, kDefaults, kImage, kWorkspace };
    std::vector<std::uint16_t> layers_;  // directories: those that add children, newest first
    Base base_ = Base::kNone;            // where a file's bytes or a directory's other children are
    Digest content_;                     // files of layers
  };

  // `layers` oldest first. `now_ns` bounds the times shown (see shown_mtime in view.cc).
  View(ViewBase base, std::vector<ViewLayer> layers, std::int64_t now_ns);

  Result<Node> root() const;
  Result<std::optional<Node>> child(const Node& dir, std::string_view name) const;
  Result<Listing> list(const Node& dir) const;  // sorted
  // The walk from the root, component by component; symlinks are not followed.
  Result<std::optional<Node>> resolve(std::string_view path) const;

  // Digest of a file's bytes; `capture` also makes sure that the store has them.
  Result<Digest> digest(const Node& file) const;
  Result<Digest> capture(const Node& file) const;

  // Whether a live path has changed since this run pinned it (LiveSource::moved).
  Result<bool> moved(std::string_view path) const;
  bool may_have_xattrs() const { return may_have_xattrs_; }
  const std::vector<ViewLayer>& layers() const { return layers_; }

 private:
  using Base = Node::Base;
  struct BaseChild {
    Entry entry;
    Base base;
    Origin origin;
    std::int64_t mtime_ns;
  };
  Result<std::optional<BaseChild>> base_child(const std::string& path, Base dir_base) const;
  Result<std::optional<BaseChild>> live_child(const std::string& path, Base base) const;
  void take_layer_entry(Node& node, const LayerEntry& item, std::uint16_t layer) const;
  std::int64_t shown_mtime(const LayerEntry& item, std::uint16_t layer) const;
  std::string workspace_path(std::string_view path) const;

  ViewBase base_;
  std::vector<ViewLayer> layers_;
  std::vector<std::int64_t> shifts_;  // per layer, nanoseconds
  std::int64_t now_ns_;
  bool may_have_xattrs_ = false;
};

}  // namespace hm::fs
