// Finding the project and choosing among its pipelines.
#include "runner/project.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace hm::runner {
namespace {

namespace fs = std::filesystem;

constexpr const char kToml[] = "[[step]]\nkey = \"a\"\nrun = \"true\"\n";
constexpr const char kIr[] = R"({"graph":{"nodes":[{"step":{"key":"j","cmd":"x"},"env":{}}],)"
                             R"("edge_property":"directed","edges":[]}})";

class ProjectTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "hm-project-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = fs::canonical(pattern);
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& name, std::string_view text = kToml) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    const auto files = list_pipelines(root_.string());
    EXPECT_TRUE(files);
    for (const auto& file : *files) out.push_back(file.name);
    return out;
  }
  Error load_error(const std::optional<std::string>& name) {
    const auto pipeline = load_pipeline(root_.string(), name);
    EXPECT_FALSE(pipeline);
    return pipeline ? Error{} : pipeline.error();
  }
  std::string hm_dir() { return (root_ / ".hm").string(); }

  fs::path root_;
};

TEST_F(ProjectTest, FindsTheRootFromBelow) {
  write(".hm/ci.toml");
  fs::create_directories(root_ / "a/b");
  EXPECT_EQ(**find_root(root_.string()), root_.string());
  EXPECT_EQ(**find_root((root_ / "a/b").string()), root_.string());
  EXPECT_EQ(**find_root((root_ / "a/b/../b/.").string()), root_.string());
  write("a/.hm", "a file is no project");
  EXPECT_EQ(**find_root((root_ / "a/b").string()), root_.string());
  fs::create_directories(root_ / "a/b/.hm");
  EXPECT_EQ(**find_root((root_ / "a/b").string()), (root_ / "a/b").string()) << "the nearest";
}

TEST_F(ProjectTest, FollowsLinksBeforeWalkingUp) {
  write(".hm/ci.toml");
  fs::create_directories(root_ / "sub");
  const fs::path link = root_.string() + "-link";
  fs::create_directory_symlink(root_ / "sub", link);
  EXPECT_EQ(**find_root(link.string()), root_.string());
  fs::remove(link);
}

TEST_F(ProjectTest, SaysWhenThereIsNoRoot) {
  const auto none = find_root(root_.string());
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
  const auto absent = find_root((root_ / "absent").string());
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().errno_value, ENOENT);
}

TEST_F(ProjectTest, ListsOnlyPipelines) {
  EXPECT_TRUE(names().empty()) << "no .hm";
  for (const char* file : {"zeta.toml", "ci.json", "config.toml", "config.json", ".hidden.toml",
                           "my pipe.toml", "notes.md", "ci.py", "v1.2.toml", "-x.toml", ".toml"}) {
    write(std::string(".hm/") + file);
  }
  write(".hm/" + std::string(65, 'n') + ".toml");
  fs::create_directories(root_ / ".hm/dir.toml");
  fs::create_symlink("absent", root_ / ".hm/dangling.toml");
  fs::create_symlink("zeta.toml", root_ / ".hm/alias.toml");
  ASSERT_EQ(mkfifo((root_ / ".hm/pipe.toml").c_str(), 0600), 0);
  EXPECT_EQ(names(), (std::vector<std::string>{"alias", "ci", "config", "v1.2", "zeta"}));
  const auto files = *list_pipelines(root_.string());
  EXPECT_EQ(files[1], (PipelineFile{"ci", hm_dir() + "/ci.json", PipelineFormat::kIr}));
  EXPECT_EQ(files[4], (PipelineFile{"zeta", hm_dir() + "/zeta.toml", PipelineFormat::kToml}));
}

TEST_F(ProjectTest, LoadsTheOnlyOne) {
  write(".hm/config.toml", "not = [toml");
  write(".hm/ci.toml");
  const auto pipeline = load_pipeline(root_.string(), std::nullopt);
  ASSERT_TRUE(pipeline) << pipeline.error().message;
  EXPECT_EQ(pipeline->name, "ci");
  EXPECT_EQ(pipeline->steps[0].key, "a");
}

TEST_F(ProjectTest, LoadsOnlyTheNamedOne) {
  write(".hm/broken.toml", "[[");
  write(".hm/twice.toml");
  write(".hm/twice.json", kIr);
  write(".hm/good.json", kIr);
  const auto pipeline = load_pipeline(root_.string(), "good");
  ASSERT_TRUE(pipeline) << pipeline.error().message;
  EXPECT_EQ(pipeline->name, "good");
  EXPECT_EQ(pipeline->steps[0].key, "j");
}

TEST_F(ProjectTest, AsksWhenTheChoiceIsOpen) {
  Error error = load_error(std::nullopt);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.message,
            "there are no pipelines in " + hm_dir() + "; write one to " + hm_dir() + "/ci.toml");
  write(".hm/b.toml");
  write(".hm/a.json", kIr);
  write(".hm/a.toml");
  error = load_error(std::nullopt);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.message,
            "there are several pipelines, name one; the pipelines in " + hm_dir() + " are: a, b");
}

TEST_F(ProjectTest, RefusesUnknownNames) {
  write(".hm/ci.toml");
  Error error = load_error("cd");
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.message, "there is no pipeline 'cd'; the pipelines in " + hm_dir() + " are: ci");
  EXPECT_EQ(load_error("config").code, ErrorCode::kNotFound);
  for (const char* name : {"../.hm/ci", "a/b", "", ".ci", "ci\n", "my ci"}) {
    error = load_error(name);
    EXPECT_EQ(error.code, ErrorCode::kNotFound) << name;
    EXPECT_NE(error.message.find("cannot be a pipeline's name"), std::string::npos);
    EXPECT_EQ(error.message.find('\n'), std::string::npos);
  }
}

TEST_F(ProjectTest, RefusesTwoFilesOfOneName) {
  write(".hm/ci.toml");
  write(".hm/ci.json", kIr);
  for (const auto& name : {std::optional<std::string>("ci"), std::optional<std::string>()}) {
    const Error error = load_error(name);
    EXPECT_EQ(error.code, ErrorCode::kInvalid);
    EXPECT_EQ(error.message, "pipeline 'ci' is declared twice, in " + hm_dir() + "/ci.json and " +
                                 hm_dir() + "/ci.toml; remove one");
  }
}

TEST_F(ProjectTest, PassesOnWhatTheReadersSay) {
  write(".hm/ci.toml", "[[step]]\nkey = 1\nrun = 'x'\n");
  EXPECT_EQ(load_error("ci").code, ErrorCode::kInvalid);
  EXPECT_EQ(load_error("ci").message.rfind(hm_dir() + "/ci.toml:2:7: ", 0), 0u);
  write(".hm/ir.json", "[]");
  EXPECT_EQ(load_error("ir").message.rfind(hm_dir() + "/ir.json:1:1: ", 0), 0u);
}

TEST_F(ProjectTest, SeesPythonPipelines) {
  EXPECT_FALSE(has_python_pipelines(root_.string()));
  write(".hm/ci.toml");
  fs::create_directories(root_ / ".hm/package.py");
  EXPECT_FALSE(has_python_pipelines(root_.string()));
  write(".hm/pipeline.py", "");
  EXPECT_TRUE(has_python_pipelines(root_.string()));
}

}  // namespace
}  // namespace hm::runner
