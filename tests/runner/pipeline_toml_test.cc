// The TOML reader: every key it knows, and a folder of broken documents. Durations too.
#include "runner/pipeline_toml.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "runner/duration.h"
#include "runner/graph.h"
#include "store/util/fd.h"

namespace hm::runner {
namespace {

using std::chrono::seconds;
using Indexes = std::vector<std::size_t>;

std::string read_document(const std::string& name) {
  auto text = read_file(std::string(HM_TEST_DATA) + "/documents/" + name);
  EXPECT_TRUE(text) << name;
  return text ? *text : "";
}

Pipeline parsed(std::string_view text) {
  auto pipeline = parse_toml(text, "test.toml");
  EXPECT_TRUE(pipeline) << pipeline.error().message;
  return pipeline ? *pipeline : Pipeline{};
}

std::string error_of(std::string_view text, std::string_view origin = "test.toml") {
  auto pipeline = parse_toml(text, origin);
  if (pipeline) return "(accepted)";
  EXPECT_EQ(pipeline.error().code, ErrorCode::kInvalid);
  return pipeline.error().message;
}

CachePolicy cache_of(const std::string& cache) {
  const Pipeline p = parsed("[[step]]\nkey = \"a\"\nrun = \"x\"\ncache = " + cache + "\n");
  return p.steps.empty() ? CachePolicy{} : p.steps[0].cache;
}

constexpr const char kEverything[] = R"(
image   = "host"
timeout = "30m"
[env]
CI = "true"
MODE = "dev"
[[step]]
key = "deps"
run = "npm ci"
image = "/srv/images/node"
[[step]]
key     = "test"
from    = "deps"
after   = ["lint", "deps", "lint"]
run     = "npm test"
cwd     = "packages/./a/"
env     = { MODE = "ci" }
cache   = "none"
timeout = "10m"
network = "none"
label   = "The tests"
[[step]]
key = "lint"
run = "npm run lint"
network = "host"
)";

TEST(PipelineToml, ReadsEveryKey) {
  const Pipeline p = parsed(kEverything);
  ASSERT_EQ(p.steps.size(), 3u);
  EXPECT_EQ(p.default_image, "host");
  EXPECT_EQ(p.timeout, seconds(1800));
  EXPECT_EQ(p.steps[0].image, "/srv/images/node");
  EXPECT_EQ(p.steps[0].env.at("MODE"), "dev");
  EXPECT_EQ(p.steps[0].label, "deps");
  EXPECT_EQ(p.steps[0].cache, CachePolicy{});
  const Step& test = p.steps[1];
  EXPECT_EQ(test.key, "test");
  EXPECT_EQ(test.parent, 0u);
  EXPECT_EQ(test.after, Indexes{2}) << "once, without the parent";
  EXPECT_EQ(test.command, "npm test");
  EXPECT_EQ(test.cwd, "packages/a");
  EXPECT_EQ(test.env, (std::map<std::string, std::string>{{"CI", "true"}, {"MODE", "ci"}}));
  EXPECT_FALSE(test.cache.enabled);
  EXPECT_EQ(test.timeout, seconds(600));
  EXPECT_EQ(test.network, Network::kNone);
  EXPECT_EQ(test.label, "The tests");
  EXPECT_FALSE(test.image);
  EXPECT_EQ(p.steps[2].network, Network::kHost);
}

TEST(PipelineToml, FromMayNameALaterStep) {
  const auto p = parsed("[[step]]\nkey='b'\nrun='x'\nfrom='a'\n[[step]]\nkey='a'\nrun='x'\n");
  EXPECT_EQ(p.steps[0].parent, 1u);
}

TEST(PipelineToml, ReadsWindowsLineEnds) {
  EXPECT_EQ(parsed("[[step]]\r\nkey = 'a'\r\nrun = 'x'\r\n").steps[0].command, "x");
}

TEST(PipelineToml, ReadsCachePolicies) {
  const std::optional<seconds> never;
  const std::vector<std::string> nothing;
  EXPECT_EQ(cache_of("'auto'"), CachePolicy{});
  EXPECT_EQ(cache_of("'none'"), (CachePolicy{false, never, nothing, "none"}));
  EXPECT_EQ(cache_of("'forever'"), (CachePolicy{true, never, nothing, "forever"}));
  EXPECT_EQ(cache_of("{ ttl = '1d' }"), (CachePolicy{true, seconds(86400), nothing, "ttl"}));
  EXPECT_EQ(cache_of("{ on_change = ['a.lock', './src/**'] }"),
            (CachePolicy{true, never, {"a.lock", "src/**"}, "on_change"}));
  EXPECT_EQ(cache_of("[{ ttl = '2h' }, { ttl = '1h' }, { on_change = ['a', 'b'] }, "
                     "{ on_change = ['b', 'c'] }, 'auto']"),
            (CachePolicy{true, seconds(3600), {"a", "b", "c"}, "compose"}));
  EXPECT_EQ(cache_of("['forever', 'none']"), (CachePolicy{false, never, nothing, "compose"}));
}

struct Broken {
  const char* file;
  const char* message;  // what comes after the file's name
};

constexpr Broken kBroken[] = {
    {"after-itself.toml", ":4:10: step 'a': it cannot run after itself"},
    {"after-missing.toml",
     ":4:10: step 'a': after names 'zebra', which is no step's key; the steps are: a"},
    {"after-string.toml",
     ":4:9: step 'a': after must be a list, not a string; write after = [\"key\"]"},
    {"build-timeout.toml", ":1:11: timeout 'soon' is not a duration; write"},
    {"cache-list-empty.toml", ":4:9: step 'a': cache is an empty list; write \"auto\""},
    {"cache-list-nested.toml", ":4:10: step 'a': cache cannot be an array; write \"auto\""},
    {"cache-number.toml", ":4:9: step 'a': cache cannot be a number; write \"auto\""},
    {"cache-paths-climb.toml", ":4:24: step 'a': a path in on_change may not contain \"..\""},
    {"cache-paths-string.toml", ":4:23: step 'a': on_change must be a list of paths"},
    {"cache-table-both.toml", ":4:9: step 'a': a cache table holds one of ttl and on_change"},
    {"cache-table-empty.toml", ":4:9: step 'a': a cache table holds one of ttl and on_change"},
    {"cache-table-key.toml",
     ":4:11: step 'a': unknown key 'tll' in a cache table; did you mean 'ttl'?"},
    {"cache-ttl-bad.toml", ":4:17: step 'a': ttl '1x' is not a duration"},
    {"cache-word.toml", ":4:9: step 'a': there is no cache 'always'; write \"auto\""},
    {"cwd-absolute.toml", ":4:7: step 'a': cwd '/etc' is absolute; write a path below /workspace"},
    {"cwd-climbs.toml", ":4:7: step 'a': cwd may not contain \"..\""},
    {"cycle.toml", ": the steps form a cycle: a -> b -> a"},
    {"duplicate-key.toml", ":6:7: step 'a': the step on line 2 has this key too; rename"},
    {"empty.toml", ":1:1: the pipeline has no steps; add [[step]]"},
    {"env-bad-name.toml", ":1:1: step 'a': env: 'A=B' cannot be the name of a variable"},
    {"env-boolean.toml", ":2:6: env: 'CI' must be a string, not a boolean; write CI = \"value\""},
    {"env-string.toml", ":4:7: step 'a': env must be a table, not a string"},
    {"from-array.toml", ":4:8: step 'a': from must be a string, not an array"},
    {"from-itself.toml", ":4:8: step 'a': it cannot start from itself"},
    {"from-missing.toml",
     ":4:8: step 'a': from names 'depss', which is no step's key; did you mean 'deps'?"},
    {"image-empty.toml",
     ":4:9: step 'a': image is empty; write \"debian:12\", \"host\" or a directory's path"},
    {"image-number.toml", ":1:9: image must be a string, not a number"},
    {"image-on-child.toml",
     ":5:9: step 'a': a step with from starts from that step's files and has no image"},
    {"key-assigned-twice.toml", ":4:7: not TOML: "},
    {"key-slash.toml", ":2:7: step number 1: the key may not contain '/'"},
    {"memory-bad.toml",
     ":4:10: step 'a': memory '64' is not a size; write a whole number with K, M, G or T, such as "
     "\"512M\""},
    {"memory-small.toml",
     ":4:10: step 'a': memory '1K' is no limit a step can run in; write from \"4M\" to \"1024T\""},
    {"network.toml", ":4:11: step 'a': there is no network 'off'; write \"host\" or \"none\""},
    {"no-key.toml", ":1:1: step number 1: the step has no key; add key = \"name\""},
    {"no-run.toml", ":1:1: step number 1: 'a' has nothing to run; add run = \"command\""},
    {"no-step.toml", ":1:1: the pipeline has no steps; add [[step]]"},
    {"pids-zero.toml",
     ":4:8: step 'a': pids must be a whole number from 1 to 4194304; write pids = 200"},
    {"run-array.toml", ":3:7: step 'a': run must be a string, not an array"},
    {"run-empty.toml", ":3:7: step 'a': run is empty"},
    {"run-nul.toml", ":1:1: step 'a': the command contains a NUL character"},
    {"step-empty-array.toml", ":1:1: the pipeline has no steps; add [[step]]"},
    {"step-not-table.toml", ":1:9: a step must be a table, not a string"},
    {"step-single-bracket.toml",
     ":1:1: step must be an array of tables, not a table; write [[step]]"},
    {"syntax.toml", ":2:9: not TOML: "},
    {"timeout-bad.toml", ":4:11: step 'a': timeout '2w' is not a duration"},
    {"timeout-number.toml", ":4:11: step 'a': timeout must be a string, not a number"},
    {"timeout-zero.toml", ":4:11: step 'a': timeout '0s' is no time at all"},
    {"unknown-far.toml", ":4:1: step number 1: unknown key 'zzz' in a step; there are key, run,"},
    {"unknown-foreign.toml",
     ":3:1: step number 1: unknown key 'command' in a step; did you mean 'run'?"},
    {"unknown-key.toml",
     ":4:1: step number 1: unknown key 'aftre' in a step; did you mean 'after'?"},
    {"unknown-top.toml", ":1:1: unknown key 'tiemout' in a pipeline; did you mean 'timeout'?"},
};

TEST(PipelineTomlBroken, EveryDocumentSaysWhatIsWrong) {
  for (const Broken& broken : kBroken) {
    SCOPED_TRACE(broken.file);
    const std::string message = error_of(read_document(broken.file), broken.file);
    EXPECT_EQ(message.rfind(std::string(broken.file) + broken.message, 0), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(PipelineTomlBroken, TheTableIsComplete) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(HM_TEST_DATA "/documents")) {
    if (entry.path().extension() == ".toml") files.insert(entry.path().filename());
  }
  for (const Broken& broken : kBroken) EXPECT_EQ(files.erase(broken.file), 1u) << broken.file;
  for (const std::string& file : files) ADD_FAILURE() << file << " has no expected message";
}

TEST(PipelineTomlBroken, EveryPrefixAndFlippedByteIsHandled) {
  const std::string text = kEverything;
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const char c : {'\0', '"', '\xff', '\n'}) {
      std::string broken = text;
      broken[i] = c;
      for (const std::string& bad : {broken, text.substr(0, i)}) {
        const auto result = parse_toml(bad, "x");
        if (!result) {
          EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
        }
      }
    }
  }
}

TEST(PipelineTomlBroken, NamesStandardInput) {
  EXPECT_EQ(error_of("x = 1\n[[step]]\nkey='a'\nrun='x'", "-").substr(0, 12), "<stdin>:1:1:");
}

TEST(PipelineTomlBroken, DepthIsNoWeapon) {
  EXPECT_NE(error_of("x = " + std::string(100000, '[')).find("not TOML"), std::string::npos);
}

TEST(Duration, ReadsSumsOfUnits) {
  const std::pair<const char*, std::int64_t> good[] = {
      {"30s", 30},      {"5m", 300},
      {"1h30m", 5400},  {"1d", 86400},
      {"007s", 7},      {"1d1h1m1s", 90061},
      {"0h5m", 300},    {"90m", 5400},
      {"1d30s", 86430}, {"4294967295s", 4294967295}};
  for (const auto& [text, expected] : good) {
    const auto duration = parse_duration(text);
    ASSERT_TRUE(duration) << duration.error().message;
    EXPECT_EQ(duration->count(), expected) << text;
  }
}

TEST(Duration, RefusesTheRest) {
  for (const char* text : {"", "30", "s", "2w", "1.5h", "-1s", "1h 30m", " 1h", "30m1h", "1s1s",
                           "1H", "1hm", "1h30", "ms", "1ms"}) {
    const auto duration = parse_duration(text);
    ASSERT_FALSE(duration) << text;
    EXPECT_EQ(duration.error().code, ErrorCode::kInvalid);
    EXPECT_NE(duration.error().message.find("is not a duration"), std::string::npos) << text;
  }
  EXPECT_NE(parse_duration("0h0s").error().message.find("no time at all"), std::string::npos);
  for (const char* text : {"4294967296s", "49711d", "99999999999999999999999999999999d",
                           "4294967295s1s", "18446744073709551617s"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

}  // namespace
}  // namespace hm::runner
