// StoredSource: an image in the store as a source. Its tree is a layer that hides nothing, its
// files are blobs: what is served is read from the store when it is asked for, not before.
//
// Immutable, and so thread-safe. With squashed owners everything is shown as root's, as a user
// namespace with a single id has to see it.
#pragma once

#include <memory>
#include <string>

#include "fs/layer.h"
#include "fs/live_rules.h"
#include "fs/source.h"

namespace hm::fs {

class StoredSource final : public Source {
 public:
  StoredSource(std::shared_ptr<const Layer> tree, Owners owners)
      : tree_(std::move(tree)), owners_(owners) {}

  Result<std::optional<SourceEntry>> lookup(const std::string& path) override;
  Result<Listing> list(const std::string& path) override;
  Result<Digest> digest(const std::string& path) override;
  Result<Digest> capture(const std::string& path) override { return digest(path); }
  bool may_have_xattrs() const override { return tree_->has_xattrs(); }
  bool has_link_group(const std::string& group) const override;

 private:
  const std::shared_ptr<const Layer> tree_;
  const Owners owners_;
};

// Whether a layer can be a tree by itself: it has a root, and hides nothing.
bool is_whole_tree(const Layer& layer);

}  // namespace hm::fs
