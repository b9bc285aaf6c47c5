#include "fs/trace.h"

#include <algorithm>
#include <utility>

#include "fs/known_values.h"
#include "store/util/bytes.h"

namespace hm::fs {

namespace {

constexpr std::string_view kMagic = "hmtrace1";
constexpr std::size_t kLeastObservationBytes = 17;

std::string encode_trace(const Trace& trace, bool with_values) {
  Writer out;
  out.raw(kMagic);
  out.number(trace.observations.size());
  for (const Observation& item : trace.observations) {
    out.byte(static_cast<std::uint8_t>(item.kind));
    out.text(item.path);
    out.text(with_values ? std::string_view(item.value) : std::string_view{});
  }
  out.text(with_values ? std::string_view(trace.order) : std::string_view{});
  return out.take();
}

}  // namespace

const char* to_string(ObservationKind kind) {
  switch (kind) {
    case ObservationKind::kProbe:
      return "probe";
    case ObservationKind::kContent:
      return "content";
    case ObservationKind::kList:
      return "list";
  }
  return "?";
}

std::string Trace::encode() const { return encode_trace(*this, true); }
std::string Trace::encode_path_set() const { return encode_trace(*this, false); }

namespace {

// Calls `begin` with the number of observations, then `take` with each; yields the order value.
template <class Begin, class Take>
Result<std::string_view> decode_each(std::string_view blob, Begin begin, Take take) {
  const auto corrupt = [] { return fail(ErrorCode::kCorrupt, "trace: malformed"); };
  Reader in(blob);
  if (in.raw(kMagic.size()) != kMagic) return corrupt();
  const std::uint64_t count = in.number();
  if (count > in.left() / kLeastObservationBytes) return corrupt();
  begin(count);
  std::string_view previous;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint8_t kind = in.byte();
    if (kind > 2) return corrupt();
    const std::string_view path = in.text();
    const std::string_view value = in.text();
    if (!is_valid_path(path)) return corrupt();
    if (i > 0 && !PathLess{}(previous, path)) return corrupt();
    take(static_cast<ObservationKind>(kind), path, value);
    previous = path;
  }
  const std::string_view order = in.text();
  if (!in.done()) return corrupt();
  return order;
}

}  // namespace

Result<Trace> Trace::decode(std::string_view blob) {
  Trace trace;
  HM_ASSIGN(const std::string_view order,
            decode_each(
                blob, [&](std::uint64_t count) { trace.observations.reserve(count); },
                [&](ObservationKind kind, std::string_view path, std::string_view value) {
                  trace.observations.push_back({std::string(path), kind, std::string(value)});
                }));
  trace.order = order;
  return trace;
}

Result<std::shared_ptr<const PathSet>> PathSet::decode(std::string blob) {
  const auto out = std::make_shared<PathSet>(std::move(blob));
  auto& items = out->items_;
  HM_TRY(decode_each(
      out->blob_, [&](std::uint64_t count) { items.reserve(count); },
      [&](ObservationKind kind, std::string_view path, std::string_view) {
        items.push_back({path, kind});
      }));
  return std::shared_ptr<const PathSet>(out);
}

namespace {

// The order of the moments of the files observed, added in the order of their paths.
class MomentOrder {
 public:
  void add(std::string_view path, std::int64_t moment_ns) { files_.emplace_back(path, moment_ns); }

  std::string text() const {
    std::vector<std::int64_t> moments;
    for (const auto& [path, moment_ns] : files_) {
      if (moments.empty() || moments.back() != moment_ns) moments.push_back(moment_ns);
    }
    std::sort(moments.begin(), moments.end());
    moments.erase(std::unique(moments.begin(), moments.end()), moments.end());
    if (moments.size() < 2) return "one moment";
    Hasher hasher;
    for (const auto& [path, moment_ns] : files_) {
      const auto rank = std::lower_bound(moments.begin(), moments.end(), moment_ns);
      hasher.field(path);
      hasher.field(static_cast<std::uint64_t>(rank - moments.begin()));
    }
    return hasher.finish().hex();
  }

 private:
  std::vector<std::pair<std::string_view, std::int64_t>> files_;
};

bool is_timed(const View::Node& node) { return node.entry.kind != EntryKind::kDirectory; }

}  // namespace

bool TraceBuilder::Item::lists(std::string_view name) const {
  return !listing || std::any_of(listing->begin(), listing->end(),
                                 [&](const DirEntry& child) { return child.name == name; });
}

void TraceBuilder::add(Observation observation, const View::Node* node,
                       std::shared_ptr<const Listing> listing) {
  Item item{observation.kind,
            std::move(observation.value),
            node == nullptr,
            node != nullptr && is_timed(*node),
            node != nullptr ? node->moment_ns : kImageMomentNs,
            std::move(listing)};
  const auto [it, fresh] = items_.try_emplace(std::move(observation.path), item);
  if (!fresh && it->second.kind == ObservationKind::kProbe) it->second = std::move(item);
}

Trace TraceBuilder::finish() {
  Trace trace;
  MomentOrder order;
  for (auto& [path, item] : items_) {
    if (item.absent && !path.empty()) {
      const auto parent = items_.find(parent_path(path));
      const bool implied_here = parent != items_.end() &&
                                parent->second.kind == ObservationKind::kList &&
                                !parent->second.lists(base_name(path));
      if (implied_here) continue;
    }
    if (item.timed) order.add(path, item.moment_ns);
    trace.observations.push_back({path, item.kind, std::move(item.value)});
  }
  trace.order = order.text();
  return trace;
}

Result<std::string> observe(const View& view, const View::Node& node, ObservationKind kind) {
  if (kind == ObservationKind::kContent && node.entry.kind == EntryKind::kFile) {
    HM_ASSIGN(const Digest digest, view.digest(node));
    return content_text(node.entry, digest);
  }
  if (kind == ObservationKind::kList && node.entry.kind == EntryKind::kDirectory) {
    HM_ASSIGN(const Listing listing, view.list(node));
    return list_text(node.entry, listing);
  }
  return probe_text(node.entry);
}

namespace {

// Walks sorted paths, resolving each directory on the way once.
class SortedWalk {
 public:
  explicit SortedWalk(const View& view) : view_(view) {}

  Result<const View::Node*> find(std::string_view path) {
    if (stack_.empty()) {
      HM_ASSIGN(View::Node root, view_.root());
      stack_.emplace_back(std::move(root));
    }
    while (stack_.size() > 1 && !is_within(path, stack_.back()->path)) stack_.pop_back();
    while (stack_.back()->path != path) {
      const View::Node& dir = *stack_.back();
      if (dir.entry.kind != EntryKind::kDirectory) return nullptr;
      const std::string_view rest = path.substr(dir.path.empty() ? 0 : dir.path.size() + 1);
      HM_ASSIGN(auto next, view_.child(dir, rest.substr(0, rest.find('/'))));
      if (!next) return nullptr;
      stack_.emplace_back(std::move(*next));
    }
    return &*stack_.back();
  }

 private:
  const View& view_;
  std::vector<std::optional<View::Node>> stack_;  // the path at hand and its ancestors
};

// Calls `take` with each item and its value on the view; yields the order value.
template <class Items, class Take>
Result<std::string> evaluate_each(const View& view, Items& items, Take take) {
  SortedWalk walk(view);
  MomentOrder order;
  KnownValues* const known = view.known_values();
  for (auto& item : items) {
    std::string text;
    auto value = known != nullptr ? known->find(item.path, item.kind) : std::nullopt;
    if (!value) {
      HM_ASSIGN(const View::Node* node, walk.find(item.path));
      if (node == nullptr) {
        text = probe_text(std::nullopt);
      } else {
        HM_ASSIGN(text, observe(view, *node, item.kind));
      }
      value.emplace(KnownValues::Value{text, std::nullopt});
      if (node != nullptr && is_timed(*node)) value->moment_ns = node->moment_ns;
      if (known != nullptr) known->add(item.path, item.kind, *value);
    }
    take(item, value->text);
    if (value->moment_ns) order.add(item.path, *value->moment_ns);
  }
  return order.text();
}

}  // namespace

Result<Trace> evaluate(const View& view, Trace path_set) {
  const auto keep = [](Observation& item, std::string_view value) { item.value = value; };
  HM_ASSIGN(path_set.order, evaluate_each(view, path_set.observations, keep));
  return path_set;
}

namespace {

// The bytes of Hasher::field for each value and for the order.
Result<std::shared_ptr<const std::string>> compose_fields(const View& view,
                                                          const PathSet& path_set) {
  Writer fields;
  const auto take = [&](const PathSet::Item&, std::string_view value) { fields.text(value); };
  HM_ASSIGN(const std::string order, evaluate_each(view, path_set.items(), take));
  fields.text(order);
  return std::make_shared<const std::string>(fields.take());
}

}  // namespace

Result<Digest> strong_key_on(const View& view, const Digest& static_key, const Digest& name,
                             const PathSet& path_set) {
  Hasher hasher;
  hasher.field(static_key.raw());
  hasher.field(name.raw());
  KnownValues* const known = view.known_values();
  if (known == nullptr) {
    const auto take = [&](const PathSet::Item&, std::string_view value) { hasher.field(value); };
    HM_ASSIGN(const std::string order, evaluate_each(view, path_set.items(), take));
    hasher.field(order);
    return hasher.finish();
  }
  auto fields = known->fields(name);
  if (!fields) {
    HM_ASSIGN(fields, compose_fields(view, path_set));
    known->add_fields(name, fields);
  }
  hasher.update(*fields);
  return hasher.finish();
}

Digest strong_key(const Digest& static_key, const Digest& path_set, const Trace& trace) {
  Hasher hasher;
  hasher.field(static_key.raw());
  hasher.field(path_set.raw());
  for (const Observation& item : trace.observations) hasher.field(item.value);
  hasher.field(trace.order);
  return hasher.finish();
}

namespace {

// The text of `value` up to and without its last field if that starts with `key`.
std::string_view without(std::string_view value, std::string_view key) {
  const std::size_t at = value.find(key);
  return at == std::string_view::npos ? value : value.substr(0, at);
}

// The fields of a file's value but its size and digest.
std::string without_content(std::string_view value) {
  std::string out;
  while (!value.empty()) {
    const std::string_view field = value.substr(0, value.find(' '));
    value.remove_prefix(std::min(field.size() + 1, value.size()));
    if (!field.starts_with("size=") && !field.starts_with("sha256=")) (out += field) += ' ';
  }
  return out;
}

std::string describe(const Observation& before, const Observation& now) {
  if (before.value == "absent") return "exists now";
  if (now.value == "absent") return "is gone";
  const std::string_view kind_before =
      std::string_view(before.value).substr(0, before.value.find(' '));
  const std::string_view kind_now = std::string_view(now.value).substr(0, now.value.find(' '));
  if (kind_before != kind_now) {
    return "was a " + std::string(kind_before) + ", is a " + std::string(kind_now);
  }
  if (without(before.value, " target=") == without(now.value, " target=") &&
      kind_now == "symlink") {
    return "points elsewhere";
  }
  if (now.kind == ObservationKind::kContent &&
      without_content(before.value) == without_content(now.value)) {
    return "content changed";
  }
  if (now.kind == ObservationKind::kList &&
      without(before.value, " names=") == without(now.value, " names=")) {
    return "names in it changed";
  }
  return printable(before.value) + " became " + printable(now.value);
}

}  // namespace

std::optional<Change> first_change(const Trace& before, const Trace& now) {
  const std::size_t count = std::min(before.observations.size(), now.observations.size());
  const Observation* first = nullptr;
  const Observation* first_before = nullptr;
  std::size_t changes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Observation& a = before.observations[i];
    const Observation& b = now.observations[i];
    if (a == b) continue;
    changes += 1;
    // A file says more than the listing of the directory that it appeared in.
    const bool better = first != nullptr && first->kind == ObservationKind::kList &&
                        b.kind != ObservationKind::kList;
    if (first == nullptr || better) {
      first = &b;
      first_before = &a;
    }
  }
  if (first != nullptr) {
    std::string text = describe(*first_before, *first);
    if (changes > 1) text += " (and " + std::to_string(changes - 1) + " more)";
    return Change{first->path, std::move(text)};
  }
  if (before.order != now.order)
    return Change{std::nullopt, "the order in which its inputs were written changed"};
  return std::nullopt;
}

}  // namespace hm::fs
