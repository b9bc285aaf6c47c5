#include "image/oci.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

namespace hm::image {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestDocument = std::size_t{8} << 20;
constexpr std::size_t kMostLayers = 1000;
constexpr int kMostIndexes = 4;  // of indexes in indexes

tl::unexpected<Error> refuse(const std::string& what) { return fail(ErrorCode::kInvalid, what); }

std::string text_in(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

const Json& list_in(const Json& object, const char* name) {
  static const Json kEmpty = Json::array();
  const auto it = object.find(name);
  return it != object.end() && it->is_array() ? *it : kEmpty;
}

Result<Digest> digest_of(const std::string& text) {
  constexpr std::string_view kAlgorithm = "sha256:";
  const auto digest = text.starts_with(kAlgorithm)
                          ? Digest::from_hex(std::string_view(text).substr(kAlgorithm.size()))
                          : std::nullopt;
  if (!digest) return refuse("'" + fs::printable(text.substr(0, 80)) + "' is no sha256 digest");
  return *digest;
}

// A file by the digest of what it must hold.
struct Descriptor {
  std::string path;  // in the layout
  std::optional<Digest> digest;
  std::optional<std::uint64_t> size;
};

Result<Descriptor> descriptor_of(const Json& json) {
  if (!json.is_object()) return refuse("a descriptor is not an object");
  HM_ASSIGN(const Digest digest, digest_of(text_in(json, "digest")));
  const auto size = json.find("size");
  if (size == json.end() || !size->is_number_unsigned()) return refuse("a descriptor has no size");
  return Descriptor{"blobs/sha256/" + digest.hex(), digest, size->get<std::uint64_t>()};
}

Result<std::unique_ptr<Stream>> open(Layout& layout, const Descriptor& item) {
  HM_ASSIGN(auto stream, layout.open(item.path));
  if (!item.digest) return stream;
  return checked(std::move(stream), *item.digest, item.size, item.path);
}

Result<std::string> text_of(Layout& layout, const Descriptor& item) {
  HM_ASSIGN(const auto stream, open(layout, item));
  auto text = read_text(*stream, kLongestDocument);
  if (!text && !item.digest) return fail(std::move(text).error().in(item.path));
  return text;
}

Result<Json> json_of(Layout& layout, const Descriptor& item) {
  HM_ASSIGN(const std::string text, text_of(layout, item));
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return refuse(item.path + " is not JSON");
  return json;
}

// What is to be unpacked, whatever described it.
struct Parts {
  Descriptor config;
  std::vector<Descriptor> layers;
};

// --- OCI ------------------------------------------------------------------------------------

bool is_layer_type(const std::string& type) {
  const bool known = type.starts_with("application/vnd.oci.image.layer.") ||
                     type.starts_with("application/vnd.docker.image.rootfs.");
  return known && type.find("tar") != std::string::npos &&
         type.find("encrypted") == std::string::npos;
}

std::string platform_of(const Json& descriptor) {
  const auto platform = descriptor.find("platform");
  if (platform == descriptor.end() || !platform->is_object()) return "";
  return text_in(*platform, "os") + "/" + text_in(*platform, "architecture");
}

std::string ref_of(const Json& descriptor) {
  const auto annotations = descriptor.find("annotations");
  if (annotations == descriptor.end() || !annotations->is_object()) return "";
  return text_in(*annotations, "org.opencontainers.image.ref.name");
}

// The one of an index that is meant: by its name, else for this machine.
Result<Json> choose(const Json& index, const std::string& ref) {
  std::vector<Json> fitting;
  std::string names;
  for (const Json& item : list_in(index, "manifests")) {
    if (!item.is_object()) return refuse("a descriptor is not an object");
    const std::string name = ref_of(item);
    if (!name.empty()) names += (names.empty() ? "" : ", ") + name;
    if (!ref.empty() && name != ref) continue;
    const std::string platform = platform_of(item);
    if (platform.empty() || platform == own_platform()) fitting.push_back(item);
  }
  if (fitting.size() == 1) return std::move(fitting.front());
  const std::string which = names.empty() ? "" : " (it has: " + fs::printable(names) + ")";
  if (fitting.empty()) {
    return refuse((ref.empty() ? "it has no image for " + own_platform()
                               : "it has no image named " + ref + " for " + own_platform()) +
                  which);
  }
  return refuse("it has several images: name one, as PATH:TAG" + which);
}

Result<Parts> oci_parts(Layout& layout, const std::string& ref) {
  HM_ASSIGN(Json document, json_of(layout, {"index.json", {}, {}}));
  std::string wanted = ref;
  for (int depth = 0; document.is_object() && document.contains("manifests"); ++depth) {
    if (depth == kMostIndexes) return refuse("its indexes name each other");
    HM_ASSIGN(const Json chosen, choose(document, wanted));
    HM_ASSIGN(const Descriptor item, descriptor_of(chosen));
    HM_ASSIGN(document, json_of(layout, item));
    wanted.clear();
  }
  if (!document.is_object() || !document.contains("config") || !document.contains("layers")) {
    return refuse("its manifest has no config or no layers");
  }
  Parts parts;
  HM_ASSIGN(parts.config, descriptor_of(document["config"]));
  for (const Json& layer : list_in(document, "layers")) {
    HM_ASSIGN(Descriptor item, descriptor_of(layer));
    const std::string type = text_in(layer, "mediaType");
    if (!is_layer_type(type)) {
      return refuse("a layer is of the type '" + fs::printable(type.substr(0, 80)) +
                    "', which is no tar archive");
    }
    parts.layers.push_back(std::move(item));
  }
  return parts;
}

// --- docker save ----------------------------------------------------------------------------

bool has_tag(const Json& image, const std::string& ref) {
  const Json& tags = list_in(image, "RepoTags");
  return std::any_of(tags.begin(), tags.end(), [&](const Json& tag) {
    return tag.is_string() &&
           (tag.get<std::string>() == ref || tag.get<std::string>().ends_with(":" + ref));
  });
}

// The file's name may say what must be in it.
std::optional<Digest> digest_in_name(const std::string& path) {
  const std::string_view name = fs::base_name(path);
  return Digest::from_hex(name.substr(0, name.find('.')));
}

Result<Parts> docker_parts(Layout& layout, const std::string& ref) {
  HM_ASSIGN(const Json document, json_of(layout, {"manifest.json", {}, {}}));
  if (!document.is_array()) return refuse("manifest.json is not a list");
  std::vector<Json> fitting;
  for (const Json& image : document) {
    if (!image.is_object()) return refuse("manifest.json is not a list of objects");
    if (ref.empty() || has_tag(image, ref)) fitting.push_back(image);
  }
  if (fitting.size() != 1) {
    return refuse(fitting.empty() ? "it has no such image"
                                  : "it has several images: name one, as PATH:TAG");
  }
  const Json& image = fitting.front();
  Parts parts;
  HM_ASSIGN(const std::string config, TreeBuilder::path_of(text_in(image, "Config")));
  parts.config = {config, digest_in_name(config), {}};
  for (const Json& layer : list_in(image, "Layers")) {
    if (!layer.is_string()) return refuse("manifest.json: Layers is not a list of texts");
    HM_ASSIGN(std::string path, TreeBuilder::path_of(layer.get<std::string>()));
    parts.layers.push_back({std::move(path), {}, {}});  // what it must be says its diff id
  }
  return parts;
}

// --- both -----------------------------------------------------------------------------------

Result<std::vector<Digest>> diff_ids_of(const std::string& config) {
  const Json json = Json::parse(config, nullptr, false);
  std::vector<Digest> out;
  const auto rootfs = json.is_object() ? json.find("rootfs") : json.end();
  if (!json.is_object() || rootfs == json.end() || !rootfs->is_object()) {
    return refuse("its configuration does not say what its layers are (rootfs.diff_ids)");
  }
  for (const Json& id : list_in(*rootfs, "diff_ids")) {
    HM_ASSIGN(const Digest digest, digest_of(id.is_string() ? id.get<std::string>() : ""));
    out.push_back(digest);
  }
  return out;
}

Status read_layer(Layout& layout, const Descriptor& item, const Digest& diff_id, Target& target) {
  HM_ASSIGN(auto packed, layout.open(item.path));
  const bool same = item.digest == diff_id;  // not compressed: one check is enough
  if (item.digest) packed = checked(std::move(packed), *item.digest, item.size, item.path);
  HM_ASSIGN(auto stream, decompressed(std::move(packed)));
  if (!same) stream = checked(std::move(stream), diff_id, {}, item.path + ", unpacked,");
  target.tree.begin_layer();
  return read_tar(*stream, TarKind::kLayer, target);
}

}  // namespace

Result<ImageConfig> read_image(Layout& layout, const std::string& ref, Target& target) {
  const bool is_oci = layout.has("oci-layout") && layout.has("index.json");
  if (!is_oci && !layout.has("manifest.json")) {
    return refuse("it is no OCI layout and nothing that docker save wrote");
  }
  HM_ASSIGN(const Parts parts, is_oci ? oci_parts(layout, ref) : docker_parts(layout, ref));
  HM_ASSIGN(const std::string text, text_of(layout, parts.config));
  HM_ASSIGN(ImageConfig config, parse_oci_config(text));
  HM_ASSIGN(const std::vector<Digest> diff_ids, diff_ids_of(text));
  if (diff_ids.size() != parts.layers.size()) {
    return refuse("its configuration names " + std::to_string(diff_ids.size()) +
                  " layers, its manifest " + std::to_string(parts.layers.size()));
  }
  if (diff_ids.size() > kMostLayers) return refuse("it has too many layers");
  for (std::size_t i = 0; i < diff_ids.size(); ++i) {
    auto status = read_layer(layout, parts.layers[i], diff_ids[i], target);
    if (!status) return fail(std::move(status).error().in("layer " + std::to_string(i + 1)));
  }
  return config;
}

}  // namespace hm::image
