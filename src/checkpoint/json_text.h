// Strict reading of JSON files that anybody may have written.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace causeway {

struct JsonToken {
  enum class Kind {
    kNull,
    kBoolean,
    kInteger,  // fits int64_t
    kNumber,   // any other number
    kString,
    kKey,
    kObjectBegin,
    kObjectEnd,
    kArrayBegin,
    kArrayEnd,
  };
  Kind kind = Kind::kNull;
  int depth = 0;  // containers around this token: 0 for the outermost value, 1 for its keys
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;      // also set for kInteger
  std::string text = {};  // of kString and kKey, unescaped UTF-8
};

// Hands the tokens of `json` to `visit` in order; an error of `visit` ends the walk and is
// returned. Errors of its own name `source`: bad syntax or UTF-8 (with the byte), a key that
// appears twice in one object, more than 64 levels.
Status VisitJson(std::string_view json, const std::string& source,
                 const std::function<Status(const JsonToken&)>& visit);

// The bytes of a regular file; an error that names the path if it is missing, unreadable or larger
// than `max_bytes`.
StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

// Text from a file as it may stand in an error message: quoted, control and non-ASCII bytes as
// \xNN, cut after 120 bytes.
std::string Quoted(std::string_view text);

// "integer 7", "string "abc"", "an object": what was found, for messages.
std::string Describe(const JsonToken& token);

}  // namespace causeway
