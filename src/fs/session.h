// Session: serves one view through FUSE, read-only, and records what was served.
//
// One session per attempt of a step: its mount is fresh, so the kernel's caches hold nothing and
// the first access to anything reaches us. Everything is answered with infinite timeouts; repeats
// cost nothing. OPEN is answered ENOSYS once, then the first READ is the content observation.
// Directories whose entries the last execution looked up are served by READDIRPLUS (LookupProfile).
// One nodeid per path, always: two hard-linked names under one nodeid would share a page cache and
// hide the second read. Node ids are numbers of ours, never pointers.
//
// States: mounted (start returned) → stopped (stop returned). The trace may be taken when stopped.
// A session that could not observe or serve something says so in `failure`: its trace must then
// not become a record. Thread-safe while mounted.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "fs/lookup_profile.h"
#include "fs/seen_times.h"
#include "fs/trace.h"
#include "fs/view.h"
#include "store/store.h"

namespace hm::fs {

struct SessionFailure {
  enum class Kind {
    kIncomplete,  // an error while serving; the observation log may lack something
    kMoved,       // a live path changed while it was being captured
    kStore,       // a blob of a layer is missing or corrupt
  };
  Kind kind = Kind::kIncomplete;
  std::string path;  // as the step names it, with a leading slash
  std::string reason;
};

class Session {
 public:
  // Called once for each new observation, from server threads; for `hmfs mount`.
  using Watcher = std::function<void(const Observation&)>;

  // Mounts at `mount_point` (an empty directory) and starts serving. `view` and `store` must
  // outlive the session.
  static Result<std::unique_ptr<Session>> start(const View& view, store::Store& store,
                                                const std::string& mount_point, Watcher watcher,
                                                LookupProfile profile = {});
  virtual ~Session() = default;

  // Unmounts and ends the server threads; later calls do nothing.
  virtual void stop() = 0;
  // Blocks until somebody unmounts the filesystem, or until `stop` is requested.
  virtual void wait(const std::stop_token& stop) = 0;

  // Records an observation that was not caused by the kernel (`on_change` paths, the empty /tmp).
  // Absent paths are recorded absent. Returns the node if it is there.
  virtual Result<std::optional<View::Node>> observe(const std::string& path,
                                                    ObservationKind kind) = 0;

  virtual Trace trace() = 0;
  // Of all files that were looked up; when stopped.
  virtual std::vector<SeenTime> seen_times() = 0;
  virtual std::optional<SessionFailure> failure() = 0;
};

}  // namespace hm::fs
