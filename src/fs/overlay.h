// Overlay: a step's writable root — overlayfs over a served view, with its upper in the scratch.
//
// redirect_dir and metacopy are off and userxattr is on for everybody, so that what a step sees
// does not depend on who runs hm. `volatile` skips every sync: the upper is read once and thrown
// away. The mount goes away with the object (lazily, should something still hold it). One thread.
#pragma once

#include <string>

#include "fs/view.h"
#include "store/util/result.h"

namespace hm::fs {

class Overlay {
 public:
  // `dir` is an existing directory of ours; its subdirectories upper, work and root are made.
  // `root` gives the mode and owner of the root directory.
  static Result<Overlay> mount(const std::string& lower, const std::string& dir, const Entry& root);
  // Makes `path` (relative, its parents as in the view) an empty opaque directory of the upper;
  // before mount. For a /tmp that the view has empty.
  static Status add_opaque_directory(const View& view, const std::string& dir,
                                     const std::string& path);
  Overlay(Overlay&& other) noexcept : dir_(std::exchange(other.dir_, {})) {}
  Overlay& operator=(Overlay&&) = delete;
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;
  ~Overlay() { unmount(); }

  std::string root() const { return dir_ + "/root"; }
  std::string upper() const { return dir_ + "/upper"; }
  void unmount();

 private:
  explicit Overlay(std::string dir) : dir_(std::move(dir)) {}
  std::string dir_;
  bool mounted_ = true;
};

}  // namespace hm::fs
