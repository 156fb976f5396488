// Grammars in a simple EBNF, as llama.cpp's GBNF and XGrammar write them:
//
//   root  ::= "yes" | list      # a comment; the rule root is where it begins
//   list  ::= "[" item ("," item){0,3} "]"
//   item  ::= [a-z]+ | list
//
// Literals in double quotes, with the escapes of regular expressions, which also say what stands in
// brackets; groups, |, *, +, ?, {n}, {n,}, {n,m}. A rule may refer to itself, but not as its first
// part.
#pragma once

#include <string_view>

#include "base/status.h"
#include "grammar/grammar.h"

namespace causeway {

inline constexpr size_t kMaxEbnfBytes = 32 << 10;

StatusOr<Grammar> CompileEbnf(std::string_view text);

}  // namespace causeway
