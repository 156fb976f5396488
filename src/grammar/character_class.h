// Characters, escapes and classes in brackets, as regular expressions and EBNF write them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "grammar/code_points.h"

namespace causeway {

// A text as code points, and a place in it.
struct PatternCursor {
  std::vector<uint32_t> text;
  size_t at = 0;

  bool done() const { return at >= text.size(); }
  bool Sees(char c) const { return !done() && text[at] == static_cast<uint8_t>(c); }
  bool Sees(std::string_view word) const;
  bool Take(char c) {
    if (!Sees(c)) return false;
    ++at;
    return true;
  }
  // "...: what, at character N"
  Status Error(const std::string& what) const {
    return InvalidArgument(Text(what, ", at character ", at));
  }
};

// What follows a backslash: a set, of one character but for \d and its like.
StatusOr<CodePoints> ParseEscape(PatternCursor& cursor);
// What follows an opening bracket, the closing one included.
StatusOr<CodePoints> ParseClass(PatternCursor& cursor);

}  // namespace causeway
