// Session: serves one view through FUSE, read-only, and records what was served.
//
// One session per attempt of a step: its mount is fresh, so the kernel's caches hold nothing and
// the first access to anything reaches us. Everything is answered with infinite timeouts; repeats
// cost nothing. OPEN and OPENDIR are answered ENOSYS once: the first READ is the content
// observation, the first READDIR the list. With passthrough the OPEN of a large file is that of its
// content. Directories whose entries the last execution looked up are served by READDIRPLUS
// (LookupProfile). One nodeid per path, always: two hard-linked names under one nodeid would share
// a page cache and hide the second read. Node ids are numbers of ours, never pointers.
//
// The requests come from a kernel of this machine, through a mount, or from that of a virtual
// machine, through a stream (relay_channel.h). What is served and recorded is the same.
//
// States: mounted (start returned) → stopped (stop returned). The trace may be taken when stopped.
// A session that could not observe or serve something says so in `failure`: its trace must then
// not become a record. Thread-safe while mounted.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "fs/lookup_profile.h"
#include "fs/passthrough.h"
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
    kGuest,       // a relay's guest broke the protocol; nothing that it did is to be believed
    kAttributes,  // the profile expected no extended attributes, but `path` has some
  };
  Kind kind = Kind::kIncomplete;
  std::string path;  // as the step names it, with a leading slash
  std::string reason;
};

// What the guest of a relay may take of this machine.
struct RelayLimits {
  std::uint32_t names = 4'000'000;  // that it looks up, present or absent; about 100 bytes each
  // How long the next byte may take in the middle of a message, from it or to it.
  std::chrono::milliseconds patience{60'000};
};

class Session {
 public:
  // Called once for each new observation, from server threads; for `hmfs mount`.
  using Watcher = std::function<void(const Observation&)>;

  // Mounts at `mount_point` (an empty directory) and starts serving. `view` and `store` must
  // outlive the session. `abandon` is requested to stop on a failure of kind kAttributes: the step
  // has to start over. kRefused when passthrough is required and can't be had.
  static Result<std::unique_ptr<Session>> start(const View& view, store::Store& store,
                                                const std::string& mount_point, Watcher watcher,
                                                LookupProfile profile = {},
                                                PassthroughMode passthrough = PassthroughMode::kOff,
                                                std::stop_source abandon = never_abandoned());
  // Serves the kernel at the other end of `stream`, a socket whose peer is a virtual machine's
  // port, until the peer closes it or `stop` is called. Nothing from there is trusted: a message
  // that no kernel sends ends the session with kGuest. A peer that closes before `stop`, without
  // FUSE_DESTROY, leaves kIncomplete: stop the session before the machine ends. `abandon` as above.
  static Result<std::unique_ptr<Session>> start_relay(const View& view, store::Store& store,
                                                      Fd stream, Watcher watcher,
                                                      LookupProfile profile = {},
                                                      RelayLimits limits = {},
                                                      std::stop_source abandon = never_abandoned());
  virtual ~Session() = default;
  static std::stop_source never_abandoned() { return std::stop_source(std::nostopstate); }

  // Unmounts, or shuts the stream down, and ends the server threads; later calls do nothing.
  virtual void stop() = 0;
  // Blocks until somebody unmounts the filesystem or closes the stream, or until `stop` is
  // requested.
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
