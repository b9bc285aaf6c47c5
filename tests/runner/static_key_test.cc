#include "runner/static_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "test_support.h"

namespace hm::runner {
namespace {

Command command() {
  Command out;
  out.argv = {"sh", "-c", "make"};
  out.env = {{"PATH", "/bin"}, {"TOKEN", "s3cret-value"}};
  out.cwd = "sub";
  return out;
}

TEST(StaticKey, EveryComponentChangesTheDigest) {
  const std::vector<std::pair<std::string, std::function<void(Command&)>>> changes = {
      {"command", [](Command& c) { c.argv[2] = "make all"; }},
      {"command split otherwise",
       [](Command& c) {
         c.argv = {"sh", "-cmake"};
       }},
      {"value of a variable", [](Command& c) { c.env["TOKEN"] = "other"; }},
      {"name of a variable",
       [](Command& c) {
         c.env = {{"PATH", "/bin"}, {"TOKEN2", "s3cret-value"}};
       }},
      {"one more variable", [](Command& c) { c.env["EMPTY"] = ""; }},
      {"one variable less", [](Command& c) { c.env.erase("TOKEN"); }},
      {"values swapped", [](Command& c) { std::swap(c.env["PATH"], c.env["TOKEN"]); }},
      {"cwd", [](Command& c) { c.cwd = ""; }},
      {"limits", [](Command& c) { c.limits.memory = 64 << 20; }},
      {"user",
       [](Command& c) {
         c.user = image::UserIds{7, 7, {7}, "/"};
       }},
      {"group",
       [](Command& c) {
         c.user = image::UserIds{7, 8, {8}, "/"};
       }},
      {"groups",
       [](Command& c) {
         c.user = image::UserIds{7, 7, {7, 8}, "/"};
       }},
      {"network", [](Command& c) { c.network = Network::kNone; }},
      {"on_change", [](Command& c) { c.on_change = {"*.c"}; }},
      {"on_change of two",
       [](Command& c) {
         c.on_change = {"*", ".c"};
       }},
  };
  std::set<Digest> seen = {static_key(command(), KeyBase(IdMode::kFull)).digest,
                           static_key(command(), KeyBase(IdMode::kSingle)).digest};
  EXPECT_EQ(seen.size(), 2U) << "the id mode";
  for (const auto& [what, change] : changes) {
    Command changed = command();
    change(changed);
    EXPECT_TRUE(seen.insert(static_key(changed, KeyBase(IdMode::kFull)).digest).second) << what;
  }
  EXPECT_TRUE(seen.contains(static_key(command(), KeyBase(IdMode::kFull)).digest))
      << "a pure function";
}

TEST(StaticKey, TimeoutIsNotInIt) {
  Command changed = command();
  changed.timeout = std::chrono::seconds(5);
  EXPECT_EQ(static_key(changed, KeyBase(IdMode::kFull)).digest,
            static_key(command(), KeyBase(IdMode::kFull)).digest);
}

TEST(StaticKey, ComponentsHoldNoValues) {
  const std::string text = encode_components(static_key(command(), KeyBase(IdMode::kFull)));
  EXPECT_EQ(text.find("s3cret"), std::string::npos);
  EXPECT_EQ(text.find("make"), std::string::npos);
  EXPECT_NE(text.find("env.TOKEN"), std::string::npos) << "names may be known";
}

std::string change(const std::function<void(Command&)>& edit, IdMode mode = IdMode::kFull) {
  Command changed = command();
  edit(changed);
  return components_change(encode_components(static_key(command(), KeyBase(IdMode::kFull))),
                           static_key(changed, KeyBase(mode)));
}

TEST(ComponentsChange, SaysWhatChanged) {
  EXPECT_EQ(change([](Command&) {}), "");
  EXPECT_EQ(change([](Command& c) { c.argv[2] = "x"; }), "the command changed");
  EXPECT_EQ(change([](Command& c) { c.cwd = "x"; }), "the directory it runs in changed");
  EXPECT_EQ(change([](Command& c) { c.network = Network::kNone; }), "its network setting changed");
  EXPECT_EQ(change([](Command& c) { c.on_change = {"x"}; }), "its on_change list changed");
  EXPECT_EQ(change([](Command& c) { c.env["TOKEN"] = "x"; }), "environment variable TOKEN changed");
  EXPECT_EQ(change([](Command& c) { c.env["NEW"] = "x"; }), "environment variable NEW changed");
  EXPECT_EQ(change([](Command& c) { c.env.erase("TOKEN"); }), "environment variable TOKEN changed");
  EXPECT_EQ(change([](Command&) {}, IdMode::kSingle),
            "it runs in another id mode (root or rootless)");
  EXPECT_EQ(change([](Command& c) {
              c.argv[2] = "x";
              c.cwd = "x";
              c.env.erase("TOKEN");
            }),
            "the command changed (and 2 more)");
}

TEST(ComponentsChange, SaysNothingAboutWhatItCannotRead) {
  const StaticKey now = static_key(command(), KeyBase(IdMode::kFull));
  for (const char* before : {"", "garbage", "[]", "3", "null", "{"}) {
    EXPECT_EQ(components_change(before, now), "") << before;
  }
  EXPECT_NE(components_change("{\"command\":3}", now), "") << "an object, though of other things";
}

}  // namespace
}  // namespace hm::runner
