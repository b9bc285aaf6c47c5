// Access control lists: what becomes of ids that a user namespace does not have.
#include "fs/posix_acl.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace hm::fs {
namespace {

struct AclEntry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id;
};

constexpr std::uint32_t kNone = ~0U;

std::string acl(const std::vector<AclEntry>& entries) {
  std::string out = {2, 0, 0, 0};
  for (const AclEntry& entry : entries) {
    out += {static_cast<char>(entry.tag), static_cast<char>(entry.tag >> 8),
            static_cast<char>(entry.permissions), static_cast<char>(entry.permissions >> 8)};
    for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(entry.id >> shift);
  }
  return out;
}

TEST(PosixAcl, NamesOfItsAttributes) {
  EXPECT_TRUE(is_posix_acl("system.posix_acl_access"));
  EXPECT_TRUE(is_posix_acl("system.posix_acl_default"));
  EXPECT_FALSE(is_posix_acl("user.system.posix_acl_access"));
}

TEST(PosixAcl, ForeignIdsAreTakenOut) {
  const AclEntry owner{1, 6, kNone}, group{4, 4, kNone}, mask{16, 7, kNone}, other{32, 0, kNone};
  const AclEntry user{2, 7, 0}, named_group{8, 5, 0};
  EXPECT_EQ(without_foreign_ids(
                acl({owner, user, {2, 7, kNone}, group, named_group, {8, 1, kNone}, mask, other})),
            acl({owner, user, group, named_group, mask, other}));
  EXPECT_EQ(without_foreign_ids(acl({owner, {2, 7, kNone}, group, mask, other})),
            acl({owner, group, mask, other}));
}

TEST(PosixAcl, OthersStayAsTheyAre) {
  const std::string list = acl({{1, 6, kNone}, {2, 7, 4294967294U}, {4, 4, kNone}, {16, 7, kNone}});
  for (const std::string& value :
       {list, acl({}), std::string(), std::string("\2\0\0", 3), list.substr(0, list.size() - 1)}) {
    EXPECT_EQ(without_foreign_ids(value), value);
  }
}

}  // namespace
}  // namespace hm::fs
