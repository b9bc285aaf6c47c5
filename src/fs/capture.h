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

#include <memory>
#include <string>

#include "fs/layer.h"
#include "fs/seen_times.h"
#include "fs/view.h"
#include "store/store.h"

namespace hm::fs {

// When the step started, and the times that it was shown: files older than the start were given
// their time by the step, those that have a time in `seen` took it from there.
struct StepTimes {
  std::int64_t started_ns = 0;
  SeenTimes seen{{}};
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
