// The user of an image: by Docker's rules, out of the image's own files.
#include "image/user.h"

#include <gtest/gtest.h>

namespace hm::image {
namespace {

constexpr const char* kPasswd =
    "root:x:0:0:root:/root:/bin/sh\n"
    "\n"
    "broken:x:no:0::/:\n"
    "app:x:1000:1001::/home/app:/bin/sh\n"
    "12:x:55:56::/odd:/bin/sh\n"
    "bare:x:77:78\n";
constexpr const char* kGroup =
    "root:x:0:\n"
    "wheel:x:10:root,app\n"
    "app:x:1001:\n"
    "other:x:20:applet\n"
    "tail:x:30:app";

UserIds resolved(const std::string& user) {
  const auto ids = resolve_user(user, kPasswd, kGroup);
  EXPECT_TRUE(ids) << user;
  return ids.value_or(UserIds{});
}

TEST(ImageUser, NamesAndNumbers) {
  EXPECT_EQ(resolved("app"), (UserIds{1000, 1001, {10, 30, 1001}, "/home/app"}));
  EXPECT_EQ(resolved("1000"), resolved("app"));
  EXPECT_EQ(resolved("4711"), (UserIds{4711, 0, {0}, "/"}));
  EXPECT_EQ(resolved("12"), (UserIds{55, 56, {56}, "/odd"})) << "a name of digits is a name first";
  EXPECT_EQ(resolved("bare"), (UserIds{77, 78, {78}, "/"}));
  EXPECT_TRUE(resolved("root").is_root());
  EXPECT_TRUE(resolved("0").is_root());
}

TEST(ImageUser, AGroupOfItsOwnIsTheOnlyOne) {
  EXPECT_EQ(resolved("app:wheel"), (UserIds{1000, 10, {10}, "/home/app"}));
  EXPECT_EQ(resolved("app:20"), (UserIds{1000, 20, {20}, "/home/app"}));
  EXPECT_EQ(resolved("7:8"), (UserIds{7, 8, {8}, "/"}));
  EXPECT_EQ(resolved(":app"), (UserIds{0, 1001, {1001}, "/root"}));
  EXPECT_EQ(resolved("app:"), resolved("app"));
}

TEST(ImageUser, WhoIsNotThereIsRefused) {
  for (const char* user :
       {"nobody", "app:nobody", "broken", "-1", "4294967295", "1000x", "app:x:y"}) {
    EXPECT_FALSE(resolve_user(user, kPasswd, kGroup)) << user;
  }
  EXPECT_FALSE(resolve_user("app", "", ""));
  EXPECT_TRUE(resolve_user("5:6", "", ""));
}

TEST(ImageUser, IdsSurviveTheStore) {
  ImageConfig config;
  config.user = "app";
  config.ids = resolved("app");
  const auto again = decode_config(encode_config(config));
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, config);
  EXPECT_FALSE(decode_config(R"({"env":{},"working_dir":"","user":"","platform":"","ids":{}})"));
  EXPECT_FALSE(decode_config(R"({"env":{},"working_dir":"","user":"","platform":"","ids":
      {"uid":-1,"gid":0,"groups":[],"home":""}})"));
}

}  // namespace
}  // namespace hm::image
