// IgnoreFile: any text is an ignore file, any path gets a verdict, quickly.
#include <cstdint>
#include <cstdlib>

#include "fs/ignore.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // The last line is the path, what stands before it the file.
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t newline = input.rfind('\n');
  const std::string_view path = input.substr(newline == std::string_view::npos ? 0 : newline + 1);
  const std::string_view text =
      newline == std::string_view::npos ? std::string_view{} : input.substr(0, newline);
  const auto file = hm::fs::IgnoreFile::parse(text);
  for (const auto kind : {hm::fs::IgnoreKind::kDirectory, hm::fs::IgnoreKind::kOther}) {
    const auto verdict = file.verdict(path, kind);
    if (file.empty() && verdict != hm::fs::Verdict::kNone) std::abort();
    if (verdict != file.verdict(path, kind)) std::abort();
  }
  return 0;
}
