// Regular expressions.
//
// Understood, over Unicode characters:
//   literals   any character but . ^ $ * + ? ( ) [ ] { } | and backslash, and these behind one
//   classes    . (not a newline)  [a-z_]  [^...]  \d \D \w \W \s \S (ASCII)
//   escapes    \n \r \t \f \v \0 \xHH \uHHHH \u{H...} and any punctuation
//   groups     (...)  (?:...)  (?<name>...)  (?P<name>...)
//   operators  |  *  +  ?  {n}  {n,}  {n,m}; a lazy one (+?) means the same
//   anchors    ^ at the start and $ at the end of an alternative of the whole expression
// Anything else (look-around, back references, \b, \p, flags, possessive operators) is refused with
// its place.
#pragma once

#include <string_view>

#include "base/status.h"
#include "grammar/code_points.h"
#include "grammar/grammar.h"

namespace causeway {

struct RegexOptions {
  Spelling spelling = Spelling::kUtf8;
  // Something may stand before the match unless it has ^, and behind it unless it has $. Without,
  // the whole text has to match and anchors change nothing.
  bool open_start = false;
  bool open_end = false;
};

inline constexpr int64_t kMaxRegexBytes = 8 << 10;
inline constexpr int64_t kMaxRegexRepeat = 100'000;

StatusOr<ExprId> ParseRegex(std::string_view pattern, const RegexOptions& options,
                            GrammarBuilder& builder);

// A grammar of the texts that the whole pattern matches. Errors begin with "the regular
// expression".
StatusOr<Grammar> CompileRegex(std::string_view pattern);
// Of the texts that end with a match, wherever it begins.
StatusOr<Grammar> CompileRegexSearch(std::string_view pattern, GrammarLimits limits = {});

}  // namespace causeway
