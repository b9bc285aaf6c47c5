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
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"
#include "fs/layer.h"
#include "fs/live_source.h"
#include "fs/shown_times.h"

namespace hm::fs {

// Where a path's entry comes from; larger is newer. Layer i of the chain is kOriginFirstLayer + i.
using Origin = std::uint32_t;
inline constexpr Origin kOriginWorkspace = 0;
inline constexpr Origin kOriginImage = 1;
inline constexpr Origin kOriginFirstLayer = 2;
inline constexpr std::int64_t kImageMomentNs = kFixedTimeNs + 1;  // see View::Node::moment_ns

struct ViewLayer {
  Digest digest;
  std::shared_ptr<const Layer> layer;
  std::int64_t started_ns = 0;
  std::int64_t captured_ns = 0;
  // Set once for all views of one run, so that a file looks the same to all its steps.
  std::optional<ShownTimes> times;
};

// Settles when the files of `layer` are shown to have been written, above the layers `below`.
void place_times(ViewLayer& layer, std::span<const ViewLayer> below, std::int64_t now_ns);

// What is below the layers. The view shares the sources with the other views of one run.
struct ViewBase {
  std::shared_ptr<Source> image;      // null: only the skeleton
  std::shared_ptr<Source> workspace;  // null: /workspace is an empty directory
  std::uint32_t uid = 0, gid = 0;     // whose all of /workspace is
};

class KnownValues;

class View {
 public:
  // One existing path. Valid only with the view it came from.
  struct Node {
    std::string path;
    Entry entry;
    Origin origin = kOriginImage;
    std::int64_t mtime_ns = kFixedTimeNs;
    // The time as the trace's order has it: all times of one execution count as one moment, and so
    // do all of the image; a time that the step set is a moment of its own.
    std::int64_t moment_ns = kImageMomentNs;
    bool of_run = false;  // mtime_ns is when a step wrote the file
    bool operator==(const Node&) const = default;

   private:
    friend class View;
    enum class Base : std::uint8_t { kNone, kDefaults, kImage, kWorkspace };
    std::vector<std::uint16_t> layers_;  // directories: those that add children, newest first
    Base base_ = Base::kNone;            // where a file's bytes or a directory's other children are
  };

  // `layers` oldest first. Those without ShownTimes are placed up to `now_ns`.
  View(ViewBase base, std::vector<ViewLayer> layers, std::int64_t now_ns);

  Result<Node> root() const;
  Result<std::optional<Node>> child(const Node& dir, std::string_view name) const;
  Result<Listing> list(const Node& dir) const;  // sorted
  // The walk from the root, component by component; symlinks are not followed.
  Result<std::optional<Node>> resolve(std::string_view path) const;

  // Digest of a file's bytes; `capture` also makes sure that the store has them.
  Result<Digest> digest(const Node& file) const;
  Result<Digest> capture(const Node& file) const;
  // The bytes of a file of at most kSmallFile, and their digest: of a live file as in
  // Source::read_small, of any other from `blobs`.
  Result<Digest> read_small(const Node& file, const store::BlobStore& blobs,
                            std::string& bytes) const;
  // Source::open_resting; nullopt of what is not live, too.
  Result<std::optional<LiveFile>> open_resting(const Node& file) const;
  Result<Digest> hash(const Node& file) const;  // Source::hash
  // Has the kernel begin to read what read_small will.
  void read_ahead(const Node& file, const store::BlobStore& blobs) const;
  // For the same purpose; `blobs` must outlive what is returned.
  OnDisk files_on_disk(const Node& dir, const store::BlobStore& blobs) const;
  OnDisk directories_on_disk(const Node& dir) const;

  // The first of these paths that has changed since this run pinned it (Source::first_moved).
  Result<std::optional<std::string>> first_moved(std::span<const std::string_view> paths) const;
  // Source::lasting_digests of both sources.
  std::vector<store::FileDigest> lasting_digests(std::span<const std::string_view> paths) const;
  // Tells apart the link groups of the image and of layers that have one name: how many older ones
  // there are. Not the layer's own place in the chain, which no observation covers.
  std::size_t link_rank(const Node& node) const;
  // What other lookups have found on a view like this one; null: nobody shares it.
  void share(std::shared_ptr<KnownValues> values) { known_values_ = std::move(values); }
  KnownValues* known_values() const { return known_values_.get(); }
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
  BaseChild workspace_child(Entry entry, std::int64_t mtime_ns) const;
  Result<std::optional<BaseChild>> live_child(const std::string& path, Base base) const;
  Result<Node> root_below(std::size_t layers) const;
  Result<std::optional<Node>> walk(Node node, std::string_view path) const;
  Status take_layer_entry(Node& node, const LayerEntry& item, std::uint16_t layer) const;
  Status take_time(Node& node, const LayerEntry& item, std::uint16_t layer) const;
  std::string workspace_path(std::string_view path) const;
  Source* live_source(const Node& file) const;  // null: its bytes are in the store
  std::string source_path(const Node& file) const;
  struct LivePaths {
    std::vector<std::string_view> workspace, image;  // as the sources name them
  };
  LivePaths live_paths(std::span<const std::string_view> paths) const;

  ViewBase base_;
  std::vector<ViewLayer> layers_;
  bool may_have_xattrs_ = false;
  std::shared_ptr<KnownValues> known_values_;
};

}  // namespace hm::fs
