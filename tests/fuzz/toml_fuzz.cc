// parse_toml on any bytes: one line of refusal, or a pipeline that survives a trip through the IR.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "runner/ir_json.h"
#include "runner/pipeline_toml.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto pipeline = hm::runner::parse_toml(text, "fuzz.toml");
  if (!pipeline) {
    if (pipeline.error().message.find('\n') != std::string::npos) std::abort();
    return 0;
  }
  const auto again = hm::runner::parse_ir(hm::runner::to_ir(*pipeline), "again.json");
  if (!again || !(*again == *pipeline)) {
    std::fputs(again ? "differs\n" : again.error().message.c_str(), stderr);
    std::abort();
  }
  return 0;
}
