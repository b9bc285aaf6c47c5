// IgnoreFile: one parsed ignore file (.gitignore, .hmignore, info/exclude), gitignore(5) exactly.
//
// Bytes are compared as bytes, case matters, and git's corner cases are kept on purpose: a pattern
// git can never match is dropped, `a**/b` crosses directories because git strips the literal "a"
// first. Matching never backtracks exponentially. Thread-safety: immutable after parse.
// Errors: none, every text is a valid ignore file.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hm::fs {

// A symbolic link is kOther, even when it points to a directory: git does not follow it.
enum class IgnoreKind { kDirectory, kOther };

// What the last matching pattern says. kIncluded is a `!pattern`.
enum class Verdict { kNone, kIgnored, kIncluded };

class IgnoreFile {
 public:
  static IgnoreFile parse(std::string_view text);

  // `path` is relative to the directory the file's patterns are anchored at: "b/c", never "/b/c".
  // Judges the path itself only; that its parents may be ignored is the caller's affair.
  Verdict verdict(std::string_view path, IgnoreKind kind) const;
  bool empty() const { return patterns_.empty(); }

 private:
  using CharSet = std::bitset<256>;

  struct Token {
    // kStar: any run without '/'. kDeep: any run. kDirectories: nothing, or a run that ends in '/'.
    enum class Op : std::uint8_t { kChar, kAny, kSet, kStar, kDeep, kDirectories };
    Op op = Op::kChar;
    unsigned char ch = 0;
    std::uint32_t set = 0;  // index into sets_
  };

  struct Pattern {
    enum class Scope : std::uint8_t { kName, kPath };
    // After `literal`: nothing, one '*' and `suffix`, or `glob`.
    enum class Shape : std::uint8_t { kExact, kSuffix, kGlob };
    Scope scope = Scope::kName;
    Shape shape = Shape::kExact;
    bool negative = false;
    bool directory_only = false;
    std::string literal;
    std::string suffix;
    std::vector<Token> glob;
  };

  struct Cursor;

  void add_line(std::string_view line);
  bool compile(std::string_view glob, Pattern& pattern);
  bool compile_set(std::string_view glob, std::size_t& at, Pattern& pattern);
  bool matches(const Pattern& pattern, std::string_view text) const;
  bool matches_glob(const std::vector<Token>& glob, std::string_view text) const;
  bool matches_one(const Token& token, char c) const;

  std::vector<Pattern> patterns_;
  std::vector<CharSet> sets_;
};

}  // namespace hm::fs
