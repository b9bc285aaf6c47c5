// The operations that the parity test tries on one path.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace parity {

using Name = const char*;
struct Op {
  std::string name;
  std::function<std::string(Name)> run;  // in the path's directory; what came of it
};
using Ops = std::vector<Op>;

const Ops& operations();
Ops guarded_operations();  // those that depend on who tries them

int in_child(const std::function<int()>& what);  // its exit status, or 128 and the signal

}  // namespace parity
