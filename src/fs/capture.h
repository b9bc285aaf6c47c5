// Capture: turns the upper directory that a successful step left into its layer.
//
// Every written byte is hashed once and none is copied: files move into the store by rename. The
// upper is overlayfs's (mounted with userxattr): a 0:0 character device is a whiteout,
// `user.overlay.opaque` = "y" an opaque directory, `user.overlay.overlay.*` what a step itself
// called `user.overlay.*` (Documentation/filesystems/overlayfs.rst). Paths of the sandbox's own
// (skeleton.h) are dropped, and directories that say nothing new about the view.
// No process of the step may be alive. Runs inside the namespace of the mount, because a user
// namespace changes how file capabilities look. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "fs/layer.h"
#include "fs/seen_times.h"
#include "fs/view.h"
#include "store/store.h"

namespace hm::fs {

// When the step started and ended, and the times that it was shown: files older than the start or
// newer than the end were given their time by the step, those that have a time in `seen` took it
// from there. On the clock that gave the files their times: in a guest, that one's.
struct StepTimes {
  std::int64_t started_ns = 0;
  SeenTimes seen{{}};
  std::optional<std::int64_t> ended_ns{};  // nullopt: now; when an archive was begun
};

// `upper` is used up: its files are blobs afterwards.
Result<std::shared_ptr<const Layer>> capture_upper(const std::string& upper, const View& below,
                                                   const StepTimes& times, store::BlobStore& blobs);

// Stores the layer's two blobs; its digest names it.
struct StoredLayer {
  Digest digest;
  Digest mtimes;
};
Result<StoredLayer> store_layer(const Layer& layer, store::BlobStore& blobs);
Result<std::shared_ptr<const Layer>> load_layer(const store::LayerTimes& times,
                                                const store::BlobStore& blobs);
// The same as a part of a view, not placed yet.
Result<ViewLayer> load_view_layer(const store::LayerTimes& times, const store::BlobStore& blobs);

}  // namespace hm::fs
