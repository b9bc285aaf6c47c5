// Result<T>: the value or an Error. Everything that touches the world returns one.
//
// Errors travel as values because the commonest answer a build gets is "no such file", and because
// libfuse's C frames must never be unwound. "Absent" is not an error: use std::optional.
// Third-party exceptions are caught where the library is called (parsers, main, FUSE callbacks).
// Thread-safety: values, no shared state.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace hm {

enum class ErrorCode {
  kIo,        // the operating system said no; `errno_value` says what
  kCorrupt,   // bytes of ours (or handed to us as ours) are not what they must be
  kInvalid,   // the user's input is wrong
  kNotFound,  // something that was named does not exist
  kRefused,   // a capability or a permission is missing on this machine
  kChanged,   // a live source changed under us
  kCancelled,
};

struct Error {
  ErrorCode code = ErrorCode::kIo;
  int errno_value = 0;  // 0 when no system call failed
  std::string message;

  // The errno a FUSE reply carries for this error.
  int to_errno() const { return errno_value != 0 ? errno_value : EIO; }
  // The same error with "context: " in front of its message.
  Error in(std::string_view context) && {
    message = std::string(context) + ": " + message;
    return std::move(*this);
  }
};

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Status = Result<void>;

// An Error from `errno` as it is now: "what: strerror".
Error system_error(std::string_view what);
Error system_error(std::string_view what, int errno_value);

inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }
inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, 0, std::move(message)});
}
inline tl::unexpected<Error> fail_errno(std::string_view what) { return fail(system_error(what)); }

}  // namespace hm

#define HM_CONCAT_(a, b) a##b
#define HM_CONCAT(a, b) HM_CONCAT_(a, b)

// Returns the error of `expr` from the enclosing function, if it has one.
#define HM_TRY(expr)                                                    \
  do {                                                                  \
    if (auto hm_status = (expr); !hm_status) {                          \
      return tl::unexpected<::hm::Error>(std::move(hm_status).error()); \
    }                                                                   \
  } while (false)

// `HM_ASSIGN(auto x, expr);` declares or assigns x from the value of `expr`, or returns its error.
#define HM_ASSIGN(lhs, expr) HM_ASSIGN_(HM_CONCAT(hm_result_, __LINE__), lhs, expr)
#define HM_ASSIGN_(tmp, lhs, expr)                                      \
  auto tmp = (expr);                                                    \
  if (!tmp) return tl::unexpected<::hm::Error>(std::move(tmp).error()); \
  lhs = std::move(*tmp)
