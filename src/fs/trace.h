// Trace: all observations of one execution; PathSet: the same without values, read from its blob.
//
// Normalised: one observation per path, the strongest (content and list contain probe); a path
// found absent under a listed directory is implied by the listing and dropped. Sorted by PathLess,
// so evaluation walks directories in order. Both are stored as blobs. Values; no shared state.
//
// Format 1 of both: "hmtrace1", number of observations, per observation kind byte, path, value
// (empty in a path set), then the order value (empty in a path set).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/entry.h"
#include "fs/view.h"

namespace hm::fs {

enum class ObservationKind : std::uint8_t {
  kProbe = 0,    // LOOKUP, GETATTR: found or not, and the entry without content
  kContent = 1,  // first READ
  kList = 2,     // READDIR
};
const char* to_string(ObservationKind kind);

struct Observation {
  std::string path;
  ObservationKind kind = ObservationKind::kProbe;
  std::string value;
  bool operator==(const Observation&) const = default;
};

struct Trace {
  std::vector<Observation> observations;
  // Dense ranks of the moments of the files observed (View::Node::moment_ns): what "newer than"
  // can see of their times.
  std::string order;

  std::string encode() const;
  static Result<Trace> decode(std::string_view blob);
  // The same paths and kinds, no values.
  std::string encode_path_set() const;
};

// What one execution looked at. Immutable; its paths lie in the blob, since runs hold very many.
class PathSet {
 public:
  struct Item {
    std::string_view path;
    ObservationKind kind;
  };
  explicit PathSet(std::string blob) : blob_(std::move(blob)) {}
  PathSet(const PathSet&) = delete;
  PathSet& operator=(const PathSet&) = delete;
  static Result<std::shared_ptr<const PathSet>> decode(std::string blob);
  const std::vector<Item>& items() const { return items_; }

 private:
  const std::string blob_;
  std::vector<Item> items_;
};

// Collects the observations of a session. A path found absent under a listed directory is dropped
// where the listing implies it; never where it shows the name: the two then contradict.
class TraceBuilder {
 public:
  // `node` is null for an absent path; `listing` are the names that a list observation showed.
  void add(Observation observation, const View::Node* node,
           std::shared_ptr<const Listing> listing = nullptr);
  Trace finish();

 private:
  struct Item {
    ObservationKind kind;
    std::string value;
    bool absent;
    bool timed;  // a file or a symlink: anything with a time that a step can compare
    std::int64_t moment_ns;
    std::shared_ptr<const Listing> listing;
    bool lists(std::string_view name) const;
  };
  std::map<std::string, Item, PathLess> items_;
};

// The value of each observation of a path set on another view, by the view's own function. A kind
// that does not fit today's entry yields that entry.
Result<Trace> evaluate(const View& view, Trace path_set);

// One observation on a view.
Result<std::string> observe(const View& view, const View::Node& node, ObservationKind kind);

Digest strong_key(const Digest& static_key, const Digest& path_set, const Trace& trace);

// The strong key of what `evaluate` would say of `path_set`, whose name is `name`. Values are held
// only for views that share them (KnownValues).
Result<Digest> strong_key_on(const View& view, const Digest& static_key, const Digest& name,
                             const PathSet& path_set);

// The first path whose value differs; both traces have the same path set.
struct Change {
  std::optional<std::string> path;  // nullopt: no single path, the order of times
  std::string change;               // one line, for people
};
std::optional<Change> first_change(const Trace& before, const Trace& now);

}  // namespace hm::fs
