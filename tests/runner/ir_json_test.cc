// The IR reader against Harmont's samples, every shape it takes, and a folder of broken documents.
#include "runner/ir_json.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "runner/graph.h"
#include "runner/pipeline_toml.h"
#include "store/util/fd.h"

namespace hm::runner {
namespace {

using std::chrono::seconds;
using Indexes = std::vector<std::size_t>;

std::string read_data(const std::string& name) {
  auto text = read_file(std::string(HM_TEST_DATA) + "/" + name);
  EXPECT_TRUE(text) << name;
  return text ? *text : "";
}

Pipeline parsed(std::string_view text) {
  auto pipeline = parse_ir(text, "test.json");
  EXPECT_TRUE(pipeline) << pipeline.error().message;
  return pipeline ? *pipeline : Pipeline{};
}

std::string error_of(std::string_view text, std::string_view origin = "test.json") {
  auto pipeline = parse_ir(text, origin);
  if (pipeline) return "(accepted)";
  EXPECT_EQ(pipeline.error().code, ErrorCode::kInvalid);
  return pipeline.error().message;
}

// A graph of one step with these fields and this environment.
std::string one_step(const std::string& fields, const std::string& env = "{}") {
  return R"({"graph":{"nodes":[{"step":{"key":"a",)" + fields + R"(},"env":)" + env +
         R"(}],"edge_property":"directed","edges":[]}})";
}

CachePolicy cache_of(const std::string& cache) {
  const Pipeline pipeline = parsed(one_step(R"("cmd":"true","cache":)" + cache));
  return pipeline.steps.empty() ? CachePolicy{} : pipeline.steps[0].cache;
}

void expect_round_trip(const Pipeline& pipeline) {
  const std::string text = to_ir(pipeline);
  const Pipeline again = parsed(text);
  EXPECT_EQ(again, pipeline) << text;
  EXPECT_EQ(to_ir(again), text);
}

// ---- Samples ------------------------------------------------------------------------------------

TEST(IrJson, ReadsChainForkBarrier) {
  const Pipeline p = parsed(read_data("samples/chain-fork-barrier.json"));
  ASSERT_EQ(p.steps.size(), 4u);
  EXPECT_EQ(p.default_image, "debian:12");
  EXPECT_EQ(p.timeout, seconds(600));
  EXPECT_EQ(p.steps[0].label, ":gear: setup");
  EXPECT_EQ(p.steps[0].image, "debian:12");
  EXPECT_EQ(p.steps[0].cache.name, "forever");
  EXPECT_TRUE(p.steps[0].cache.enabled);
  EXPECT_EQ(p.steps[1].label, "unit");
  EXPECT_EQ(p.steps[1].parent, 0u);
  EXPECT_EQ(p.steps[1].timeout, seconds(30));
  EXPECT_EQ(p.steps[1].env.at("MODE"), "unit");
  EXPECT_FALSE(p.steps[2].cache.enabled);
  EXPECT_FALSE(p.steps[3].parent);
  EXPECT_EQ(p.steps[3].after, (Indexes{1, 2}));
  EXPECT_TRUE(p.steps[3].env.empty());
  EXPECT_EQ(p.steps[3].cache, CachePolicy{});
}

TEST(IrJson, ReadsLeast) {
  const Pipeline p = parsed(read_data("samples/least.json"));
  ASSERT_EQ(p.steps.size(), 1u);
  EXPECT_EQ(p.steps[0].command, "true");
  EXPECT_EQ(p.steps[0].label, "only");
  EXPECT_FALSE(p.default_image);
}

TEST(IrJson, ReadsToolchains) {
  const Pipeline rust = parsed(read_data("samples/rust-toolchain.json"));
  ASSERT_EQ(rust.steps.size(), 7u);
  EXPECT_EQ(rust.steps[0].cache.ttl, seconds(86400));
  EXPECT_EQ(rust.steps[2].cache.on_change,
            (std::vector<std::string>{"Cargo.lock", "**/Cargo.toml", "**/*.rs"}));
  EXPECT_EQ(rust.steps[6].parent, 1u);
  EXPECT_EQ(parsed(read_data("samples/c-toolchain.json")).steps.size(), 5u);
}

TEST(IrJson, SamplesRoundTrip) {
  for (const auto& entry : std::filesystem::directory_iterator(HM_TEST_DATA "/samples")) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path().string());
    expect_round_trip(parsed(read_data("samples/" + entry.path().filename().string())));
  }
}

// ---- Shapes and fields --------------------------------------------------------------------------

TEST(IrJson, TakesTheOtherShapes) {
  const auto p = parsed(one_step(R"("action":{"cmd":"make","env":{"B":"2"}})", R"({"A":"1"})"));
  EXPECT_EQ(p.steps[0].command, "make");
  EXPECT_EQ(p.steps[0].env, (std::map<std::string, std::string>{{"A", "1"}, {"B", "2"}}));
  EXPECT_EQ(parsed(one_step(R"("eval":{"type":"cmd","cmd":"make"})")).steps[0].command, "make");
  EXPECT_EQ(parsed(one_step(R"("eval":null,"cmd":"make")")).steps[0].command, "make");
}

TEST(IrJson, IgnoresWhatItDoesNotKnow) {
  const auto p = parsed(one_step(
      R"("cmd":"x","env":{"IGNORED":"1"},"runner":"vm","runner_args":{"cpus":[1]},"new":null)"));
  EXPECT_TRUE(p.steps[0].env.empty());
  for (const char* runner : {"null", "\"vm\"", "\"docker\"", "\"namespace\""}) {
    EXPECT_EQ(parsed(one_step(R"("cmd":"x","runner":)" + std::string(runner))).steps.size(), 1u);
  }
}

TEST(IrJson, NullMeansAbsent) {
  const auto p = parsed(one_step(
      R"("cmd":"x","label":null,"image":null,"timeout_seconds":null,"cache":null,"secrets":null)"));
  Step expected;
  expected.key = expected.label = "a";
  expected.command = "x";
  EXPECT_EQ(p.steps[0], expected);
  EXPECT_EQ(parsed(one_step(R"("cmd":"x","label":"","secrets":{})")).steps[0], expected);
}

TEST(IrJson, ReadsOurFields) {
  const auto p =
      parsed(one_step(R"("cmd":"x","cwd":"./a//b/","network":"none","continue_on_failure":true)"));
  EXPECT_EQ(p.steps[0].cwd, "a/b");
  EXPECT_EQ(p.steps[0].network, Network::kNone);
  EXPECT_TRUE(p.steps[0].continue_on_failure);
  EXPECT_EQ(parsed(one_step(R"("cmd":"x","network":"host")")).steps[0].network, Network::kHost);
}

TEST(IrJson, TimeoutLimits) {
  EXPECT_EQ(parsed(one_step(R"("cmd":"x","timeout_seconds":1)")).steps[0].timeout, seconds(1));
  EXPECT_EQ(parsed(one_step(R"("cmd":"x","timeout_seconds":4294967295)")).steps[0].timeout,
            seconds(4294967295));
}

TEST(IrJson, AcceptsAnEmptyGraph) {
  EXPECT_TRUE(
      parsed(R"({"graph":{"nodes":[],"edge_property":"directed","edges":[]}})").steps.empty());
}

TEST(IrJson, TidiesEdges) {
  const auto p = parsed(R"({"graph":{"nodes":[
      {"step":{"key":"a","cmd":"x"},"env":{}},{"step":{"key":"b","cmd":"x"},"env":{}},
      {"step":{"key":"c","cmd":"x","image":"ignored"},"env":{}}],"edge_property":"directed",
      "edges":[[1,2,"depends_on"],[0,2,"depends_on"],[0,2,"builds_in"],[1,2,"depends_on"],
               [0,2,"builds_in"]]}})");
  EXPECT_EQ(p.steps[2].parent, 0u);
  EXPECT_EQ(p.steps[2].after, Indexes{1});
  EXPECT_FALSE(p.steps[2].image) << "a child starts from its parent";
}

TEST(IrJson, SkipsAByteOrderMark) {
  EXPECT_EQ(parsed("\xef\xbb\xbf" + one_step(R"("cmd":"x")")).steps.size(), 1u);
  EXPECT_EQ(error_of("\xef\xbb\xbf[]").substr(0, 13), "test.json:1:2");
}

// ---- Cache policies -----------------------------------------------------------------------------

TEST(IrJson, ReadsCachePolicies) {
  const std::optional<seconds> never;
  const std::vector<std::string> nothing;
  EXPECT_EQ(cache_of(R"({"policy":"auto"})"), CachePolicy{});
  EXPECT_EQ(cache_of(R"({"policy":"none"})"), (CachePolicy{false, never, nothing, "none"}));
  EXPECT_EQ(cache_of(R"({"policy":"forever","key":null})"),
            (CachePolicy{true, never, nothing, "forever"}));
  EXPECT_EQ(cache_of(R"({"policy":"ttl","duration_seconds":60,"key":"00"})"),
            (CachePolicy{true, seconds(60), nothing, "ttl"}));
  EXPECT_EQ(cache_of(R"({"policy":"on_change","paths":["a","b"]})"),
            (CachePolicy{true, never, {"a", "b"}, "on_change"}));
}

TEST(IrJson, ComposedPoliciesAllHold) {
  const char ttls[] = R"({"policy":"compose","sub_policies":[{"policy":"ttl","duration_seconds":90},
      {"policy":"on_change","paths":["b","a"]},{"policy":"compose","sub_policies":[
        {"policy":"ttl","duration_seconds":60},{"policy":"on_change","paths":["a","c"]}]}]})";
  EXPECT_EQ(cache_of(ttls), (CachePolicy{true, seconds(60), {"b", "a", "c"}, "compose"}));
  const char never[] =
      R"({"policy":"compose","sub_policies":[{"policy":"forever"},{"policy":"none"}]})";
  EXPECT_EQ(cache_of(never), (CachePolicy{false, std::nullopt, {}, "compose"}));
  EXPECT_EQ(cache_of(R"({"policy":"compose","sub_policies":[]})"),
            (CachePolicy{true, std::nullopt, {}, "compose"}));
}

// ---- The flat form ------------------------------------------------------------------------------

TEST(IrJsonFlat, MergesEnvAndFindsParents) {
  const auto p = parsed(R"({"version":"0","default_image":"d","timeout_seconds":9,
      "env":{"A":"1","B":"1"},"steps":[
      {"type":"command","key":"kid","cmd":"y","builds_in":"root","env":{"B":"2"}},
      {"type":"command","key":"root","cmd":"x","label":"Root","builds_in":null,"image":"i",
       "timeout_seconds":5,"cache":{"policy":"none"}}]})");
  ASSERT_EQ(p.steps.size(), 2u);
  EXPECT_EQ(p.default_image, "d");
  EXPECT_EQ(p.timeout, seconds(9));
  EXPECT_EQ(p.steps[0].parent, 1u);
  EXPECT_EQ(p.steps[0].env, (std::map<std::string, std::string>{{"A", "1"}, {"B", "2"}}));
  EXPECT_EQ(p.steps[1].env, (std::map<std::string, std::string>{{"A", "1"}, {"B", "1"}}));
  EXPECT_EQ(p.steps[1].label, "Root");
  EXPECT_EQ(p.steps[1].image, "i");
  EXPECT_EQ(p.steps[1].timeout, seconds(5));
  EXPECT_FALSE(p.steps[1].cache.enabled);
}

TEST(IrJsonFlat, BarriersOrderEveryLaterStep) {
  const auto p = parsed(R"({"steps":[
      {"type":"wait"},
      {"type":"command","key":"a","cmd":"x"},{"type":"command","key":"b","cmd":"x"},
      {"type":"wait","continue_on_failure":true},
      {"type":"command","key":"c","cmd":"x","builds_in":"a"},
      {"type":"wait"},{"type":"wait","continue_on_failure":false},
      {"type":"command","key":"d","cmd":"x"},{"type":"wait"}]})");
  ASSERT_EQ(p.steps.size(), 4u);
  EXPECT_TRUE(p.steps[0].after.empty());
  EXPECT_TRUE(p.steps[1].after.empty());
  EXPECT_EQ(p.steps[2].after, Indexes{1}) << "the parent is not in `after`";
  EXPECT_EQ(p.steps[2].parent, 0u);
  EXPECT_TRUE(p.steps[2].continue_on_failure);
  EXPECT_EQ(p.steps[3].after, (Indexes{0, 1, 2}));
  EXPECT_FALSE(p.steps[3].continue_on_failure);
  expect_round_trip(p);
}

// ---- Writing ------------------------------------------------------------------------------------

TEST(IrJsonWriter, RoundTripsTomlFeatures) {
  auto p = parse_toml(R"(
image = "host"
timeout = "1h30m"
env.CI = "tr\"ue\n\u00e9"
[[step]]
key = "deps"
run = "npm ci"
cache = "forever"
image = "/images/a"
[[step]]
key = "test"
label = "The tests"
from = "deps"
after = ["lint", "fmt"]
run = "npm test"
cwd = "packages/a"
env = { MODE = "ci" }
cache = [{ ttl = "1d" }, { on_change = ["a.lock", "src/**"] }]
timeout = "10m"
network = "none"
memory = "64M"
pids = 100
[[step]]
key = "lint"
run = "npm run lint"
cache = { on_change = ["x"] }
[[step]]
key = "fmt"
run = "npm run fmt"
cache = ["auto", "none", "forever"]
[[step]]
key = "old"
run = "x"
cache = { ttl = "1h" }
[[step]]
key = "never"
run = "x"
cache = "none"
[[step]]
key = "always"
run = "x"
cache = ["forever"]
)",
                      "test.toml");
  ASSERT_TRUE(p) << p.error().message;
  expect_round_trip(*p);
  p->name = "ci";
  p->steps[0].continue_on_failure = true;
  expect_round_trip(*p);
}

TEST(IrJsonWriter, RoundTripsTheLeast) { expect_round_trip(Pipeline{}); }

TEST(IrJsonWriter, PrintsTheCanonicalForm) {
  Pipeline p;
  p.steps.resize(1);
  p.steps[0].key = p.steps[0].label = "a";
  p.steps[0].command = "true";
  EXPECT_EQ(to_ir(p), R"({
  "version": "0",
  "graph": {
    "nodes": [
      {
        "step": {
          "key": "a",
          "cmd": "true"
        },
        "env": {}
      }
    ],
    "node_holes": [],
    "edge_property": "directed",
    "edges": []
  }
}
)");
}

TEST(IrJsonWriter, RoundsTimeoutsUp) {
  Pipeline p;
  p.timeout = std::chrono::milliseconds(1001);
  EXPECT_EQ(parsed(to_ir(p)).timeout, seconds(2));
}

TEST(IrJsonWriter, SurvivesBytesThatAreNotText) {
  Pipeline p;
  p.name = "\xff";
  EXPECT_NE(to_ir(p).find("\"name\""), std::string::npos);
}

// ---- Broken documents ---------------------------------------------------------------------------

struct Broken {
  const char* file;
  const char* message;  // what comes after the file's name
};

constexpr Broken kBroken[] = {
    {"action-empty.json", ":3:37: step 'a': the action has no field 'cmd'"},
    {"blank.json", ":3:1: not JSON: the document is empty"},
    {"build-timeout-zero.json", ":1:21: timeout_seconds must be a whole number of seconds"},
    {"cache-compose-bad-part.json", ":3:90: step 'a': the cache policy 'ttl' needs"},
    {"cache-compose-no-parts.json",
     ":3:51: step 'a': the cache policy 'compose' needs the field 'sub_policies'"},
    {"cache-key-number.json", ":3:80: step 'a': cache.key must be a string, not the number 1"},
    {"cache-no-policy.json", ":3:51: step 'a': the cache object has no field 'policy'"},
    {"cache-on-change-no-paths.json",
     ":3:51: step 'a': the cache policy 'on_change' needs the field 'paths'"},
    {"cache-on-change-number.json", ":3:85: step 'a': every entry of paths must be a string"},
    {"cache-string.json", ":3:51: step 'a': cache must be an object, not the string 'forever'"},
    {"cache-ttl-no-duration.json",
     ":3:51: step 'a': the cache policy 'ttl' needs the field 'duration_seconds'"},
    {"cache-ttl-zero.json", ":3:89: step 'a': duration_seconds must be a whole number"},
    {"cache-unknown.json", ":3:62: step 'a': the cache policy 'weekly' is unknown"},
    {"cmd-and-action.json", ":3:14: step 'a': the step has more than one of"},
    {"cmd-array.json", ":3:34: step 'a': cmd must be a string, not an array"},
    {"cmd-blank.json", ":3:14: step 'a': the command is empty"},
    {"cmd-nul.json", ":3:14: step 'a': the command contains a NUL character"},
    {"cmd-null.json", ":3:14: step 'a': the step has no field 'cmd'"},
    {"cwd-absolute.json", ":3:49: step 'a': cwd '/etc' is absolute"},
    {"cwd-climbs.json", ":3:49: step 'a': cwd may not contain \"..\""},
    {"cycle.json", ": the steps form a cycle: b -> c -> b"},
    {"deep.json", ":1:70: the document is nested too deeply"},
    {"duplicate-key.json", ":5:14: step 'a': another step has this key, at 3:14"},
    {"dynamic.json", ":3:35: step 'a': dynamic steps are not supported"},
    {"edge-kind.json", ":7:20: an edge is 'builds_in' or 'depends_on', not 'needs' (from step "},
    {"edge-missing-node.json", ":7:17: the edge names node 2, but there are only 2 nodes"},
    {"edge-negative.json", ":7:14: the ends of an edge are numbers of nodes, not the number -1"},
    {"edge-null.json", ":7:13: an edge must be an array, not null"},
    {"edge-short.json", ":7:13: an edge must be [from, to, kind]"},
    {"empty.json", ":1:1: not JSON: the document is empty"},
    {"env-bad-name.json", ":3:14: step 'a': env: 'A=B' cannot be the name of a variable"},
    {"env-null.json", ":3:50: step 'a': env must be an object, not null"},
    {"env-number.json", ":3:59: step 'a': env: 'JOBS' must be a string, not the number 4"},
    {"eval-unknown.json", ":3:44: step 'a': the type of eval must be 'cmd', not 'wasm'"},
    {"field-twice-env.json", ":3:62: the field 'CI' is given twice in one object"},
    {"field-twice.json", ":3:42: the field 'cmd' is given twice in one object"},
    {"flat-builds-in.json", ":2:63: step 'a': builds_in names 'z', which is no step's key"},
    {"flat-env-number.json", ":1:16: env: 'CI' must be a string"},
    {"flat-no-key.json", ":3:3: steps[1]: the step has no field 'key'"},
    {"flat-no-type.json", ":2:3: steps[0]: the step has no field 'type'"},
    {"flat-steps-object.json", ":1:11: steps must be an array, not an object"},
    {"flat-unknown-type.json",
     ":2:12: steps[0]: a step's type is 'command' or 'wait', not 'block'"},
    {"flat-wait-string.json", ":2:43: steps[0]: continue_on_failure must be true or false"},
    {"graph-not-object.json", ":1:11: graph must be an object, not an array"},
    {"image-blank.json", ":3:14: step 'a': the image has no name"},
    {"key-empty.json", ":3:14: step '': the key is empty"},
    {"key-long.json", "': the key is longer than 200 bytes"},
    {"key-newline.json", ":3:14: step 'a\\nb': the key may not contain control characters"},
    {"key-number.json", ":3:22: node 0: key must be a string, not the number 7"},
    {"key-slash.json", ":3:14: step 'a/b': the key may not contain '/'"},
    {"label-number.json", ":3:51: step 'a': label must be a string, not the number 1"},
    {"mount.json", ":3:37: step 'a': mount steps are not supported"},
    {"memory-small.json",
     ":3:60: step 'a': memory_bytes must be a whole number from 4194304 to 1125899906842624, not "
     "the number 1024"},
    {"network-unknown.json", ":3:53: step 'a': network must be 'host' or 'none', not 'bridge'"},
    {"no-cmd.json", ":3:14: step 'a': the step has no field 'cmd'"},
    {"no-edge-property.json", ":1:11: the graph has no field 'edge_property'"},
    {"no-edges.json", ":1:11: the graph has no field 'edges'"},
    {"no-env.json", ":3:5: step 'a': the node has no field 'env'"},
    {"no-graph.json", ":1:1: the document has no field 'graph'"},
    {"no-key.json", ":3:14: node 0: the step has no field 'key'"},
    {"no-nodes.json", ":1:11: the graph has no field 'nodes'"},
    {"node-holes.json", ":7:17: node_holes must be empty"},
    {"node-not-object.json", ":3:5: node 0: a node must be an object, not the string 'a'"},
    {"node-secrets.json", ":3:65: step 'a': secrets are not supported (TOKEN)"},
    {"node-without-step.json", ":3:5: node 0: the node has no field 'step'"},
    {"nodes-not-array.json", ":1:21: nodes must be an array, not an object"},
    {"not-an-object.json", ":1:1: the document must be an object, not an array"},
    {"not-utf8.json",
     ":1:12: not JSON: syntax error while parsing value - invalid string: ill-formed"},
    {"number-too-big.json", ":1:25: not JSON: number overflow parsing '1e999'"},
    {"runner-unknown.json", ":3:52: step 'a': the runner 'k8s' is unknown"},
    {"secrets.json", ":3:53: step 'a': secrets are not supported (TOKEN, PASS)"},
    {"self-edge.json", ": step 'a' waits for itself"},
    {"step-null.json", ":3:14: node 0: step must be an object, not null"},
    {"timeout-float-whole.json", ":3:61: step 'a': timeout_seconds must be a whole number"},
    {"timeout-fraction.json", "from 1 to 4294967295, not the number 1.5"},
    {"timeout-huge.json", "from 1 to 4294967295, not the number 4294967296"},
    {"timeout-negative.json", "from 1 to 4294967295, not the number -5"},
    {"timeout-string.json", "from 1 to 4294967295, not the string '30'"},
    {"timeout-zero.json", "from 1 to 4294967295, not the number 0"},
    {"trailing-comma.json",
     ":2:1: not JSON: syntax error while parsing object key - unexpected '}'"},
    {"trailing-text.json", ":8:1: not JSON: syntax error while parsing value - unexpected '}'"},
    {"truncated.json",
     ":3:1: not JSON: syntax error while parsing value - unexpected end of input"},
    {"two-parents.json", ":9:13: step 'c': it builds in two steps, 'a' and 'b'"},
    {"undirected.json", ":1:42: edge_property must be 'directed', not 'undirected'"},
    {"version-1.json", ":1:13: version must be the string '0', not the string '1'"},
    {"version-number.json", ":1:13: version must be the string '0', not the number 0"},
};

TEST(IrJsonBroken, EveryDocumentSaysWhatIsWrong) {
  for (const Broken& broken : kBroken) {
    SCOPED_TRACE(broken.file);
    const std::string message =
        error_of(read_data(std::string("documents/") + broken.file), broken.file);
    EXPECT_EQ(message.rfind(broken.file, 0), 0u) << message;
    const auto found = message.find(broken.message);
    EXPECT_NE(found, std::string::npos) << message;
    if (broken.message[0] == ':') {
      EXPECT_EQ(found, std::string(broken.file).size()) << message;
    }
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 600u);
  }
}

TEST(IrJsonBroken, TheTableIsComplete) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(HM_TEST_DATA "/documents")) {
    if (entry.path().extension() == ".json") files.insert(entry.path().filename());
  }
  for (const Broken& broken : kBroken) EXPECT_EQ(files.erase(broken.file), 1u) << broken.file;
  for (const std::string& file : files) ADD_FAILURE() << file << " has no expected message";
}

TEST(IrJsonBroken, EveryPrefixIsRefusedCleanly) {
  const std::string text = read_data("samples/chain-fork-barrier.json");
  const std::size_t last = text.rfind('}');
  for (std::size_t size = 0; size <= last; ++size) {
    EXPECT_NE(error_of(text.substr(0, size)).find("not JSON"), std::string::npos) << size;
  }
}

TEST(IrJsonBroken, FlippedBytesNeverCrash) {
  const std::string text = read_data("samples/least.json");
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const char c : {'\0', '"', '{', ']', '0', '\xff', ' ', ','}) {
      std::string broken = text;
      broken[i] = c;
      const auto result = parse_ir(broken, "x");
      if (!result) {
        EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
      }
    }
  }
}

TEST(IrJsonBroken, ColumnsCountCharacters) {
  EXPECT_EQ(error_of("{\"é\": 1, \"version\": 1}").substr(0, 15), "test.json:1:21:");
}

TEST(IrJsonBroken, NamesStandardInput) {
  EXPECT_EQ(error_of("[]", "-"), "<stdin>:1:1: the document must be an object, not an array");
}

TEST(IrJsonBroken, LongTextIsCut) {
  EXPECT_LT(error_of("\"" + std::string(1 << 20, 'x')).size(), 600u);
  EXPECT_LT(error_of(one_step(R"("cmd":"x","runner":")" + std::string(5000, 'x') + "\"")).size(),
            600u);
}

TEST(IrJsonBroken, DepthIsNoWeapon) {
  EXPECT_NE(error_of(std::string(1 << 20, '[')).find("nested too deeply"), std::string::npos);
}

}  // namespace
}  // namespace hm::runner
