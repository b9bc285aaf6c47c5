#include "fs/upper_entries.h"

#include <algorithm>

#include "fs/skeleton.h"

namespace hm::fs {

namespace {

// Of what the view has at the same path: a file that is copied up keeps its time.
bool has_time_of(const LayerEntry& item, const std::optional<View::Node>& lower) {
  return lower && lower->entry.kind != EntryKind::kDirectory && lower->mtime_ns == item.mtime_ns;
}

}  // namespace

LayerEntry whiteout_at(std::string path) {
  LayerEntry item;
  item.path = std::move(path);
  item.whiteout = true;
  return item;
}

UpperEntries::UpperEntries(const View& below, const StepTimes& times)
    : below_(below), times_(times), ended_ns_(times.ended_ns.value_or(now_ns())) {}

Result<std::optional<View::Node>> UpperEntries::below(std::string_view name) const {
  const Open& dir = open_.back();
  if (!dir.merges || entries_[dir.entry].opaque) return std::optional<View::Node>();
  return below_.child(*dir.lower, name);
}

Status UpperEntries::enter(LayerEntry item) {
  Open dir{entries_.size(), std::nullopt};
  if (open_.empty()) {
    HM_ASSIGN(dir.lower, below_.root());
  } else {
    HM_ASSIGN(dir.lower, below(base_name(item.path)));
  }
  dir.merges = dir.lower && dir.lower->entry.kind == EntryKind::kDirectory;
  dir.changes_nothing = dir.merges && dir.lower->entry == item.entry;
  open_.push_back(std::move(dir));
  entries_.push_back(std::move(item));
  return {};
}

Status UpperEntries::leave() {
  const Open dir = std::move(open_.back());
  open_.pop_back();
  // The layer's encoding wants every parent; a directory that only repeats the view and has
  // nothing in it says nothing.
  const bool empty = entries_.size() == dir.entry + 1;
  if (!empty || !dir.changes_nothing) return {};
  if (entries_.back().opaque) {
    const std::string& path = entries_.back().path;
    HM_ASSIGN(const Listing hidden, below_.list(*dir.lower));
    const bool hides = std::any_of(hidden.begin(), hidden.end(), [&](const DirEntry& item) {
      return !is_mounted_path(join_path(path, item.name));
    });
    if (hides) return {};
  }
  entries_.pop_back();
  return {};
}

UpperEntries::Added UpperEntries::add(LayerEntry item, const std::optional<View::Node>& lower) {
  const Added added{entries_.size(), !item.whiteout && has_time_of(item, lower)};
  const bool complete = item.whiteout || item.entry.kind != EntryKind::kFile;
  if (complete && !item.whiteout) settle_time(item, added.own_time);
  entries_.push_back(std::move(item));
  return added;
}

void UpperEntries::complete(const Added& file, const Digest& content, Xattrs xattrs) {
  LayerEntry& item = entries_[file.number];
  item.content = content;
  item.entry.xattrs = std::move(xattrs);
  settle_time(item, file.own_time);
}

void UpperEntries::link(std::string path, std::size_t first) {
  entries_[first].entry.link_group = entries_[first].path;
  members_.emplace_back(entries_.size(), first);
  entries_.emplace_back().path = std::move(path);
}

void UpperEntries::settle_time(LayerEntry& item, bool own) const {
  const bool before_or_after = item.mtime_ns < times_.started_ns || item.mtime_ns > ended_ns_;
  if (!own && !before_or_after) return;
  item.time_of = TimeOf::kKept;
  if (item.mtime_ns == kFixedTimeNs) return;  // every file of every workspace has it
  const bool is_file = item.entry.kind == EntryKind::kFile;
  const std::string* source =
      own ? &item.path
          : times_.seen.source(item.mtime_ns, is_file ? item.content.hex() : item.entry.target);
  if (source == nullptr) return;
  item.time_of = TimeOf::kTaken;
  item.time_path = *source;
  item.mtime_ns = 0;
}

std::optional<std::size_t> UpperEntries::find(std::string_view path) const {
  const auto it = std::lower_bound(entries_.begin(), entries_.end(), path,
                                   [](const LayerEntry& item, std::string_view wanted) {
                                     return PathLess{}(item.path, wanted);
                                   });
  if (it == entries_.end() || it->path != path) return std::nullopt;
  return static_cast<std::size_t>(it - entries_.begin());
}

std::shared_ptr<const Layer> UpperEntries::finish() {
  for (const auto& [member, first] : members_) {
    LayerEntry item = entries_[first];
    item.path = std::move(entries_[member].path);
    entries_[member] = std::move(item);
  }
  return Layer::build(std::move(entries_));
}

}  // namespace hm::fs
