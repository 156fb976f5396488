// JSON (RFC 8259) as rules of a grammar.
//
// White space is limited, so that an answer can't consist of it: after { [ , and : and before } and
// ] may stand one blank, or a line break with an indentation of up to 32 blanks or 8 tabs. Numbers
// have at most 18 digits before the point, 17 behind it and 2 in the exponent: every parser reads
// them. Of surrogates in escapes only pairs are possible.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/grammar.h"

namespace causeway {

// The bounds of a number. Both are whole numbers of at most 18 digits.
struct NumberBounds {
  std::optional<int64_t> least;
  std::optional<int64_t> most;
  bool above_least = false;  // least itself is not allowed
  bool below_most = false;
};

inline constexpr int64_t kMostInteger = 999'999'999'999'999'999;  // 18 digits

// Each rule is made once, when it is first asked for. `builder` must outlive this.
class JsonRules {
 public:
  explicit JsonRules(GrammarBuilder& builder) : b_(builder) {}

  ExprId Value();   // any
  ExprId Object();  // any
  ExprId String();  // any, quotes included
  ExprId Space();
  // A string of `min` to `max` characters (code points); max < 0: without limit.
  ExprId StringOfLength(int64_t min, int64_t max);
  // A string that is none of these, spelled in one way only (Spelling::kJson).
  ExprId StringExcept(const std::vector<std::vector<uint32_t>>& texts);
  // The quoted text of a string, in that spelling.
  ExprId Quoted(std::string_view text);
  ExprId Integer(const NumberBounds& bounds);
  ExprId Number(const NumberBounds& bounds);
  // open, `members`, which are never the empty text, and close, with white space where it may be;
  // or nothing between open and close, if that may be.
  ExprId Braced(char open, ExprId members, char close, bool may_be_empty = true);

 private:
  ExprId Character();  // one of a string, escaped or not
  ExprId PlainCharacter();
  ExprId Except(const std::vector<std::vector<uint32_t>>& texts, size_t at);
  ExprId Digits(int64_t min, int64_t max);
  // Decimal numbers in [least, most], both >= 0, without leading zeros.
  ExprId Decimal(int64_t least, int64_t most);
  ExprId SameLength(const std::string& least, const std::string& most);
  // Numbers of a magnitude in the bounds, both >= 0, with or without a fraction.
  ExprId Magnitude(const NumberBounds& bounds);
  ExprId ZeroFraction();
  // Of at most so many digits, at least one of which is not 0.
  ExprId PositiveFraction(int64_t digits);

  GrammarBuilder& b_;
  std::optional<RuleId> value_, object_, string_, space_, character_, plain_;
};

}  // namespace causeway
