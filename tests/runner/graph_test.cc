// What every pipeline must obey, the order of its steps, and cutting it down to a few of them.
#include "runner/graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>

namespace hm::runner {
namespace {

using Indexes = std::vector<std::size_t>;

Step make_step(const std::string& key, std::optional<std::size_t> parent = std::nullopt,
               Indexes after = {}) {
  Step step;
  step.key = step.label = key;
  step.command = "true";
  step.parent = parent;
  step.after = std::move(after);
  return step;
}

Pipeline make(std::initializer_list<Step> steps) {
  Pipeline pipeline;
  pipeline.steps = steps;
  return pipeline;
}

std::string error_of(const Pipeline& pipeline) {
  const auto status = check_graph(pipeline, "p");
  if (status) return "";
  EXPECT_EQ(status.error().code, ErrorCode::kInvalid);
  return status.error().message;
}

TEST(CheckGraph, AcceptsWhatCanRun) {
  EXPECT_EQ(error_of({}), "");
  EXPECT_EQ(error_of(make({make_step("a"), make_step("b", 0), make_step("c", 0, {1})})), "");
  EXPECT_EQ(error_of(make({make_step("b", 1), make_step("a")})), "") << "a later parent";
  EXPECT_EQ(error_of(make({make_step(std::string(200, 'k'))})), "");
  EXPECT_EQ(error_of(make({make_step("é .:@")})), "");
}

TEST(CheckGraph, RefusesBadKeys) {
  EXPECT_EQ(error_of(make({make_step("a"), make_step("a")})),
            "p: step 'a': two steps have this key");
  for (const std::string& key :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"),
        std::string("a\0b", 3), std::string("a\nb"), std::string("\x7f"), std::string(201, 'k')}) {
    EXPECT_NE(error_of(make({make_step(key)})).find("the key "), std::string::npos) << key;
  }
}

TEST(CheckGraph, RefusesBadCommands) {
  Step step = make_step("a");
  for (const char* blank : {"", " ", "\n\t "}) {
    step.command = blank;
    EXPECT_EQ(error_of(make({step})), "p: step 'a': the command is empty");
  }
  step.command = std::string("a\0b", 3);
  EXPECT_EQ(error_of(make({step})), "p: step 'a': the command contains a NUL character");
  step.command.clear();
  step.argv = {"true"};
  EXPECT_EQ(error_of(make({step})), "");
  step.argv = {"true", std::string(1, '\0')};
  EXPECT_EQ(error_of(make({step})), "p: step 'a': the command contains a NUL character");
}

TEST(CheckGraph, RefusesBadEnvCwdAndImage) {
  for (const auto& name : {std::string(), std::string("A=B"), std::string("A\0", 2)}) {
    Step step = make_step("a");
    step.env[name] = "x";
    EXPECT_NE(error_of(make({step})).find("p: step 'a': env: "), std::string::npos);
  }
  Step step = make_step("a");
  step.env["A"] = std::string(1, '\0');
  EXPECT_EQ(error_of(make({step})), "p: step 'a': env: the value of 'A' contains a NUL character");
  step = make_step("a");
  step.cwd = "../x";
  EXPECT_NE(error_of(make({step})).find("cwd may not contain"), std::string::npos);
  step = make_step("a");
  step.image = " ";
  EXPECT_EQ(error_of(make({step})), "p: step 'a': the image has no name");
}

TEST(CheckGraph, NamesCycles) {
  EXPECT_EQ(error_of(make({make_step("a", std::nullopt, {0})})), "p: step 'a' waits for itself");
  EXPECT_EQ(error_of(make({make_step("a", 0)})), "p: step 'a' waits for itself");
  EXPECT_EQ(error_of(make({make_step("a", 1), make_step("b", std::nullopt, {0})})),
            "p: the steps form a cycle: a -> b -> a");
  // x is before the cycle and z behind it; the arrows run from what comes first.
  EXPECT_EQ(error_of(make({make_step("z", 1), make_step("c", 3), make_step("x"),
                           make_step("b", 2, {4}), make_step("a", std::nullopt, {1})})),
            "p: the steps form a cycle: c -> a -> b -> c");
}

TEST(CheckGraph, RefusesIndexesOfNoStep) {
  EXPECT_NE(error_of(make({make_step("a", 1)})).find("does not exist"), std::string::npos);
  EXPECT_NE(error_of(make({make_step("a", std::nullopt, {7})})).find("does not exist"),
            std::string::npos);
}

TEST(CheckGraph, NamesStandardInput) {
  EXPECT_EQ(check_graph(make({make_step("a", 0)}), "-").error().message,
            "<stdin>: step 'a' waits for itself");
}

TEST(CheckGraph, LongChainsAreFine) {
  Pipeline chain;
  for (std::size_t i = 0; i < 100000; ++i) {
    chain.steps.push_back(make_step(std::to_string(i)));
    if (i > 0) chain.steps[i].parent = i - 1;
  }
  EXPECT_EQ(error_of(chain), "");
  chain.steps[0].after = {99999};
  EXPECT_NE(error_of(chain).find("form a cycle: 0 -> 1 -> 2"), std::string::npos);
}

TEST(TopologicalOrder, KeepsDocumentOrderWhereItMay) {
  const auto p =
      make({make_step("d", 3), make_step("b"), make_step("c", std::nullopt, {1}), make_step("a")});
  EXPECT_EQ(topological_order(p), (Indexes{1, 2, 3, 0}));
  EXPECT_EQ(topological_order({}), Indexes{});
  EXPECT_EQ(topological_order(make({make_step("a"), make_step("b"), make_step("c")})),
            (Indexes{0, 1, 2}));
}

TEST(TopologicalOrder, CountsAParentThatIsAlsoInAfterOnce) {
  EXPECT_EQ(topological_order(make({make_step("a"), make_step("b", 0, {0, 0})})), (Indexes{0, 1}));
}

TEST(RestrictTo, KeepsAncestorsAndRenumbers) {
  auto p = make({make_step("other"), make_step("deps"), make_step("unused", 1), make_step("lint"),
                 make_step("test", 1, {3}), make_step("last", 4)});
  p.default_image = "host";
  const auto cut = restrict_to(p, {"test", "test"});
  ASSERT_TRUE(cut);
  ASSERT_EQ(cut->steps.size(), 3u);
  EXPECT_EQ(cut->default_image, "host");
  EXPECT_EQ(cut->steps[0].key, "deps");
  EXPECT_EQ(cut->steps[1].key, "lint");
  EXPECT_EQ(cut->steps[2].key, "test");
  EXPECT_EQ(cut->steps[2].parent, 0u);
  EXPECT_EQ(cut->steps[2].after, Indexes{1});
  EXPECT_EQ(*restrict_to(p, {}), p);
  EXPECT_EQ(*restrict_to(p, {"other", "unused", "last"}), p);
}

TEST(RestrictTo, ListsTheKeysWhenOneIsUnknown) {
  const auto cut = restrict_to(make({make_step("a"), make_step("b")}), {"a", "c"});
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(cut.error().message, "the pipeline has no step 'c'; the steps are: a, b");
}

TEST(WorkspacePath, CleansOrRefuses) {
  EXPECT_EQ(*workspace_path(""), "");
  EXPECT_EQ(*workspace_path("."), "");
  EXPECT_EQ(*workspace_path("./a//b/./"), "a/b");
  EXPECT_EQ(*workspace_path("..a/b.."), "..a/b..");
  for (const char* bad : {"/", "/a", "..", "a/..", "a/../b"}) {
    EXPECT_FALSE(workspace_path(bad)) << bad;
  }
  EXPECT_FALSE(workspace_path(std::string_view("a\0b", 3)));
  const std::string name(255, 'x');
  EXPECT_EQ(*workspace_path(name + "/" + name), name + "/" + name);
  EXPECT_FALSE(workspace_path("a/" + name + "x"));
  std::string deep;
  for (int i = 0; i < 2001; ++i) deep += "a/";
  EXPECT_FALSE(workspace_path(deep));
}

TEST(Printable, IsAlwaysOneLineOfText) {
  EXPECT_EQ(printable("a\nb\tc\x1b\x7f"), "a\\nb\\tc\\x1b\\x7f");
  EXPECT_EQ(printable("é€😀"), "é€😀");
  for (const char* bad : {"\xff", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xf0\x9f\x98"}) {
    const std::string text = printable(bad);
    EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) { return c > 0; })) << text;
  }
  EXPECT_EQ(printable(std::string(300, 'x')), std::string(200, 'x') + "...");
  EXPECT_EQ(shown_origin("-"), "<stdin>");
  EXPECT_EQ(shown_origin("a\nb"), "a\\nb");
}

}  // namespace
}  // namespace hm::runner
