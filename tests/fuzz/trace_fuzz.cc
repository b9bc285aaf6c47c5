// Trace::decode on any bytes: refused, or a trace that encodes to the same bytes again.
#include <cstdint>
#include <cstdlib>

#include "fs/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view blob(reinterpret_cast<const char*>(data), size);
  const auto trace = hm::fs::Trace::decode(blob);
  if (!trace) return 0;
  if (trace->encode() != blob) std::abort();
  const auto path_set = hm::fs::Trace::decode(trace->encode_path_set());
  if (!path_set || path_set->encode() != trace->encode_path_set()) std::abort();
  // Traces of one path set are compared; damaged ones must not break the comparison.
  (void)hm::fs::first_change(*trace, *path_set);
  (void)hm::fs::first_change(*path_set, *trace);
  return 0;
}
