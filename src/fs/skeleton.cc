#include "fs/skeleton.h"

#include <algorithm>

namespace hm::fs {

const SkeletonEntry* find_skeleton(std::string_view path) {
  const std::size_t slash = path.find('/');
  const bool is_deeper =
      slash != std::string_view::npos && path.find('/', slash + 1) != std::string_view::npos;
  if (is_deeper) return nullptr;  // than any of them
  const auto* it = std::find_if(kSkeleton.begin(), kSkeleton.end(),
                                [&](const SkeletonEntry& entry) { return entry.path == path; });
  return it == kSkeleton.end() ? nullptr : it;
}

bool is_mounted_path(std::string_view path) {
  return std::any_of(kSkeleton.begin(), kSkeleton.end(), [&](const SkeletonEntry& entry) {
    return entry.use == SkeletonUse::kMounted && is_within(path, entry.path);
  });
}

Digest skeleton_digest() {
  Hasher hasher;
  for (const SkeletonEntry& entry : kSkeleton) {
    hasher.field(entry.path);
    hasher.field(static_cast<std::uint64_t>(entry.kind));
    hasher.field(entry.mode);
    hasher.field(static_cast<std::uint64_t>(entry.use));
  }
  return hasher.finish();
}

}  // namespace hm::fs
