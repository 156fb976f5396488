// Errors as values: a request, file, peer or flag is wrong, and the caller decides what to do.
//
// Four kinds of error exist in Causeway (see docs/architecture.md): Status/StatusOr here,
// StepFailed where a step can't go on, StartError for main, and CHECK for the impossible.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace causeway {

enum class StatusCode {
  kOk,
  kInvalidArgument,   // the caller's value is wrong (HTTP 400)
  kNotFound,          // a file, tensor or model that is not there (HTTP 404)
  kUnavailable,       // can't be served now: full, shutting down, peer gone (HTTP 503)
  kDeadlineExceeded,  // a wait ran out (HTTP 504)
  kCancelled,         // the client went away or asked for it (HTTP 499)
  kInternal,          // a step failed (HTTP 500)
};

// The outcome of an operation that returns nothing else. The message says what, where, found
// against expected.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status InvalidArgument(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}
inline Status NotFound(std::string message) {
  return Status(StatusCode::kNotFound, std::move(message));
}
inline Status Unavailable(std::string message) {
  return Status(StatusCode::kUnavailable, std::move(message));
}
inline Status Cancelled(std::string message) {
  return Status(StatusCode::kCancelled, std::move(message));
}
inline Status DeadlineExceeded(std::string message) {
  return Status(StatusCode::kDeadlineExceeded, std::move(message));
}
inline Status InternalError(std::string message) {
  return Status(StatusCode::kInternal, std::move(message));
}

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] StatusOr {
 public:
  StatusOr(T value) : state_(std::move(value)) {}  // NOLINT: implicit by design
  StatusOr(Status status) : state_(std::move(status)) {
    CHECK(!std::get<Status>(state_).ok(), "StatusOr from an ok Status");
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }

  // The value; without one, ends the process with the status' message.
  T& value() & {
    CHECK(ok(), std::get<Status>(state_).message());
    return std::get<T>(state_);
  }
  const T& value() const& {
    CHECK(ok(), std::get<Status>(state_).message());
    return std::get<T>(state_);
  }
  T&& value() && {
    CHECK(ok(), std::get<Status>(state_).message());
    return std::get<T>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<Status, T> state_;
};

// Returns the status from the enclosing function unless it is ok.
#define CAUSEWAY_RETURN_IF_ERROR(expression)                                      \
  do {                                                                            \
    if (::causeway::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define CAUSEWAY_CONCAT_INNER(a, b) a##b
#define CAUSEWAY_CONCAT(a, b) CAUSEWAY_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto x, F()): x is F()'s value, or the enclosing function returns its status.
#define CAUSEWAY_ASSIGN_OR_RETURN(declaration, expression) \
  CAUSEWAY_ASSIGN_OR_RETURN_INNER(CAUSEWAY_CONCAT(status_or_, __LINE__), declaration, expression)
#define CAUSEWAY_ASSIGN_OR_RETURN_INNER(holder, declaration, expression) \
  auto holder = (expression);                                            \
  if (!holder.ok()) return holder.status();                              \
  declaration = std::move(holder).value()

}  // namespace causeway
