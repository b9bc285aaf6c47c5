#include "fs/ignore.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace hm::fs {

namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::string_view kGlobSpecial = "*?[\\";

// The classes as git's own locale-free ctype has them: vertical tab and form feed are no spaces.
bool in_class(std::string_view name, unsigned char c) {
  const bool lower = c >= 'a' && c <= 'z';
  const bool upper = c >= 'A' && c <= 'Z';
  const bool digit = c >= '0' && c <= '9';
  const bool alnum = lower || upper || digit;
  const bool graph = c > 0x20 && c < 0x7f;
  if (name == "alnum") return alnum;
  if (name == "alpha") return lower || upper;
  if (name == "blank") return c == ' ' || c == '\t';
  if (name == "cntrl") return c < 0x20 || c == 0x7f;
  if (name == "digit") return digit;
  if (name == "graph") return graph;
  if (name == "lower") return lower;
  if (name == "print") return graph || c == ' ';
  if (name == "punct") return graph && !alnum;
  if (name == "space") return c == ' ' || c == '\t' || c == '\n' || c == '\r';
  if (name == "upper") return upper;
  return digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');  // xdigit
}

bool is_class(std::string_view name) {
  constexpr std::array<std::string_view, 12> kClasses = {"alnum", "alpha", "blank", "cntrl",
                                                         "digit", "graph", "lower", "print",
                                                         "punct", "space", "upper", "xdigit"};
  for (const auto known : kClasses) {
    if (name == known) return true;
  }
  return false;
}

// Reads the members of `[...]`, from behind the '[' and its negation up to the closing ']'.
class SetReader {
 public:
  SetReader(std::string_view glob, std::size_t at) : glob_(glob), at_(at) {}

  // nullopt when git would never match it: unclosed, or an unknown [:class:].
  std::optional<std::bitset<256>> read() {
    for (bool first = true; at_ < glob_.size(); first = false, ++at_) {
      if (glob_[at_] == ']' && !first) return set_;
      if (!read_member()) return std::nullopt;
    }
    return std::nullopt;
  }

  std::size_t closing() const { return at_; }

 private:
  bool read_member() {
    const char c = glob_[at_];
    if (c == '\\') {
      if (++at_ == glob_.size()) return false;
    } else if (c == '-' && previous_ != 0 && at_ + 1 < glob_.size() && glob_[at_ + 1] != ']') {
      return read_range();
    } else if (c == '[' && glob_.substr(at_ + 1).starts_with(':')) {
      const std::size_t end = glob_.find(']', at_ + 2);
      if (end == std::string_view::npos) return false;
      if (end > at_ + 2 && glob_[end - 1] == ':') return read_class(end);
    }
    previous_ = static_cast<unsigned char>(glob_[at_]);
    set_.set(previous_);
    return true;
  }

  bool read_range() {
    if (glob_[++at_] == '\\' && ++at_ == glob_.size()) return false;
    const auto last = static_cast<unsigned char>(glob_[at_]);
    for (unsigned c = previous_; c <= last; ++c) set_.set(c);
    previous_ = 0;
    return true;
  }

  bool read_class(std::size_t end) {
    const std::string_view name = glob_.substr(at_ + 2, end - 1 - (at_ + 2));
    if (!is_class(name)) return false;
    for (unsigned c = 0; c < 256; ++c) {
      if (in_class(name, static_cast<unsigned char>(c))) set_.set(c);
    }
    previous_ = 0;
    at_ = end;
    return true;
  }

  std::string_view glob_;
  std::size_t at_;
  std::bitset<256> set_;
  unsigned char previous_ = 0;  // 0: the next '-' is no range
};

// Spaces at the end go, unless one is escaped; a line that ends in a lone backslash keeps them.
std::string_view trim_spaces(std::string_view line) {
  std::size_t keep = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const bool escaped = line[i] == '\\';
    if (escaped && ++i == line.size()) return line;
    if (escaped || line[i] != ' ') keep = i + 1;
  }
  return line.substr(0, keep);
}

}  // namespace

IgnoreFile IgnoreFile::parse(std::string_view text) {
  IgnoreFile file;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    file.add_line(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return file;
}

void IgnoreFile::add_line(std::string_view line) {
  if (line.empty() || line[0] == '#') return;
  if (line.ends_with('\r')) line.remove_suffix(1);
  line = trim_spaces(line.substr(0, line.find('\0')));  // git reads lines as C strings
  Pattern pattern;
  if (line.starts_with('!')) {
    pattern.negative = true;
    line.remove_prefix(1);
  }
  if (line.ends_with('/')) {
    pattern.directory_only = true;
    line.remove_suffix(1);
  }
  if (line.find('/') != std::string_view::npos) pattern.scope = Pattern::Scope::kPath;
  if (line.starts_with('/')) line.remove_prefix(1);
  if (line.empty()) return;
  const std::size_t plain = std::min(line.find_first_of(kGlobSpecial), line.size());
  pattern.literal = line.substr(0, plain);
  if (compile(line.substr(plain), pattern)) patterns_.push_back(std::move(pattern));
}

// False: git can never match it. `glob` is what follows the literal, so its start counts as the
// start of a path component for "**", as in git.
bool IgnoreFile::compile(std::string_view glob, Pattern& pattern) {
  using Op = Token::Op;
  if (glob.empty()) return true;
  if (glob[0] == '*' && glob.find_first_of(kGlobSpecial, 1) == std::string_view::npos) {
    pattern.shape = Pattern::Shape::kSuffix;
    pattern.suffix = glob.substr(1);
    return true;
  }
  pattern.shape = Pattern::Shape::kGlob;
  for (std::size_t at = 0; at < glob.size(); ++at) {
    if (glob[at] == '?') {
      pattern.glob.push_back({Op::kAny});
    } else if (glob[at] == '[') {
      if (!compile_set(glob, at, pattern)) return false;
    } else if (glob[at] == '*') {
      const std::size_t start = at;
      at = std::min(glob.find_first_not_of('*', at), glob.size()) - 1;
      const std::string_view rest = glob.substr(at + 1);
      const bool whole = at > start && (start == 0 || glob[start - 1] == '/') &&
                         pattern.scope == Pattern::Scope::kPath &&
                         (rest.empty() || rest[0] == '/' || rest.starts_with("\\/"));
      const bool directories = whole && rest.starts_with('/');
      pattern.glob.push_back({directories ? Op::kDirectories : whole ? Op::kDeep : Op::kStar});
      if (directories) ++at;
    } else {
      if (glob[at] == '\\' && ++at == glob.size()) return false;
      pattern.glob.push_back({Op::kChar, static_cast<unsigned char>(glob[at])});
    }
  }
  return true;
}

bool IgnoreFile::compile_set(std::string_view glob, std::size_t& at, Pattern& pattern) {
  const bool negated = at + 1 < glob.size() && (glob[at + 1] == '!' || glob[at + 1] == '^');
  SetReader reader(glob, at + (negated ? 2 : 1));
  auto set = reader.read();
  if (!set) return false;
  if (negated) set->flip();
  set->reset('/');
  pattern.glob.push_back({Token::Op::kSet, 0, static_cast<std::uint32_t>(sets_.size())});
  sets_.push_back(*set);
  at = reader.closing();
  return true;
}

Verdict IgnoreFile::verdict(std::string_view path, IgnoreKind kind) const {
  const std::size_t slash = path.rfind('/');
  const std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  for (auto pattern = patterns_.rbegin(); pattern != patterns_.rend(); ++pattern) {
    if (pattern->directory_only && kind != IgnoreKind::kDirectory) continue;
    if (matches(*pattern, pattern->scope == Pattern::Scope::kName ? name : path)) {
      return pattern->negative ? Verdict::kIncluded : Verdict::kIgnored;
    }
  }
  return Verdict::kNone;
}

bool IgnoreFile::matches(const Pattern& pattern, std::string_view text) const {
  if (!text.starts_with(pattern.literal)) return false;
  text.remove_prefix(pattern.literal.size());
  switch (pattern.shape) {
    case Pattern::Shape::kExact:
      return text.empty();
    case Pattern::Shape::kSuffix: {
      if (!text.ends_with(pattern.suffix)) return false;
      text.remove_suffix(pattern.suffix.size());
      return text.find('/') == std::string_view::npos;
    }
    case Pattern::Shape::kGlob:
      return matches_glob(pattern.glob, text);
  }
  return false;
}

bool IgnoreFile::matches_one(const Token& token, char c) const {
  const auto byte = static_cast<unsigned char>(c);
  if (token.op == Token::Op::kChar) return byte == token.ch;
  if (token.op == Token::Op::kAny) return c != '/';
  return token.op == Token::Op::kSet && sets_[token.set].test(byte);
}

// Where to go on after a mismatch. Only the last '*' and the last "**" need remembering: an earlier
// wildcard that took more would only leave the later one a part of what it can reach already.
struct IgnoreFile::Cursor {
  static constexpr std::size_t kNowhere = std::string_view::npos;

  std::size_t token = 0;
  std::size_t at = 0;
  std::size_t star_token = kNowhere;
  std::size_t star_at = 0;
  std::size_t deep_token = kNowhere;
  std::size_t deep_at = 0;
  Token::Op deep_op = Token::Op::kDeep;

  void enter(Token::Op op) {
    ++token;
    star_token = op == Token::Op::kStar ? token : kNowhere;
    star_at = at;
    if (op == Token::Op::kStar) return;
    deep_token = token;
    deep_at = at;
    deep_op = op;
  }

  bool retreat(std::string_view text) {
    if (star_token != kNowhere && star_at < text.size() && text[star_at] != '/') {
      token = star_token;
      at = ++star_at;
      return true;
    }
    if (deep_token == kNowhere || deep_at >= text.size()) return false;
    if (deep_op == Token::Op::kDirectories) {
      deep_at = text.find('/', deep_at);
      if (deep_at == kNowhere) return false;
    }
    token = deep_token;
    at = ++deep_at;
    star_token = kNowhere;
    return true;
  }
};

bool IgnoreFile::matches_glob(const std::vector<Token>& glob, std::string_view text) const {
  using Op = Token::Op;
  Cursor cursor;
  while (true) {
    if (cursor.token == glob.size()) {
      if (cursor.at == text.size()) return true;
    } else if (const Token& token = glob[cursor.token];
               token.op == Op::kStar || token.op == Op::kDeep || token.op == Op::kDirectories) {
      if (token.op == Op::kDeep && cursor.token + 1 == glob.size()) return true;
      cursor.enter(token.op);
      continue;
    } else if (cursor.at < text.size() && matches_one(token, text[cursor.at])) {
      ++cursor.token;
      ++cursor.at;
      continue;
    }
    if (!cursor.retreat(text)) return false;
  }
}

}  // namespace hm::fs
