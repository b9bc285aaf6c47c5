#include "image/import.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "fs/capture.h"
#include "fs/stored_source.h"
#include "image/directory.h"
#include "image/layout.h"
#include "image/oci.h"
#include "image/user.h"

namespace hm::image {

namespace {

enum class What { kDirectory, kArchive, kLayoutDirectory, kLayoutArchive };

struct Source {
  What what = What::kDirectory;
  std::string path, ref;
};

bool is_there(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0;
}

// PATH, or PATH:TAG where there is no such path.
Result<Source> find_source(const std::string& text) {
  Source source{What::kDirectory, text, ""};
  const std::size_t colon = text.rfind(':');
  if (!is_there(text) && colon != std::string::npos && is_there(text.substr(0, colon))) {
    source.path = text.substr(0, colon);
    source.ref = text.substr(colon + 1);
  }
  struct stat st {};
  if (::stat(source.path.c_str(), &st) != 0) {
    return fail(ErrorCode::kNotFound, system_error(source.path).message);
  }
  if (S_ISDIR(st.st_mode)) {
    const bool layout =
        is_there(source.path + "/oci-layout") && is_there(source.path + "/index.json");
    source.what = layout ? What::kLayoutDirectory : What::kDirectory;
  } else if (S_ISREG(st.st_mode)) {
    HM_ASSIGN(const bool layout, is_layout_archive(source.path));
    source.what = layout ? What::kLayoutArchive : What::kArchive;
  } else {
    return fail(ErrorCode::kInvalid, "is neither a directory nor an archive");
  }
  const bool plain = source.what == What::kDirectory || source.what == What::kArchive;
  if (plain && !source.ref.empty()) {
    return fail(ErrorCode::kInvalid, "has one image, which has no tag " + source.ref);
  }
  return source;
}

Result<ImageConfig> read_source(store::Store& store, const Source& source, const Limits& limits,
                                Target& target) {
  switch (source.what) {
    case What::kDirectory:
      target.tree.begin_layer();
      HM_TRY(read_directory(source.path, store.home(), target));
      return ImageConfig{};
    case What::kArchive: {
      HM_ASSIGN(Fd file, open_file(source.path, O_RDONLY));
      HM_ASSIGN(const auto stream, decompressed(file_stream(std::move(file))));
      target.tree.begin_layer();
      HM_TRY(read_tar(*stream, TarKind::kTree, target));
      return ImageConfig{};
    }
    case What::kLayoutDirectory: {
      HM_ASSIGN(const auto layout, directory_layout(source.path));
      return read_image(*layout, source.ref, target);
    }
    case What::kLayoutArchive: {
      HM_ASSIGN(const auto layout, archive_layout(source.path, limits, store));
      return read_image(*layout, source.ref, target);
    }
  }
  return ImageConfig{};
}

// The bytes of the tree as every reader will find them.
Status check_tree(const fs::Layer& tree) {
  const auto read = fs::Layer::decode(tree.encode(), tree.encode_mtimes());
  if (!read) return fail(ErrorCode::kInvalid, read.error().message);
  if (!fs::is_whole_tree(**read)) return fail(ErrorCode::kInvalid, "it makes no tree");
  return {};
}

Result<store::Image> import_source(store::Store& store, const Source& source,
                                   const ImportOptions& options, std::string name) {
  HM_ASSIGN(const auto stage, Stage::create(store));
  TreeBuilder tree(options.limits);
  Target target{tree, *stage, options.progress};
  HM_ASSIGN(ImageConfig config, read_source(store, source, options.limits, target));
  HM_TRY(stage->finish());
  const auto layer = tree.build(*stage);
  HM_TRY(check_tree(*layer));
  HM_TRY(stage->commit(tree.files()));
  if (!config.user.empty()) {
    // Whoever it does not know cannot run anything: that is for the run to say.
    auto ids = resolve_user_of(*layer, store.blobs(), config.user);
    if (ids) config.ids = std::move(*ids);
    if (!ids && ids.error().code != ErrorCode::kInvalid) return fail(std::move(ids).error());
  }
  HM_ASSIGN(const fs::StoredLayer stored, fs::store_layer(*layer, store.blobs()));
  store::Image image;
  image.name = std::move(name);
  image.tree = stored.digest;
  image.config = encode_config(config);
  image.source = options.source.empty() ? source.path : options.source;
  image.imported_ns = now_ns();
  image.entries = layer->entries().size();
  for (const fs::LayerEntry& item : layer->entries()) image.bytes += item.entry.size;
  store::Batch batch;
  batch.layers.push_back({stored.digest, stored.mtimes, image.imported_ns, image.imported_ns});
  batch.images.push_back(image);
  store.submit(std::move(batch));
  HM_TRY(store.flush());
  return image;
}

}  // namespace

bool is_image_name(std::string_view name) {
  constexpr std::size_t kLongest = 255;
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= kLongest && name != "host" && is_letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return is_letter(c) || std::string_view("._-/:@+").find(c) != std::string_view::npos;
         });
}

Result<store::Image> import_image(store::Store& store, const std::string& name,
                                  const std::string& path, const ImportOptions& options) {
  if (!is_image_name(name)) {
    return fail(ErrorCode::kNotFound, "'" + fs::printable(name) +
                                          "' cannot be an image's name: use letters, digits and "
                                          "._-/:@+, like debian:12");
  }
  auto source = find_source(path);
  if (!source && source.error().code == ErrorCode::kNotFound) return fail(source.error());
  auto image = source ? import_source(store, *source, options, name)
                      : Result<store::Image>(fail(source.error()));
  if (image) return image;
  Error error = std::move(image).error();
  // What is wrong with the archive is no pipeline's fault: the caller's exit code says "refused".
  return fail(std::move(error).in(fs::printable(options.source.empty() ? path : options.source)));
}

}  // namespace hm::image
