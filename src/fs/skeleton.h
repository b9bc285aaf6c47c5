// The paths that every step's root has, whatever its image holds: the sandbox's mount points
// (always as they are here, never part of a layer) and a few directories that exist by default.
//
// One table for the view, the capture and the sandbox, so that they cannot disagree; its digest is
// part of the static key. Immutable.
#pragma once

#include <array>
#include <string_view>

#include "fs/entry.h"
#include "store/util/digest.h"

namespace hm::fs {

enum class SkeletonUse {
  kMounted,  // the sandbox mounts over it: the view shows an empty entry, capture drops it
  kDefault,  // there unless the image or a layer says otherwise
};

struct SkeletonEntry {
  std::string_view path;
  EntryKind kind;
  std::uint32_t mode;
  SkeletonUse use;
};

inline constexpr std::string_view kWorkspacePath = "workspace";

inline constexpr std::array<SkeletonEntry, 15> kSkeleton = {{
    {"dev", EntryKind::kDirectory, 0755, SkeletonUse::kMounted},
    {"proc", EntryKind::kDirectory, 0555, SkeletonUse::kMounted},
    {"run", EntryKind::kDirectory, 0755, SkeletonUse::kMounted},
    {"sys", EntryKind::kDirectory, 0555, SkeletonUse::kMounted},
    {"etc/hostname", EntryKind::kFile, 0644, SkeletonUse::kMounted},
    {"etc/hosts", EntryKind::kFile, 0644, SkeletonUse::kMounted},
    {"etc/resolv.conf", EntryKind::kFile, 0644, SkeletonUse::kMounted},
    {"etc", EntryKind::kDirectory, 0755, SkeletonUse::kDefault},
    {"home", EntryKind::kDirectory, 0755, SkeletonUse::kDefault},
    {"root", EntryKind::kDirectory, 0700, SkeletonUse::kDefault},
    {"tmp", EntryKind::kDirectory, 01777, SkeletonUse::kDefault},
    {"var", EntryKind::kDirectory, 0755, SkeletonUse::kDefault},
    {"var/cache", EntryKind::kDirectory, 0755, SkeletonUse::kDefault},
    {"var/tmp", EntryKind::kDirectory, 01777, SkeletonUse::kDefault},
    {kWorkspacePath, EntryKind::kDirectory, 0755, SkeletonUse::kDefault},
}};

const SkeletonEntry* find_skeleton(std::string_view path);
// `path` is a mount point of the sandbox or below one.
bool is_mounted_path(std::string_view path);
Digest skeleton_digest();

}  // namespace hm::fs
