// Every reading function goes through Any(), which notes the name as known: that is how Finish()
// can tell a field that nobody reads from one that was absent. Errors go to the shared FirstError,
// so that callers may read on after one and ask once at the end.
#include "server/field_reader.h"

#include <algorithm>

namespace causeway {

FieldReader::FieldReader(const Json& object, std::string where, FirstError& error)
    : object_(object), where_(std::move(where)), error_(error) {
  // All later reads then find nothing, and the message says what the object should have been.
  if (!object_.is_object()) {
    error_.Set({.message = Text(where_.empty() ? "the request's body" : where_, " is ",
                                DescribeJson(object_), "; expected an object"),
                .param = where_});
  }
}

std::string FieldReader::Path(std::string_view name) const {
  return where_.empty() ? std::string(name) : Text(where_, ".", name);
}

void FieldReader::Fail(std::string_view name, const std::string& message, const std::string& code) {
  error_.Set({.message = message, .param = Path(name), .code = code});
}

void FieldReader::Expected(std::string_view name, const std::string& expected, const Json& found) {
  Fail(name, Text(Path(name), " is ", DescribeJson(found), "; expected ", expected));
}

const Json* FieldReader::Any(std::string_view name) {
  // Before the look-up, so that a field counts as known also where the object lacks it.
  known_.push_back(name);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool FieldReader::Bool(std::string_view name, bool& out) {
  const Json* value = Any(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    Expected(name, "true or false", *value);
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool FieldReader::Integer(std::string_view name, int64_t min, int64_t max, int64_t& out) {
  const Json* value = Any(name);
  if (value == nullptr) return false;
  if (!value->is_number_integer() || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    const bool open = max == std::numeric_limits<int64_t>::max();
    Expected(name,
             open ? Text("an integer of at least ", min) : Text("an integer ", min, " to ", max),
             *value);
    return false;
  }
  out = value->get<int64_t>();
  return true;
}

bool FieldReader::Number(std::string_view name, NumberRange range, double& out) {
  const Json* value = Any(name);
  if (value == nullptr) return false;
  // 0 stands in for what is no number: the check of the type below refuses it anyway.
  const double number = value->is_number() ? value->get<double>() : 0.0;
  const bool inside =
      number >= range.min && number <= range.max && !(range.above_min && number == range.min);
  if (!value->is_number() || !inside) {
    Expected(name,
             range.above_min ? Text("a number above ", range.min, " and at most ", range.max)
                             : Text("a number ", range.min, " to ", range.max),
             *value);
    return false;
  }
  out = number;
  return true;
}

bool FieldReader::String(std::string_view name, std::string& out) {
  const Json* value = Any(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    Expected(name, "a string", *value);
    return false;
  }
  out = value->get_ref<const std::string&>();
  return true;
}

void FieldReader::Ignore(std::initializer_list<std::string_view> names) {
  known_.insert(known_.end(), names);
}

void FieldReader::NeutralOnly(std::string_view name, std::initializer_list<Json> neutral) {
  const Json* value = Any(name);
  if (value == nullptr) return;
  // The values are compared as JSON: 0 and 0.0 are equal, "0" is not.
  std::string allowed;
  for (const Json& one : neutral) {
    if (*value == one) return;
    allowed += Text(allowed.empty() ? "" : " or ", Dump(one));
  }
  Fail(name,
       Text(Path(name), " is not supported yet",
            allowed.empty() ? "; leave it out" : Text("; leave it out or send ", allowed),
            ", found ", DescribeJson(*value)),
       "unsupported_parameter");
}

void FieldReader::Finish() {
  if (!object_.is_object()) return;
  // Sorted once, as each field of the object is looked up in it.
  std::sort(known_.begin(), known_.end());
  for (const auto& [name, value] : object_.items()) {
    if (!std::binary_search(known_.begin(), known_.end(), std::string_view(name))) {
      // Cut, as the name is the client's and may be as long as the body.
      Fail(name, Text("unknown field ", Path(name).substr(0, 200)), "unknown_parameter");
      return;
    }
  }
}

}  // namespace causeway
