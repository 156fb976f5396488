// Walks over JSON text without building values: where members begin and end, and whether all of it
// is valid. A router needs a few small fields of requests that may have many megabytes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace causeway {

// One member of an object, as it stands in the text.
struct JsonMember {
  std::string_view key;    // between its quotes, escapes and all
  std::string_view value;  // "\"text\"", "[1, 2]", "true"
  size_t begin = 0;        // of the key's opening quote, in the whole text
  size_t end = 0;          // behind the value
};

// Why the text is no JSON of the kind asked for; nothing if it is.
using JsonProblem = std::optional<std::string>;

// Calls `member` for each member of the object that `text` is, in order. Strict as RFC 8259 is, but
// for UTF-8, which is not looked at; more than 256 levels are refused. `member` may have been
// called for some when a problem is found further on.
JsonProblem ScanObject(std::string_view text, const std::function<void(const JsonMember&)>& member);
// The same for the values of an array.
JsonProblem ScanArray(std::string_view text, const std::function<void(std::string_view)>& value);

// The characters that a valid JSON string, without its quotes, stands for. Lone surrogates become
// U+FFFD.
std::string UnescapeJson(std::string_view text);
// Whether a key, as JsonMember has it, is `name`, however it is escaped.
bool IsKey(std::string_view key, std::string_view name);
// As a string of JSON, with its quotes; for text that is valid UTF-8.
std::string QuoteJson(std::string_view text);

}  // namespace causeway
