// The defect that a test-only build carries on purpose (meson option `planted_defect`), so that
// tests/torture/alive can show that the torture oracle would notice it. No other build has one.
#pragma once

namespace hm::fs {

enum class Defect {
  kNone,
  kAbsent,    // names that were found absent are left out of the trace
  kNodeid,    // the names of one hard link share a node
  kTarget,    // the value of a symlink lacks its target
  kRecheck,   // live files are not looked at again around a capture and when a step ends
  kWhiteout,  // whiteouts of a layer hide nothing
};

#ifndef HM_PLANTED_DEFECT
#define HM_PLANTED_DEFECT kNone
#endif
inline constexpr Defect kPlanted = Defect::HM_PLANTED_DEFECT;

}  // namespace hm::fs
