// JSON as a tree that keeps the order of keys and the digits of numbers, so that it can be written
// out again as Python writes it: prompts contain such text, and the model was trained on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

struct JsonValue {
  enum class Kind { kNull, kBoolean, kInteger, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  std::string text = {};               // of a string: its value; of a number: its digits
  std::vector<JsonValue> values = {};  // of an array or object
  std::vector<std::string> keys = {};  // of an object: keys[i] is the key of values[i]

  bool IsObject() const { return kind == Kind::kObject; }
  bool IsArray() const { return kind == Kind::kArray; }
  bool IsString() const { return kind == Kind::kString; }
  bool IsNull() const { return kind == Kind::kNull; }
  // The value of a key of an object; null if it is absent or this is no object.
  const JsonValue* Find(std::string_view key) const;
  // The value of an integer that fits.
  std::optional<int64_t> Integer() const;
};

// Parses a whole text. Errors name `source`: bad syntax or UTF-8 (with the byte), a key that
// appears twice in one object, more than 64 levels.
StatusOr<JsonValue> ParseJson(std::string_view json, const std::string& source);

// The text that Python's json.dumps(value, ensure_ascii=False) writes.
std::string PythonJson(const JsonValue& value);

// "7", ""abc"", "an object": what was found, for messages.
std::string Describe(const JsonValue& value);

}  // namespace causeway
