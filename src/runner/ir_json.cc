#include "runner/ir_json.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "runner/duration.h"
#include "runner/graph.h"

namespace hm::runner {
namespace {

// Deeper documents are hostile; the tree below is destroyed recursively.
constexpr std::size_t kMaxDepth = 64;
constexpr std::uint64_t kMaxSeconds = static_cast<std::uint64_t>(kMaxDuration.count());

// ---- The document as a tree that remembers where everything stood -----------------------------
// nlohmann::json keeps neither positions nor repeated fields, so its SAX parser fills this instead.

struct Value {
  enum class Kind { kNull, kBool, kInteger, kOtherNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  std::size_t offset = 0;  // of the first byte
  bool truth = false;
  std::uint64_t integer = 0;       // kInteger
  std::string text;                // kString; both kinds of number as written
  std::vector<std::string> names;  // kObject: names[i] is the field that holds items[i]
  std::vector<Value> items;

  const Value* member(std::string_view name) const {
    const auto found = std::find(names.begin(), names.end(), name);
    return found == names.end() ? nullptr : &items[static_cast<std::size_t>(found - names.begin())];
  }
  // For optional fields: null means absent.
  const Value* given(std::string_view name) const {
    const Value* value = member(name);
    return value == nullptr || value->kind == Kind::kNull ? nullptr : value;
  }
};

using Kind = Value::Kind;

struct Problem {
  std::size_t offset = 0;
  std::string message;
};

// Tells the SAX handler how far the parser has read. The parser copies its iterators, so the
// position lives outside of them.
class Cursor {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor() = default;
  Cursor(std::string_view text, std::size_t at, std::size_t* read)
      : text_(text.data()), at_(at), read_(read) {}
  reference operator*() const { return text_[at_]; }
  Cursor& operator++() {
    *read_ = ++at_;
    return *this;
  }
  Cursor operator++(int) {
    const Cursor before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }

 private:
  const char* text_ = nullptr;
  std::size_t at_ = 0;
  std::size_t* read_ = nullptr;
};

class TreeBuilder {  // nlohmann's SAX interface; its names, not ours
 public:
  explicit TreeBuilder(std::string_view text) : text_(text) {
    if (text.starts_with("\xef\xbb\xbf")) token_end_ = 3;
  }

  std::size_t* read_so_far() { return &read_; }
  const std::optional<Problem>& problem() const { return problem_; }
  Value take_root() { return std::move(root_); }

  bool null() { return add(Kind::kNull) != nullptr; }
  bool boolean(bool truth) {
    add(Kind::kBool)->truth = truth;
    return true;
  }
  bool number_integer(std::int64_t number) {
    add(Kind::kOtherNumber)->text = std::to_string(number);  // only negative numbers come here
    return true;
  }
  bool number_unsigned(std::uint64_t number) {
    Value* value = add(Kind::kInteger);
    value->integer = number;
    value->text = std::to_string(number);
    return true;
  }
  bool number_float(double, const std::string& text) {
    add(Kind::kOtherNumber)->text = text;
    return true;
  }
  bool string(std::string& text) {
    add(Kind::kString)->text = std::move(text);
    return true;
  }
  bool binary(nlohmann::json::binary_t&) { return false; }  // JSON text has none
  bool start_object(std::size_t) { return open(Kind::kObject); }
  bool start_array(std::size_t) { return open(Kind::kArray); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name);
  bool parse_error(std::size_t bytes_read, const std::string&, const std::exception& error);

 private:
  struct Level {
    Value* value = nullptr;
    std::unordered_set<std::string> names;
  };

  std::size_t next_token();
  Value* add(Kind kind);
  bool open(Kind kind);
  bool close();

  std::string_view text_;
  std::size_t read_ = 0;       // bytes the parser has taken
  std::size_t token_end_ = 0;  // where the token before this one ended
  Value root_;
  // Pointers stay good: only the innermost container grows.
  std::vector<Level> levels_;
  std::optional<Problem> problem_;
};

// The start of the token being reported. After a number the parser has read one byte too many,
// which is a blank, a comma or a bracket and so changes nothing here.
std::size_t TreeBuilder::next_token() {
  const std::size_t start = text_.find_first_not_of(" \t\r\n,:", token_end_);
  token_end_ = read_;
  return std::min(start, text_.size());
}

Value* TreeBuilder::add(Kind kind) {
  Value* value = &root_;
  if (!levels_.empty()) value = &levels_.back().value->items.emplace_back();
  value->kind = kind;
  value->offset = next_token();
  return value;
}

bool TreeBuilder::open(Kind kind) {
  Value* value = add(kind);
  levels_.push_back({value, {}});
  if (levels_.size() <= kMaxDepth) return true;
  problem_ = Problem{value->offset, "the document is nested too deeply"};
  return false;
}

bool TreeBuilder::close() {
  next_token();
  levels_.pop_back();
  return true;
}

bool TreeBuilder::key(std::string& name) {
  const std::size_t offset = next_token();
  Level& level = levels_.back();
  if (!level.names.insert(name).second) {
    problem_ = Problem{offset, "the field " + in_quotes(name) + " is given twice in one object"};
    return false;
  }
  level.value->names.push_back(std::move(name));
  return true;
}

bool TreeBuilder::parse_error(std::size_t bytes_read, const std::string&,
                              const std::exception& error) {
  std::string_view why = error.what();
  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while …"
  if (const auto tag = why.find("] "); tag != std::string_view::npos) why.remove_prefix(tag + 2);
  if (const auto place = why.find(": "); why.starts_with("parse error") && place < why.size()) {
    why.remove_prefix(place + 2);
  }
  const std::size_t offset = std::min(bytes_read == 0 ? 0 : bytes_read - 1, text_.size());
  const bool blank = text_.find_first_not_of(" \t\r\n") == std::string_view::npos;
  problem_ =
      Problem{offset, blank ? "not JSON: the document is empty" : "not JSON: " + printable(why)};
  return false;
}

// The tree, or what kept it from being built.
std::optional<Problem> parse_tree(std::string_view text, Value& root) {
  TreeBuilder builder(text);
  std::size_t* read = builder.read_so_far();
  try {
    const bool whole =
        nlohmann::json::sax_parse(Cursor(text, 0, read), Cursor(text, text.size(), read), &builder);
    if (!whole) return builder.problem().value_or(Problem{*read, "not JSON"});
  } catch (const std::exception& error) {
    return Problem{*read, "not JSON: " + printable(error.what())};
  }
  root = builder.take_root();
  return std::nullopt;
}

// "LINE:COLUMN", both from 1; columns count characters.
std::string place_of(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const std::string_view in_line = before.substr(line_start);
  const auto column = 1 + std::count_if(in_line.begin(), in_line.end(), [](char c) {
                        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
                      });
  return std::to_string(line) + ":" + std::to_string(column);
}

std::string describe(const Value& value) {
  switch (value.kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return value.truth ? "true" : "false";
    case Kind::kInteger:
    case Kind::kOtherNumber:
      return "the number " + printable(value.text);
    case Kind::kString:
      return "the string " + in_quotes(value.text);
    case Kind::kArray:
      return "an array";
    case Kind::kObject:
      return "an object";
  }
  return "something else";
}

const char* with_article(Kind kind) {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "true or false";
    case Kind::kInteger:
    case Kind::kOtherNumber:
      return "a number";
    case Kind::kString:
      return "a string";
    case Kind::kArray:
      return "an array";
    case Kind::kObject:
      return "an object";
  }
  return "something else";
}

// ---- From the tree to a Pipeline ----------------------------------------------------------------

class Reader {
 public:
  Reader(std::string_view text, std::string_view origin)
      : text_(text), origin_(shown_origin(origin)) {}

  Result<Pipeline> read(std::string_view origin);

 private:
  struct StepField {
    std::string_view name;
    Status (Reader::*read)(const Value&, Step&);
  };
  struct Policy {
    std::string_view name;
    Status (Reader::*read)(const Value&, CachePolicy&);  // null: the name says it all
  };
  struct Lineage {  // a flat step's `builds_in`, resolved when all keys are known
    std::size_t child = 0;
    const Value* parent_key = nullptr;
  };
  static const StepField kStepFields[];
  static const Policy kPolicies[];

  tl::unexpected<Error> refuse(const Value& at, std::string_view why) const;
  tl::unexpected<Error> refuse_at(std::size_t offset, std::string_view why) const;
  Status expect(const Value& value, Kind kind, std::string_view what) const;
  Result<const Value*> require(const Value& object, std::string_view name, Kind kind,
                               std::string_view owner) const;
  Result<std::string> text_of(const Value& value, std::string_view what) const;
  Result<std::chrono::seconds> seconds_of(const Value& value, std::string_view what) const;
  Result<std::vector<std::string>> texts_of(const Value& value, std::string_view what) const;

  Status read_header(const Value& root);
  Status read_graph(const Value& graph);
  Status read_node(const Value& node);
  Status read_edges(const Value& edges);
  Status read_edge(const Value& edge);
  Status add_edge(const Value& edge, std::size_t from, std::size_t to);
  Result<std::size_t> node_number(const Value& value) const;

  Status read_flat(const Value& root, const Value& steps);
  Status read_flat_step(const Value& value);
  Status read_wait(const Value& value);
  Status resolve_lineage();

  Status read_key(const Value& step, Step& out);
  Status read_step(const Value& step, Step& out);
  Status read_command(const Value& step, Step& out);
  Status read_action(const Value& action, Step& out);
  Status read_eval(const Value& eval, Step& out);
  Status read_env(const Value& env, std::map<std::string, std::string>& out);
  Status refuse_secrets(const Value& object);

  Status read_label(const Value& value, Step& out);
  Status read_image(const Value& value, Step& out);
  Status read_timeout(const Value& value, Step& out);
  Status read_cache(const Value& value, Step& out);
  Status read_runner(const Value& value, Step& out);
  Status read_cwd(const Value& value, Step& out);
  Status read_network(const Value& value, Step& out);
  Status read_memory(const Value& value, Step& out);
  Status read_pids(const Value& value, Step& out);
  Result<std::uint64_t> number_of(const Value& value, std::string_view what, std::uint64_t least,
                                  std::uint64_t most) const;
  Status read_continue(const Value& value, Step& out);

  Status read_policy(const Value& cache, CachePolicy& out);
  Status read_never(const Value& cache, CachePolicy& out);
  Status read_ttl(const Value& cache, CachePolicy& out);
  Status read_on_change(const Value& cache, CachePolicy& out);
  Status read_compose(const Value& cache, CachePolicy& out);

  Status finish_steps();

  std::string_view text_;
  std::string origin_;
  std::string subject_;  // "step 'unit': " while that step is read
  Pipeline pipeline_;
  std::vector<std::size_t> offsets_;  // where each step began

  // The flat form only.
  std::map<std::string, std::string> base_env_;
  std::vector<Lineage> lineage_;
  std::vector<std::size_t> before_barrier_;  // the steps every later one waits for
  std::size_t group_start_ = 0;              // the first step behind the last barrier
  bool continue_on_failure_ = false;         // the last barrier said so
};

const Reader::StepField Reader::kStepFields[] = {
    {"label", &Reader::read_label},
    {"image", &Reader::read_image},
    {"timeout_seconds", &Reader::read_timeout},
    {"cache", &Reader::read_cache},
    {"runner", &Reader::read_runner},
    {"cwd", &Reader::read_cwd},
    {"network", &Reader::read_network},
    {"memory_bytes", &Reader::read_memory},
    {"pids", &Reader::read_pids},
    {"continue_on_failure", &Reader::read_continue},
};

const Reader::Policy Reader::kPolicies[] = {
    {"auto", nullptr},
    {"none", &Reader::read_never},
    {"forever", nullptr},
    {"ttl", &Reader::read_ttl},
    {"on_change", &Reader::read_on_change},
    {"compose", &Reader::read_compose},
};

tl::unexpected<Error> Reader::refuse_at(std::size_t offset, std::string_view why) const {
  return fail(ErrorCode::kInvalid,
              origin_ + ":" + place_of(text_, offset) + ": " + subject_ + std::string(why));
}

tl::unexpected<Error> Reader::refuse(const Value& at, std::string_view why) const {
  return refuse_at(at.offset, why);
}

Status Reader::expect(const Value& value, Kind kind, std::string_view what) const {
  if (value.kind == kind) return {};
  return refuse(value,
                std::string(what) + " must be " + with_article(kind) + ", not " + describe(value));
}

Result<const Value*> Reader::require(const Value& object, std::string_view name, Kind kind,
                                     std::string_view owner) const {
  const Value* value = object.member(name);
  if (value == nullptr) {
    return refuse(object, std::string(owner) + " has no field " + in_quotes(name));
  }
  HM_TRY(expect(*value, kind, name));
  return value;
}

Result<std::string> Reader::text_of(const Value& value, std::string_view what) const {
  HM_TRY(expect(value, Kind::kString, what));
  return value.text;
}

Result<std::chrono::seconds> Reader::seconds_of(const Value& value, std::string_view what) const {
  if (value.kind == Kind::kInteger && value.integer > 0 && value.integer <= kMaxSeconds) {
    return std::chrono::seconds(value.integer);
  }
  return refuse(value, std::string(what) +
                           " must be a whole number of seconds from 1 to 4294967295, not " +
                           describe(value));
}

Result<std::vector<std::string>> Reader::texts_of(const Value& value, std::string_view what) const {
  HM_TRY(expect(value, Kind::kArray, what));
  std::vector<std::string> texts;
  for (const Value& item : value.items) {
    HM_ASSIGN(std::string text, text_of(item, "every entry of " + std::string(what)));
    texts.push_back(std::move(text));
  }
  return texts;
}

Result<Pipeline> Reader::read(std::string_view origin) {
  Value root;
  if (const auto problem = parse_tree(text_, root))
    return refuse_at(problem->offset, problem->message);
  HM_TRY(expect(root, Kind::kObject, "the document"));
  HM_TRY(read_header(root));
  if (const Value* graph = root.member("graph")) {
    HM_TRY(read_graph(*graph));
  } else if (const Value* steps = root.member("steps")) {
    HM_TRY(read_flat(root, *steps));
  } else {
    return refuse(root, "the document has no field 'graph' (nor 'steps', the flat form)");
  }
  HM_TRY(finish_steps());
  HM_TRY(check_graph(pipeline_, origin));
  return std::move(pipeline_);
}

Status Reader::read_header(const Value& root) {
  if (const Value* version = root.member("version")) {
    if (version->kind != Kind::kString || version->text != "0") {
      return refuse(*version, "version must be the string '0', not " + describe(*version));
    }
  }
  // A field of ours: Harmont's documents may have anything there, so it is read but not checked.
  const Value* name = root.member("name");
  if (name != nullptr && name->kind == Kind::kString) pipeline_.name = name->text;
  if (const Value* image = root.given("default_image")) {
    HM_ASSIGN(pipeline_.default_image, text_of(*image, "default_image"));
  }
  if (const Value* timeout = root.given("timeout_seconds")) {
    HM_ASSIGN(pipeline_.timeout, seconds_of(*timeout, "timeout_seconds"));
  }
  return {};
}

// ---- The graph form -----------------------------------------------------------------------------

Status Reader::read_graph(const Value& graph) {
  HM_TRY(expect(graph, Kind::kObject, "graph"));
  HM_ASSIGN(const Value* nodes, require(graph, "nodes", Kind::kArray, "the graph"));
  HM_ASSIGN(const Value* property, require(graph, "edge_property", Kind::kString, "the graph"));
  HM_ASSIGN(const Value* edges, require(graph, "edges", Kind::kArray, "the graph"));
  if (property->text != "directed") {
    return refuse(*property, "edge_property must be 'directed', not " + in_quotes(property->text));
  }
  if (const Value* holes = graph.member("node_holes")) {
    HM_TRY(expect(*holes, Kind::kArray, "node_holes"));
    if (!holes->items.empty()) return refuse(*holes, "node_holes must be empty");
  }
  for (const Value& node : nodes->items) {
    subject_ = "node " + std::to_string(pipeline_.steps.size()) + ": ";
    HM_TRY(read_node(node));
  }
  subject_.clear();
  return read_edges(*edges);
}

Status Reader::read_node(const Value& node) {
  HM_TRY(expect(node, Kind::kObject, "a node"));
  HM_ASSIGN(const Value* step, require(node, "step", Kind::kObject, "the node"));
  Step out;
  HM_TRY(read_key(*step, out));
  HM_ASSIGN(const Value* env, require(node, "env", Kind::kObject, "the node"));
  HM_TRY(read_env(*env, out.env));
  HM_TRY(refuse_secrets(node));
  HM_TRY(read_step(*step, out));
  offsets_.push_back(step->offset);
  pipeline_.steps.push_back(std::move(out));
  return {};
}

Status Reader::read_edges(const Value& edges) {
  for (const Value& edge : edges.items) HM_TRY(read_edge(edge));
  return {};
}

Status Reader::read_edge(const Value& edge) {
  HM_TRY(expect(edge, Kind::kArray, "an edge"));
  if (edge.items.size() != 3) return refuse(edge, "an edge must be [from, to, kind]");
  HM_ASSIGN(const std::size_t from, node_number(edge.items[0]));
  HM_ASSIGN(const std::size_t to, node_number(edge.items[1]));
  HM_ASSIGN(const std::string kind, text_of(edge.items[2], "the kind of an edge"));
  if (kind == "builds_in") return add_edge(edge, from, to);
  if (kind != "depends_on") {
    return refuse(edge.items[2], "an edge is 'builds_in' or 'depends_on', not " + in_quotes(kind) +
                                     " (from step " + in_quotes(pipeline_.steps[from].key) +
                                     " to step " + in_quotes(pipeline_.steps[to].key) + ")");
  }
  pipeline_.steps[to].after.push_back(from);
  return {};
}

// A `builds_in` edge. Harmont takes one of several without saying which; we do not guess.
Status Reader::add_edge(const Value& edge, std::size_t from, std::size_t to) {
  Step& child = pipeline_.steps[to];
  if (child.parent && *child.parent != from) {
    return refuse(edge, "step " + in_quotes(child.key) + ": it builds in two steps, " +
                            in_quotes(pipeline_.steps[*child.parent].key) + " and " +
                            in_quotes(pipeline_.steps[from].key) +
                            "; a step starts from one filesystem");
  }
  child.parent = from;
  return {};
}

Result<std::size_t> Reader::node_number(const Value& value) const {
  if (value.kind != Kind::kInteger) {
    return refuse(value, "the ends of an edge are numbers of nodes, not " + describe(value));
  }
  if (value.integer < pipeline_.steps.size()) return static_cast<std::size_t>(value.integer);
  return refuse(value, "the edge names node " + value.text + ", but there are only " +
                           std::to_string(pipeline_.steps.size()) + " nodes (counted from 0)");
}

// ---- The flat form ------------------------------------------------------------------------------

Status Reader::read_flat(const Value& root, const Value& steps) {
  HM_TRY(expect(steps, Kind::kArray, "steps"));
  if (const Value* env = root.given("env")) HM_TRY(read_env(*env, base_env_));
  for (std::size_t i = 0; i < steps.items.size(); ++i) {
    const Value& step = steps.items[i];
    subject_ = "steps[" + std::to_string(i) + "]: ";
    HM_TRY(expect(step, Kind::kObject, "a step"));
    HM_ASSIGN(const Value* type, require(step, "type", Kind::kString, "the step"));
    if (type->text == "wait") {
      HM_TRY(read_wait(step));
    } else if (type->text == "command") {
      HM_TRY(read_flat_step(step));
    } else {
      return refuse(*type, "a step's type is 'command' or 'wait', not " + in_quotes(type->text));
    }
  }
  subject_.clear();
  return resolve_lineage();
}

Status Reader::read_flat_step(const Value& value) {
  Step step;
  step.env = base_env_;
  HM_TRY(read_key(value, step));
  if (const Value* env = value.given("env")) HM_TRY(read_env(*env, step.env));
  HM_TRY(read_step(value, step));
  step.after = before_barrier_;
  step.continue_on_failure = continue_on_failure_;
  if (const Value* parent = value.given("builds_in")) {
    HM_TRY(expect(*parent, Kind::kString, "builds_in"));
    lineage_.push_back({pipeline_.steps.size(), parent});
  }
  offsets_.push_back(value.offset);
  pipeline_.steps.push_back(std::move(step));
  return {};
}

// The last barrier decides: a strict one stops everything behind it after any earlier failure.
Status Reader::read_wait(const Value& value) {
  continue_on_failure_ = false;
  if (const Value* lenient = value.given("continue_on_failure")) {
    HM_TRY(expect(*lenient, Kind::kBool, "continue_on_failure"));
    continue_on_failure_ = lenient->truth;
  }
  for (; group_start_ < pipeline_.steps.size(); ++group_start_) {
    before_barrier_.push_back(group_start_);
  }
  return {};
}

Status Reader::resolve_lineage() {
  std::map<std::string_view, std::size_t> by_key;
  for (std::size_t i = 0; i < pipeline_.steps.size(); ++i) {
    by_key.emplace(pipeline_.steps[i].key, i);
  }
  for (const Lineage& link : lineage_) {
    const auto parent = by_key.find(link.parent_key->text);
    if (parent == by_key.end()) {
      return refuse(*link.parent_key, "step " + in_quotes(pipeline_.steps[link.child].key) +
                                          ": builds_in names " + in_quotes(link.parent_key->text) +
                                          ", which is no step's key");
    }
    pipeline_.steps[link.child].parent = parent->second;
  }
  return {};
}

// ---- One step -----------------------------------------------------------------------------------

Status Reader::read_key(const Value& step, Step& out) {
  HM_ASSIGN(const Value* key, require(step, "key", Kind::kString, "the step"));
  out.key = key->text;
  subject_ = "step " + in_quotes(out.key) + ": ";
  return {};
}

// Everything but the key and the environment, which the two forms keep in different places.
Status Reader::read_step(const Value& step, Step& out) {
  HM_TRY(refuse_secrets(step));
  HM_TRY(read_command(step, out));
  for (const StepField& field : kStepFields) {
    const Value* value = step.given(field.name);
    if (value != nullptr) HM_TRY((this->*field.read)(*value, out));
  }
  if (out.label.empty()) out.label = out.key;
  return {};
}

Status Reader::read_command(const Value& step, Step& out) {
  const Value* cmd = step.given("cmd");
  const Value* action = step.given("action");
  const Value* eval = step.given("eval");
  const int shapes = (cmd != nullptr) + (action != nullptr) + (eval != nullptr);
  if (shapes == 0) return refuse(step, "the step has no field 'cmd' (nor 'action' or 'eval')");
  if (shapes > 1) return refuse(step, "the step has more than one of 'cmd', 'action' and 'eval'");
  if (action != nullptr) return read_action(*action, out);
  if (eval != nullptr) return read_eval(*eval, out);
  HM_ASSIGN(out.command, text_of(*cmd, "cmd"));
  return {};
}

Status Reader::read_action(const Value& action, Step& out) {
  HM_TRY(expect(action, Kind::kObject, "action"));
  if (action.given("cmd") == nullptr &&
      (action.given("from") != nullptr || action.given("to") != nullptr)) {
    return refuse(action, "mount steps are not supported; copy the directory in a command instead");
  }
  HM_ASSIGN(const Value* cmd, require(action, "cmd", Kind::kString, "the action"));
  out.command = cmd->text;
  const Value* env = action.given("env");
  return env == nullptr ? Status() : read_env(*env, out.env);
}

Status Reader::read_eval(const Value& eval, Step& out) {
  HM_TRY(expect(eval, Kind::kObject, "eval"));
  HM_ASSIGN(const Value* type, require(eval, "type", Kind::kString, "eval"));
  if (type->text == "dynamic") return refuse(eval, "dynamic steps are not supported");
  if (type->text != "cmd") {
    return refuse(*type, "the type of eval must be 'cmd', not " + in_quotes(type->text));
  }
  HM_ASSIGN(const Value* cmd, require(eval, "cmd", Kind::kString, "eval"));
  out.command = cmd->text;
  return {};
}

Status Reader::read_env(const Value& env, std::map<std::string, std::string>& out) {
  HM_TRY(expect(env, Kind::kObject, "env"));
  for (std::size_t i = 0; i < env.items.size(); ++i) {
    HM_ASSIGN(out[env.names[i]], text_of(env.items[i], "env: " + in_quotes(env.names[i])));
  }
  return {};
}

Status Reader::refuse_secrets(const Value& object) {
  const Value* secrets = object.given("secrets");
  if (secrets == nullptr) return {};
  HM_TRY(expect(*secrets, Kind::kObject, "secrets"));
  if (secrets->names.empty()) return {};
  std::string names;
  for (const std::string& name : secrets->names) {
    names += (names.empty() ? "" : ", ") + printable(name);
  }
  return refuse(*secrets, "secrets are not supported (" + names + ")");
}

Status Reader::read_label(const Value& value, Step& out) {
  HM_ASSIGN(out.label, text_of(value, "label"));
  return {};
}

Status Reader::read_image(const Value& value, Step& out) {
  HM_ASSIGN(out.image, text_of(value, "image"));
  return {};
}

Status Reader::read_timeout(const Value& value, Step& out) {
  HM_ASSIGN(out.timeout, seconds_of(value, "timeout_seconds"));
  return {};
}

Status Reader::read_runner(const Value& value, Step&) {
  HM_ASSIGN(const std::string runner, text_of(value, "runner"));
  if (runner == "vm" || runner == "docker" || runner == "namespace") return {};
  return refuse(value, "the runner " + in_quotes(runner) +
                           " is unknown; leave it out or write 'vm', 'docker' or 'namespace'");
}

Status Reader::read_cwd(const Value& value, Step& out) {
  HM_TRY(expect(value, Kind::kString, "cwd"));
  auto path = workspace_path(value.text);
  if (!path) return refuse(value, "cwd " + path.error().message);
  out.cwd = path->empty() ? "." : std::move(*path);
  return {};
}

Result<std::uint64_t> Reader::number_of(const Value& value, std::string_view what,
                                        std::uint64_t least, std::uint64_t most) const {
  const std::uint64_t number = value.kind == Kind::kInteger ? value.integer : 0;
  if (number >= least && number <= most) return number;
  return refuse(value, std::string(what) + " must be a whole number from " + std::to_string(least) +
                           " to " + std::to_string(most) + ", not " + describe(value));
}

Status Reader::read_memory(const Value& value, Step& out) {
  HM_ASSIGN(out.limits.memory, number_of(value, "memory_bytes", kLeastMemory, kMostMemory));
  return {};
}

Status Reader::read_pids(const Value& value, Step& out) {
  HM_ASSIGN(out.limits.pids, number_of(value, "pids", 1, kMostPids));
  return {};
}

Status Reader::read_network(const Value& value, Step& out) {
  HM_ASSIGN(const std::string network, text_of(value, "network"));
  if (network != "host" && network != "none") {
    return refuse(value, "network must be 'host' or 'none', not " + in_quotes(network));
  }
  out.network = network == "none" ? Network::kNone : Network::kHost;
  return {};
}

Status Reader::read_continue(const Value& value, Step& out) {
  HM_TRY(expect(value, Kind::kBool, "continue_on_failure"));
  out.continue_on_failure = value.truth;
  return {};
}

// ---- Cache policies -----------------------------------------------------------------------------

Status Reader::read_cache(const Value& value, Step& out) { return read_policy(value, out.cache); }

// `key`, `env_keys`: how Harmont names its snapshots. We find our own and read neither.
Status Reader::read_policy(const Value& cache, CachePolicy& out) {
  HM_TRY(expect(cache, Kind::kObject, "cache"));
  HM_ASSIGN(const Value* name, require(cache, "policy", Kind::kString, "the cache object"));
  if (const Value* key = cache.given("key")) HM_TRY(expect(*key, Kind::kString, "cache.key"));
  for (const Policy& policy : kPolicies) {
    if (policy.name != name->text) continue;
    out.name = name->text;
    return policy.read == nullptr ? Status() : (this->*policy.read)(cache, out);
  }
  return refuse(*name, "the cache policy " + in_quotes(name->text) +
                           " is unknown; there are auto, none, forever, ttl, on_change, compose");
}

Status Reader::read_never(const Value&, CachePolicy& out) {
  out.enabled = false;
  return {};
}

Status Reader::read_ttl(const Value& cache, CachePolicy& out) {
  const Value* duration = cache.given("duration_seconds");
  if (duration == nullptr) {
    return refuse(cache, "the cache policy 'ttl' needs the field 'duration_seconds'");
  }
  HM_ASSIGN(out.ttl, seconds_of(*duration, "duration_seconds"));
  return {};
}

Status Reader::read_on_change(const Value& cache, CachePolicy& out) {
  const Value* paths = cache.given("paths");
  if (paths == nullptr)
    return refuse(cache, "the cache policy 'on_change' needs the field 'paths'");
  HM_ASSIGN(out.on_change, texts_of(*paths, "paths"));
  return {};
}

// The depth of the document bounds this recursion.
Status Reader::read_compose(const Value& cache, CachePolicy& out) {
  const Value* parts = cache.given("sub_policies");
  if (parts == nullptr) {
    return refuse(cache, "the cache policy 'compose' needs the field 'sub_policies'");
  }
  HM_TRY(expect(*parts, Kind::kArray, "sub_policies"));
  for (const Value& part : parts->items) {
    CachePolicy policy;
    HM_TRY(read_policy(part, policy));
    add_policy(out, policy);
  }
  return {};
}

// ---- The whole ----------------------------------------------------------------------------------

// Brings the edges into the model's form, and finds here, where positions are known, what
// check_graph() would find without them.
Status Reader::finish_steps() {
  std::map<std::string_view, std::size_t> by_key;
  for (std::size_t i = 0; i < pipeline_.steps.size(); ++i) {
    Step& step = pipeline_.steps[i];
    std::sort(step.after.begin(), step.after.end());
    step.after.erase(std::unique(step.after.begin(), step.after.end()), step.after.end());
    if (step.parent) {
      std::erase(step.after, *step.parent);
      step.image.reset();  // a child starts from its parent; Harmont ignores its image too
    }
    subject_ = "step " + in_quotes(step.key) + ": ";
    if (const std::string problem = step_problem(step); !problem.empty()) {
      return refuse_at(offsets_[i], problem);
    }
    const auto [first, is_new] = by_key.emplace(step.key, i);
    if (!is_new) {
      return refuse_at(offsets_[i],
                       "another step has this key, at " + place_of(text_, offsets_[first->second]));
    }
  }
  subject_.clear();
  return {};
}

// ---- Writing ------------------------------------------------------------------------------------

using Json = nlohmann::ordered_json;

Json ttl_to_json(const CachePolicy& policy) {
  return {{"policy", "ttl"}, {"duration_seconds", policy.ttl->count()}};
}

Json on_change_to_json(const CachePolicy& policy) {
  return {{"policy", "on_change"}, {"paths", policy.on_change}};
}

Json policy_to_json(const CachePolicy& policy) {
  if (policy.name == "ttl" && policy.ttl) return ttl_to_json(policy);
  if (policy.name == "on_change") return on_change_to_json(policy);
  if (policy.name != "compose") return {{"policy", policy.name}};
  Json parts = Json::array();
  if (!policy.enabled) parts.push_back({{"policy", "none"}});
  if (policy.ttl) parts.push_back(ttl_to_json(policy));
  if (!policy.on_change.empty()) parts.push_back(on_change_to_json(policy));
  return {{"policy", "compose"}, {"sub_policies", std::move(parts)}};
}

std::int64_t whole_seconds(std::chrono::milliseconds time) {
  return std::chrono::ceil<std::chrono::seconds>(time).count();
}

Json step_to_json(const Step& step) {
  Json out = {{"key", step.key}, {"cmd", step.command}};
  if (step.label != step.key) out["label"] = step.label;
  if (step.image) out["image"] = *step.image;
  if (!step.cwd.empty()) out["cwd"] = step.cwd;
  if (step.timeout) out["timeout_seconds"] = whole_seconds(*step.timeout);
  if (step.network == Network::kNone) out["network"] = "none";
  if (step.limits.memory) out["memory_bytes"] = *step.limits.memory;
  if (step.limits.pids) out["pids"] = *step.limits.pids;
  if (step.continue_on_failure) out["continue_on_failure"] = true;
  if (step.cache != CachePolicy{}) out["cache"] = policy_to_json(step.cache);
  return out;
}

Json graph_to_json(const Pipeline& pipeline) {
  Json nodes = Json::array();
  Json edges = Json::array();
  for (std::size_t i = 0; i < pipeline.steps.size(); ++i) {
    const Step& step = pipeline.steps[i];
    Json env = Json::object();
    for (const auto& [name, value] : step.env) env[name] = value;
    nodes.push_back({{"step", step_to_json(step)}, {"env", std::move(env)}});
    if (step.parent) edges.push_back(Json::array({*step.parent, i, "builds_in"}));
    for (const std::size_t from : step.after) {
      edges.push_back(Json::array({from, i, "depends_on"}));
    }
  }
  return {{"nodes", std::move(nodes)},
          {"node_holes", Json::array()},
          {"edge_property", "directed"},
          {"edges", std::move(edges)}};
}

}  // namespace

Result<Pipeline> parse_ir(std::string_view text, std::string_view origin) {
  return Reader(text, origin).read(origin);
}

std::string to_ir(const Pipeline& pipeline) {
  Json out = {{"version", "0"}};
  if (!pipeline.name.empty()) out["name"] = pipeline.name;
  if (pipeline.default_image) out["default_image"] = *pipeline.default_image;
  if (pipeline.timeout) out["timeout_seconds"] = whole_seconds(*pipeline.timeout);
  out["graph"] = graph_to_json(pipeline);
  // A string that is not UTF-8 (no reader makes one) must not throw.
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hm::runner
