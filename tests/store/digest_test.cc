#include "store/util/digest.h"

#include <gtest/gtest.h>

#include "store/util/bytes.h"
#include "test_support.h"

namespace hm {
namespace {

constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Digest, OfIsSha256) {
  EXPECT_EQ(Digest::of("abc").hex(), kAbc);
  EXPECT_EQ(Digest::of("").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Digest, HexAndRawRoundTrip) {
  test::Random random(1);
  for (int i = 0; i < 200; ++i) {
    const Digest digest = Digest::of(std::to_string(random.number()));
    EXPECT_EQ(digest.hex().size(), 64U);
    EXPECT_EQ(Digest::from_hex(digest.hex()), digest);
    EXPECT_EQ(Digest::from_raw(digest.raw()), digest);
  }
}

TEST(Digest, FromHexRefusesAllButSixtyFourLowerCaseDigits) {
  const std::string good = kAbc;
  EXPECT_FALSE(Digest::from_hex(""));
  EXPECT_FALSE(Digest::from_hex(good.substr(1)));
  EXPECT_FALSE(Digest::from_hex(good + "0"));
  for (const char bad : {'A', 'F', 'g', ' ', '/', ':', '`', '\0', '\xff'}) {
    for (const std::size_t at : {0, 31, 63}) {
      std::string hex = good;
      hex[at] = bad;
      EXPECT_FALSE(Digest::from_hex(hex)) << static_cast<int>(bad) << " at " << at;
    }
  }
}

TEST(Digest, FromRawRefusesOtherSizes) {
  EXPECT_FALSE(Digest::from_raw(""));
  EXPECT_FALSE(Digest::from_raw(std::string(31, 'x')));
  EXPECT_FALSE(Digest::from_raw(std::string(33, 'x')));
}

TEST(Digest, OnlyTheDefaultIsZero) {
  EXPECT_TRUE(Digest{}.is_zero());
  EXPECT_FALSE(Digest::of("").is_zero());
}

Digest fields(const std::vector<std::string>& items) {
  Hasher hasher;
  for (const std::string& item : items) hasher.field(item);
  return hasher.finish();
}

TEST(Hasher, FieldsDoNotRunIntoEachOther) {
  EXPECT_NE(fields({"a", "bc"}), fields({"ab", "c"}));
  EXPECT_NE(fields({"", "a"}), fields({"a", ""}));
  EXPECT_NE(fields({}), fields({""}));
  EXPECT_NE(fields({"a"}), fields({"a", ""}));
  EXPECT_EQ(fields({"a", "bc"}), fields({"a", "bc"}));
}

TEST(Hasher, UpdatesAreOneStream) {
  Hasher parts;
  parts.update("a");
  parts.update("");
  parts.update("bc");
  EXPECT_EQ(parts.finish().hex(), kAbc);
}

TEST(Hasher, MovedHasherGoesOn) {
  Hasher first;
  first.update("ab");
  Hasher second(std::move(first));
  second.update("c");
  EXPECT_EQ(second.finish().hex(), kAbc);
}

TEST(Reader, NeverReadsPastItsEnd) {
  Writer out;
  out.text("hello");
  out.byte(7);
  out.number(0x0102030405060708ULL);
  const std::string data = out.take();
  Reader whole(data);
  EXPECT_EQ(whole.text(), "hello");
  EXPECT_EQ(whole.byte(), 7);
  EXPECT_EQ(whole.number(), 0x0102030405060708ULL);
  EXPECT_TRUE(whole.done());
  for (std::size_t size = 0; size < data.size(); ++size) {
    Reader cut(std::string_view(data).substr(0, size));
    cut.text();
    cut.byte();
    cut.number();
    EXPECT_TRUE(cut.failed()) << size;
    EXPECT_FALSE(cut.done()) << size;
    EXPECT_EQ(cut.number(), 0U) << "a failed reader yields zeros";
  }
}

TEST(Reader, RefusesAbsurdLength) {
  Writer out;
  out.number(~0ULL);
  out.raw("abc");
  const std::string data = out.take();
  Reader in(data);
  EXPECT_EQ(in.text(), "");
  EXPECT_TRUE(in.failed());
}

}  // namespace
}  // namespace hm
