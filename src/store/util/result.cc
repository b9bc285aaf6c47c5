#include "store/util/result.h"

#include <system_error>

namespace hm {

Error system_error(std::string_view what, int errno_value) {
  return Error{ErrorCode::kIo, errno_value,
               std::string(what) + ": " + std::generic_category().message(errno_value)};
}

Error system_error(std::string_view what) { return system_error(what, errno); }

}  // namespace hm
