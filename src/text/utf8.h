// Broken UTF-8 as Python's bytes.decode("utf-8", "replace") treats it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace causeway {

// What stands at the start of a text.
struct Utf8Step {
  size_t bytes = 0;    // of the character, or of the longest broken piece that one U+FFFD replaces
  bool valid = false;  // a whole character
  // Not valid only because the text ends here: further bytes may make it a character.
  bool cut = false;
};

// Looks at the first character of a text of at least one byte.
Utf8Step NextUtf8(std::string_view text);

// Appends `text` to `out`, every broken piece as U+FFFD.
void AppendUtf8(std::string_view text, std::string* out);

// How many bytes at the end of `text` are the beginning of a character (0 to 3).
size_t CutUtf8Bytes(std::string_view text);

}  // namespace causeway
