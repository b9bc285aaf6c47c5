#include "fs/layer_diff.h"

namespace hm::fs {

namespace {

// The first thing that differs, the most telling first; "" when nothing does.
std::string difference(const LayerEntry& a, const LayerEntry& b) {
  if (a.whiteout != b.whiteout) return b.whiteout ? "removed" : "not removed";
  if (a.entry.kind != b.entry.kind) return "kind";
  if (a.content != b.content || a.entry.size != b.entry.size) return "content";
  if (a.entry.target != b.entry.target) return "target";
  if (a.entry.mode != b.entry.mode) return "mode";
  if (a.entry.uid != b.entry.uid || a.entry.gid != b.entry.gid) return "owner";
  if (a.entry.rdev != b.entry.rdev) return "device";
  if (a.entry.xattrs != b.entry.xattrs) return "extended attributes";
  if (a.entry.link_group != b.entry.link_group) return "hard links";
  if (a.opaque != b.opaque) return "replaced directory";
  if (a.time_of != b.time_of || a.time_path != b.time_path) return "time";
  if (a.time_of == TimeOf::kKept && a.mtime_ns != b.mtime_ns) return "time";
  return "";
}

}  // namespace

std::vector<LayerDifference> layer_differences(const Layer& before, const Layer& after) {
  std::vector<LayerDifference> out;
  auto a = before.entries().begin();
  auto b = after.entries().begin();
  while (a != before.entries().end() || b != after.entries().end()) {
    const bool only_before =
        b == after.entries().end() || (a != before.entries().end() && PathLess{}(a->path, b->path));
    const bool only_after =
        !only_before && (a == before.entries().end() || PathLess{}(b->path, a->path));
    if (only_before) {
      out.push_back({(a++)->path, "gone"});
    } else if (only_after) {
      out.push_back({(b++)->path, "appeared"});
    } else {
      std::string how = difference(*a++, *b);
      if (!how.empty()) out.push_back({b->path, std::move(how)});
      ++b;
    }
  }
  return out;
}

}  // namespace hm::fs
