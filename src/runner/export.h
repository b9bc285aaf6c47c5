// Export: copies a path of a finished step's root out to the host.
//
// The only place where bytes of a step reach the host's files. DEST is made as a temporary sibling
// and renamed, so it appears whole or not at all. Owners are the caller's; modes, symlinks, hard
// links within the tree and times are kept, device nodes are refused. One thread.
#pragma once

#include <string>

#include "fs/view.h"
#include "store/store.h"
#include "store/util/fd.h"

namespace hm::runner {

enum class Existing { kRefuse, kReplace };

// `path` is relative to the view's root.
Status export_path(const fs::View& view, store::Store& store, const std::string& path,
                   const std::string& dest, Existing existing);

// The directory `path` below `root`, without following a symlink; kInvalid when it leads elsewhere.
Result<Fd> open_directory_beneath(const std::string& root, const std::string& path);

// The view that a step of an earlier run left: its chain, its own layer, and the live sources.
Result<fs::View> view_of_step(const store::RunStep& step, const fs::ViewBase& base,
                              store::Store& store);

}  // namespace hm::runner
