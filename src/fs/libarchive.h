// libarchive, loaded when the first archive is read: with what it is linked to it would take a
// quarter of the time that a run needs which reads none.
//
// hm::libarchive::read_new and so on are libarchive's functions of those names with `archive_` in
// front. Whoever begins to read an archive calls `load` first. Thread-safe.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <atomic>

#include "store/util/result.h"

namespace hm::libarchive {

// kRefused where there is no such library.
Status load();

// Its address of a function; throws std::runtime_error where `load` would have failed.
void* address(const char* name);

template <class F>
class Function;
template <class R, class... Arguments>
class Function<R(Arguments...)> {
 public:
  constexpr explicit Function(const char* name) : name_(name) {}
  R operator()(Arguments... arguments) const {
    void* at = at_.load(std::memory_order_acquire);
    if (at == nullptr) at_.store(at = address(name_), std::memory_order_release);
    return reinterpret_cast<R (*)(Arguments...)>(at)(arguments...);
  }

 private:
  const char* name_;
  mutable std::atomic<void*> at_{nullptr};
};

// Names the function without a reference to it that a linker would see.
#define HM_LIBARCHIVE(name) \
  inline constinit const Function<decltype(::archive_##name)> name("archive_" #name)

HM_LIBARCHIVE(error_string);
HM_LIBARCHIVE(filter_bytes);
HM_LIBARCHIVE(format);
HM_LIBARCHIVE(read_data_block);
HM_LIBARCHIVE(read_free);
HM_LIBARCHIVE(read_header_position);
HM_LIBARCHIVE(read_new);
HM_LIBARCHIVE(read_next_header);
HM_LIBARCHIVE(read_open);
HM_LIBARCHIVE(read_open_fd);
HM_LIBARCHIVE(read_support_filter_bzip2);
HM_LIBARCHIVE(read_support_filter_compress);
HM_LIBARCHIVE(read_support_filter_gzip);
HM_LIBARCHIVE(read_support_filter_lz4);
HM_LIBARCHIVE(read_support_filter_lzip);
HM_LIBARCHIVE(read_support_filter_lzma);
HM_LIBARCHIVE(read_support_filter_xz);
HM_LIBARCHIVE(read_support_filter_zstd);
HM_LIBARCHIVE(read_support_format_empty);
HM_LIBARCHIVE(read_support_format_raw);
HM_LIBARCHIVE(read_support_format_tar);

HM_LIBARCHIVE(entry_acl_next);
HM_LIBARCHIVE(entry_acl_reset);
HM_LIBARCHIVE(entry_acl_types);
HM_LIBARCHIVE(entry_atime);
HM_LIBARCHIVE(entry_atime_is_set);
HM_LIBARCHIVE(entry_atime_nsec);
HM_LIBARCHIVE(entry_fflags_text);
HM_LIBARCHIVE(entry_filetype);
HM_LIBARCHIVE(entry_gid);
HM_LIBARCHIVE(entry_hardlink);
HM_LIBARCHIVE(entry_mtime);
HM_LIBARCHIVE(entry_mtime_is_set);
HM_LIBARCHIVE(entry_mtime_nsec);
HM_LIBARCHIVE(entry_pathname);
HM_LIBARCHIVE(entry_perm);
HM_LIBARCHIVE(entry_rdev);
HM_LIBARCHIVE(entry_rdevmajor);
HM_LIBARCHIVE(entry_rdevminor);
HM_LIBARCHIVE(entry_size);
HM_LIBARCHIVE(entry_sparse_count);
HM_LIBARCHIVE(entry_symlink);
HM_LIBARCHIVE(entry_uid);
HM_LIBARCHIVE(entry_xattr_next);
HM_LIBARCHIVE(entry_xattr_reset);

#undef HM_LIBARCHIVE

}  // namespace hm::libarchive
