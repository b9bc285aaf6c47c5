#include "store/claims.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

namespace hm::store {

namespace {

constexpr const char* kFile = "/claims";
constexpr std::size_t kClaimBytes = 33;  // kind, digest

Status lock(const Fd& gate, int operation) {
  while (::flock(gate.get(), operation) != 0) {
    if (errno != EINTR) return fail_errno("prune.lock");
  }
  return {};
}

Result<Fd> open_gate(const std::string& home) {
  return open_file(home + "/prune.lock", O_RDWR | O_CREAT, 0600);
}

}  // namespace

Result<std::unique_ptr<Claims>> Claims::open(const std::string& home, const std::string& folder) {
  HM_ASSIGN(Fd gate, open_gate(home));
  HM_ASSIGN(Fd file, open_file(folder + kFile, O_WRONLY | O_CREAT | O_APPEND, 0600));
  return std::unique_ptr<Claims>(new Claims(std::move(gate), std::move(file)));
}

Status Claims::add(std::span<const Claim> claims) {
  const std::lock_guard guard(mutex_);
  std::string text;
  for (const Claim& claim : claims) {
    if (claim.second.is_zero() || made_.contains(claim)) continue;
    text.push_back(static_cast<char>(claim.first));
    text += claim.second.raw();
  }
  if (text.empty()) return {};
  HM_TRY(lock(gate_, LOCK_SH));
  auto written = write_all(file_.get(), text);
  HM_TRY(lock(gate_, LOCK_UN));
  if (!written) {
    (void)!::ftruncate(file_.get(), size_);  // a part of a claim would shift all later ones
    return fail(std::move(written).error().in("claims"));
  }
  size_ += static_cast<off_t>(text.size());
  made_.insert(claims.begin(), claims.end());
  return {};
}

Result<Fd> hold_off_prune(const std::string& home) {
  HM_ASSIGN(Fd gate, open_gate(home));
  HM_TRY(lock(gate, LOCK_SH));
  return gate;
}

Result<Fd> stop_claims(const std::string& home) {
  HM_ASSIGN(Fd gate, open_gate(home));
  HM_TRY(lock(gate, LOCK_EX));
  return gate;
}

Result<std::vector<Claim>> read_claims(const std::string& home) {
  std::vector<Claim> out;
  std::error_code error;
  for (const auto& folder : std::filesystem::directory_iterator(home + "/scratch", error)) {
    const auto text = read_file(folder.path().string() + kFile);
    if (!text && text.error().errno_value == ENOENT) continue;  // ended meanwhile
    if (!text) return fail(text.error());
    for (std::size_t at = 0; at + kClaimBytes <= text->size(); at += kClaimBytes) {
      const auto digest = Digest::from_raw(std::string_view(*text).substr(at + 1, 32));
      if (digest) out.emplace_back(static_cast<ClaimKind>((*text)[at]), *digest);
    }
  }
  if (error) return fail(system_error(home + "/scratch", error.value()));
  return out;
}

}  // namespace hm::store
