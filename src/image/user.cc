#include "image/user.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace hm::image {

namespace {

using Fields = std::vector<std::string_view>;

constexpr std::uint64_t kLongestFile = std::uint64_t{8} << 20;
constexpr int kMostLinks = 40;

Fields split(std::string_view text, char at) {
  Fields out;
  while (true) {
    const std::size_t end = text.find(at);
    out.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

// Docker takes no larger ones.
constexpr std::uint32_t kLargestId = 0x7fffffff;

std::optional<std::uint32_t> id_in(std::string_view text) {
  std::uint32_t id = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, id);
  if (error != std::errc() || rest != end || id > kLargestId) return std::nullopt;
  return id;
}

// A line of either file: the name and the id in its third field are there.
struct Row {
  Fields fields;
  std::uint32_t id = 0;
};

std::optional<Row> row_in(std::string_view line) {
  Row row{split(line, ':'), 0};
  const auto id = row.fields.size() >= 4 ? id_in(row.fields[2]) : std::nullopt;
  if (!id) return std::nullopt;
  row.id = *id;
  return row;
}

// The first row of that name, or of that number.
std::optional<Row> find_row(std::string_view file, std::string_view wanted) {
  const auto number = id_in(wanted);
  for (const std::string_view line : split(file, '\n')) {
    auto row = row_in(line);
    if (row && (row->fields[0] == wanted || row->id == number)) return row;
  }
  return std::nullopt;
}

std::vector<std::uint32_t> groups_with(std::string_view file, std::string_view member) {
  std::vector<std::uint32_t> out;
  for (const std::string_view line : split(file, '\n')) {
    const auto row = row_in(line);
    if (!row) continue;
    const Fields members = split(row->fields[3], ',');
    if (std::find(members.begin(), members.end(), member) != members.end()) out.push_back(row->id);
  }
  return out;
}

tl::unexpected<Error> unknown(std::string_view name, const char* file) {
  return fail(ErrorCode::kInvalid, "'" + fs::printable(name) + "' is not in its " + file);
}

// The file at `path` as its programs would find it; null when there is none.
const fs::LayerEntry* follow(const fs::Layer& tree, std::string path) {
  std::string at;
  for (int links = 0; !path.empty();) {
    const std::size_t slash = path.find('/');
    const std::string name = path.substr(0, slash);
    path = slash == std::string::npos ? "" : path.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      at = std::string(fs::parent_path(at));
      continue;
    }
    std::string next = fs::join_path(at, name);
    const fs::LayerEntry* item = tree.find(next);
    if (item == nullptr) return nullptr;
    const std::string& target = item->entry.target;
    if (item->entry.kind != fs::EntryKind::kSymlink) {
      at = std::move(next);
      continue;
    }
    if (++links > kMostLinks) return nullptr;
    if (target.starts_with('/')) at.clear();
    path = path.empty() ? target : target + "/" + path;
  }
  const fs::LayerEntry* item = tree.find(at);
  return item != nullptr && item->entry.kind == fs::EntryKind::kFile ? item : nullptr;
}

// "" when there is no such file.
Result<std::string> text_of(const fs::Layer& tree, const store::BlobStore& blobs,
                            const std::string& path) {
  const fs::LayerEntry* item = follow(tree, path);
  if (item == nullptr || item->entry.size == 0) return std::string();
  if (item->entry.size > kLongestFile) {
    return fail(ErrorCode::kInvalid, "/" + path + " is too large");
  }
  return blobs.read(item->content);
}

}  // namespace

Result<UserIds> resolve_user(std::string_view user, std::string_view passwd,
                             std::string_view group) {
  const std::size_t colon = std::min(user.find(':'), user.size());
  const std::string_view name = user.substr(0, colon);
  const std::string_view of_group = user.substr(std::min(colon + 1, user.size()));
  UserIds out;
  out.home = "/";
  const auto row = find_row(passwd, name.empty() ? "0" : name);
  if (row) {
    out.uid = row->id;
    out.gid = id_in(row->fields[3]).value_or(0);
    if (row->fields.size() > 5 && !row->fields[5].empty()) out.home = row->fields[5];
  } else if (!name.empty()) {
    const auto number = id_in(name);
    if (!number) return unknown(name, "/etc/passwd");
    out.uid = *number;
  }
  if (!of_group.empty()) {
    const auto group_row = find_row(group, of_group);
    const auto number = group_row ? std::optional(group_row->id) : id_in(of_group);
    if (!number) return unknown(of_group, "/etc/group");
    out.gid = *number;
  } else if (row) {
    out.groups = groups_with(group, row->fields[0]);
  }
  out.groups.push_back(out.gid);
  std::sort(out.groups.begin(), out.groups.end());
  out.groups.erase(std::unique(out.groups.begin(), out.groups.end()), out.groups.end());
  return out;
}

Result<UserIds> resolve_user_of(const fs::Layer& tree, const store::BlobStore& blobs,
                                std::string_view user) {
  HM_ASSIGN(const std::string passwd, text_of(tree, blobs, "etc/passwd"));
  HM_ASSIGN(const std::string group, text_of(tree, blobs, "etc/group"));
  return resolve_user(user, passwd, group);
}

}  // namespace hm::image
