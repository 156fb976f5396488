// Reads the fields of one JSON object and accounts for all of them: what nobody read is refused.
#pragma once

#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/json.h"

namespace causeway {

// The first error of a parse; later ones are dropped.
class FirstError {
 public:
  void Set(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  const std::optional<ApiError>& get() const { return error_; }
  bool ok() const { return !error_; }

 private:
  std::optional<ApiError> error_;
};

struct NumberRange {
  double min = 0;
  double max = 0;
  bool above_min = false;  // min itself is not allowed
};

// `object` and `error` must outlive this. Every reading function returns false and leaves `out` if
// the field is absent, null or wrong; if wrong, it sets the error.
class FieldReader {
 public:
  // `where`: of the object in the request, "messages[2]"; empty for the request itself.
  FieldReader(const Json& object, std::string where, FirstError& error);

  bool Bool(std::string_view name, bool& out);
  bool Integer(std::string_view name, int64_t min, int64_t max, int64_t& out);
  bool Number(std::string_view name, NumberRange range, double& out);
  bool String(std::string_view name, std::string& out);
  // The value, whatever it is; null if absent or null.
  const Json* Any(std::string_view name);

  // Fields that change nothing in the answer.
  void Ignore(std::initializer_list<std::string_view> names);
  // A field that is not supported: only the values with which it does nothing are accepted.
  void NeutralOnly(std::string_view name, std::initializer_list<Json> neutral = {});
  // Refuses fields that none of the above has named.
  void Finish();

  // Records that a field is wrong; the message must name it itself.
  void Fail(std::string_view name, const std::string& message, const std::string& code = "");
  // "messages[2].role"
  std::string Path(std::string_view name) const;

 private:
  // The message of a value of the wrong kind: found against expected.
  void Expected(std::string_view name, const std::string& expected, const Json& found);

  const Json& object_;
  const std::string where_;
  FirstError& error_;
  std::vector<std::string_view> known_;
};

}  // namespace causeway
