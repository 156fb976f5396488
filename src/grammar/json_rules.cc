#include "grammar/json_rules.h"

#include <algorithm>

#include "grammar/code_points.h"

namespace causeway {
namespace {

constexpr int64_t kMostBlanks = 32;
constexpr int64_t kMostTabs = 8;
constexpr int64_t kMostFraction = 17;  // digits

ByteSet Digit() { return ByteSet::Range('0', '9'); }

ByteSet HexDigit() {
  ByteSet out = Digit();
  out.Unite(ByteSet::Range('a', 'f'));
  out.Unite(ByteSet::Range('A', 'F'));
  return out;
}

ByteSet AnyOf(std::string_view bytes) {
  ByteSet out;
  for (const char c : bytes) out.Add(static_cast<uint8_t>(c));
  return out;
}

}  // namespace

ExprId JsonRules::Space() {
  if (!space_) {
    const ExprId indentation =
        b_.Choice({b_.Repeat(b_.Literal(" "), 0, kMostBlanks),
                   b_.Sequence({b_.Literal("\t"), b_.Repeat(b_.Literal("\t"), 0, kMostTabs - 1)})});
    space_ = b_.AddRule("white space", b_.Choice({b_.Empty(), b_.Literal(" "),
                                                  b_.Sequence({b_.Literal("\n"), indentation})}));
  }
  return b_.Call(*space_);
}

ExprId JsonRules::PlainCharacter() {
  if (!plain_) {
    plain_ = b_.AddRule("character", CharacterOf(b_, CodePoints::All(), Spelling::kJson));
  }
  return b_.Call(*plain_);
}

ExprId JsonRules::Character() {
  if (!character_) {
    const ExprId unescaped = CharacterOf(
        b_, CodePoints().Add(0, 0x1f).Add('"', '"').Add('\\', '\\').Not(), Spelling::kUtf8);
    const ExprId hex = b_.Bytes(HexDigit());
    const auto escape = [&](std::vector<ExprId> parts) {
      parts.insert(parts.begin(), b_.Literal("\\u"));
      return b_.Sequence(std::move(parts));
    };
    // D800 to DBFF only before DC00 to DFFF.
    const ExprId d = b_.Bytes(AnyOf("dD"));
    const ExprId low = escape({d, b_.Bytes(AnyOf("cdefCDEF")), hex, hex});
    ByteSet not_d = HexDigit();
    ByteSet others;
    for (int byte = 0; byte < 256; ++byte) {
      if (not_d.Has(byte) && byte != 'd' && byte != 'D') others.Add(byte);
    }
    character_ = b_.AddRule(
        "character",
        b_.Choice({unescaped, b_.Sequence({b_.Literal("\\"), b_.Bytes(AnyOf("\"\\/bfnrt"))}),
                   escape({b_.Bytes(others), hex, hex, hex}),
                   escape({d, b_.Bytes(ByteSet::Range('0', '7')), hex, hex}),
                   escape({d, b_.Bytes(AnyOf("89abAB")), hex, hex, low})}));
  }
  return b_.Call(*character_);
}

ExprId JsonRules::String() {
  if (!string_) string_ = b_.AddRule("string", StringOfLength(0, -1));
  return b_.Call(*string_);
}

ExprId JsonRules::StringOfLength(int64_t min, int64_t max) {
  return b_.Sequence({b_.Literal("\""), b_.Repeat(Character(), min, max), b_.Literal("\"")});
}

ExprId JsonRules::Quoted(std::string_view text) {
  std::string out = "\"";
  for (const uint32_t point : DecodeUtf8(text).value_or(std::vector<uint32_t>())) {
    out += JsonSpelling(point);
  }
  return b_.Literal(out + "\"");
}

ExprId JsonRules::StringExcept(const std::vector<std::vector<uint32_t>>& texts) {
  return b_.Sequence({b_.Literal("\""), Except(texts, 0)});
}

// The rest of a string, its quote included, after `at` characters that all of `texts` begin with.
ExprId JsonRules::Except(const std::vector<std::vector<uint32_t>>& texts, size_t at) {
  const auto rest = [&] {
    return b_.Sequence({b_.Repeat(PlainCharacter(), 0, -1), b_.Literal("\"")});
  };
  std::vector<ExprId> parts;
  CodePoints next;
  std::vector<uint32_t> seen;
  bool ends = false;
  for (const std::vector<uint32_t>& text : texts) {
    if (text.size() == at) {
      ends = true;
    } else if (std::find(seen.begin(), seen.end(), text[at]) == seen.end()) {
      seen.push_back(text[at]);
      next.Add(text[at], text[at]);
      std::vector<std::vector<uint32_t>> with;
      std::copy_if(texts.begin(), texts.end(), std::back_inserter(with),
                   [&](const auto& other) { return other.size() > at && other[at] == text[at]; });
      parts.push_back(b_.Sequence({b_.Literal(JsonSpelling(text[at])), Except(with, at + 1)}));
    }
  }
  if (!ends) parts.push_back(b_.Literal("\""));
  parts.push_back(b_.Sequence({CharacterOf(b_, next.Not(), Spelling::kJson), rest()}));
  return b_.Choice(std::move(parts));
}

ExprId JsonRules::Braced(char open, ExprId members, char close, bool may_be_empty) {
  const ExprId inside = b_.Sequence({members, Space()});
  return b_.Sequence({b_.Literal(std::string(1, open)), Space(),
                      may_be_empty ? b_.Optional(inside) : inside,
                      b_.Literal(std::string(1, close))});
}

ExprId JsonRules::Value() {
  if (!value_) {
    value_ = b_.AddRule("value");
    const ExprId value = b_.Call(*value_);
    const ExprId more = b_.Repeat(b_.Sequence({b_.Literal(","), Space(), value}), 0, -1);
    b_.Define(*value_,
              b_.Choice({Object(), Braced('[', b_.Sequence({value, more}), ']'), String(),
                         Number({}), b_.Literal("true"), b_.Literal("false"), b_.Literal("null")}));
  }
  return b_.Call(*value_);
}

ExprId JsonRules::Object() {
  if (!object_) {
    object_ = b_.AddRule("object");
    const ExprId member = b_.Sequence({String(), b_.Literal(":"), Space(), Value()});
    const ExprId more = b_.Repeat(b_.Sequence({b_.Literal(","), Space(), member}), 0, -1);
    b_.Define(*object_, Braced('{', b_.Sequence({member, more}), '}'));
  }
  return b_.Call(*object_);
}

ExprId JsonRules::Digits(int64_t min, int64_t max) {
  return b_.Repeat(b_.Bytes(Digit()), min, max);
}

// Of numbers with equally many digits: those that begin like the least, those between, those that
// begin like the most.
ExprId JsonRules::SameLength(const std::string& least, const std::string& most) {
  const auto all = [](const std::string& text, char digit) {
    return text.find_first_not_of(digit) == std::string::npos;
  };
  const auto count = static_cast<int64_t>(least.size());
  if (all(least, '0') && all(most, '9')) return Digits(count, count);
  const auto head = [&](char first, char last) { return b_.Bytes(ByteSet::Range(first, last)); };
  const std::string least_rest = least.substr(1);
  const std::string most_rest = most.substr(1);
  if (least[0] == most[0]) {
    return b_.Sequence({head(least[0], least[0]), SameLength(least_rest, most_rest)});
  }
  char first = least[0];
  char last = most[0];
  std::vector<ExprId> parts;
  if (!all(least_rest, '0')) {
    const std::string nines(least_rest.size(), '9');
    parts.push_back(b_.Sequence({head(first, first), SameLength(least_rest, nines)}));
    ++first;
  }
  if (!all(most_rest, '9')) {
    const std::string zeros(most_rest.size(), '0');
    parts.push_back(b_.Sequence({head(last, last), SameLength(zeros, most_rest)}));
    --last;
  }
  if (first <= last)
    parts.push_back(b_.Sequence({head(first, last), Digits(count - 1, count - 1)}));
  return b_.Choice(std::move(parts));
}

ExprId JsonRules::Decimal(int64_t least, int64_t most) {
  std::vector<ExprId> parts;
  while (least <= most) {
    // As many of them as have as many digits.
    const std::string first = std::to_string(least);
    const std::string last = std::string(first.size(), '9');
    const bool longer = std::to_string(most).size() > first.size();
    parts.push_back(SameLength(first, longer ? last : std::to_string(most)));
    if (!longer) break;
    least = std::stoll(last) + 1;
  }
  return b_.Choice(std::move(parts));
}

ExprId JsonRules::Integer(const NumberBounds& bounds) {
  int64_t least = bounds.least.value_or(-kMostInteger);
  int64_t most = bounds.most.value_or(kMostInteger);
  least = std::max(least, -kMostInteger) + (bounds.least && bounds.above_least ? 1 : 0);
  most = std::min(most, kMostInteger) - (bounds.most && bounds.below_most ? 1 : 0);
  std::vector<ExprId> parts;
  if (most >= 0) parts.push_back(Decimal(std::max<int64_t>(least, 0), most));
  if (least < 0) {
    const int64_t nearest = std::max<int64_t>(-most, 1);
    parts.push_back(b_.Sequence({b_.Literal("-"), Decimal(nearest, -least)}));
  }
  return b_.Choice(std::move(parts));
}

ExprId JsonRules::ZeroFraction() {
  return b_.Optional(b_.Sequence({b_.Literal("."), b_.Repeat(b_.Literal("0"), 1, kMostFraction)}));
}

ExprId JsonRules::PositiveFraction(int64_t digits) {
  const int64_t zeros = (digits - 1) / 2;
  return b_.Sequence({b_.Literal("."), b_.Repeat(b_.Literal("0"), 0, zeros),
                      b_.Bytes(ByteSet::Range('1', '9')), Digits(0, digits - 1 - zeros)});
}

ExprId JsonRules::Magnitude(const NumberBounds& bounds) {
  const int64_t least = bounds.least.value_or(0);
  const int64_t most = bounds.most.value_or(kMostInteger);
  // Digits behind the point by which a number still differs from the bound when a parser rounds it:
  // 15 digits in all always survive.
  const auto digits_beside = [](int64_t bound) {
    return std::max<int64_t>(0, 15 - static_cast<int64_t>(std::to_string(bound).size()));
  };
  const int64_t digits = bounds.below_most ? digits_beside(most) : kMostFraction;
  const ExprId fraction =
      digits > 0 ? b_.Optional(b_.Sequence({b_.Literal("."), Digits(1, digits)})) : b_.Empty();
  std::vector<ExprId> parts;
  // The whole numbers whose every fraction is inside, then the two at the ends.
  const int64_t first = bounds.above_least ? least + 1 : least;
  if (first <= most - 1) parts.push_back(b_.Sequence({Decimal(first, most - 1), fraction}));
  const int64_t above = std::min(digits, digits_beside(least));
  if (bounds.above_least && least < most && above > 0) {
    parts.push_back(b_.Sequence({Decimal(least, least), PositiveFraction(above)}));
  }
  if (!bounds.below_most && (least < most || (least == most && !bounds.above_least))) {
    parts.push_back(b_.Sequence({Decimal(most, most), ZeroFraction()}));
  }
  return b_.Choice(std::move(parts));
}

ExprId JsonRules::Number(const NumberBounds& bounds) {
  if (!bounds.least && !bounds.most) {
    const ExprId sign = b_.Optional(b_.Bytes(AnyOf("+-")));
    return b_.Sequence({b_.Optional(b_.Literal("-")),
                        b_.Choice({b_.Literal("0"), b_.Sequence({b_.Bytes(ByteSet::Range('1', '9')),
                                                                 Digits(0, 17)})}),
                        b_.Optional(b_.Sequence({b_.Literal("."), Digits(1, kMostFraction)})),
                        b_.Optional(b_.Sequence({b_.Bytes(AnyOf("eE")), sign, Digits(1, 2)}))});
  }
  // Above and below zero, with zero on the upper side.
  std::vector<ExprId> parts;
  const int64_t least = bounds.least.value_or(-kMostInteger);
  const int64_t most = bounds.most.value_or(kMostInteger);
  if (most >= 0) {
    NumberBounds upper{.least = std::max<int64_t>(least, 0),
                       .most = most,
                       .above_least = bounds.above_least && least >= 0,
                       .below_most = bounds.below_most};
    parts.push_back(Magnitude(upper));
  }
  if (least < 0) {
    NumberBounds lower{.least = std::max<int64_t>(-most, 0),
                       .most = -least,
                       .above_least = most >= 0 || bounds.below_most,
                       .below_most = bounds.above_least};
    parts.push_back(b_.Sequence({b_.Literal("-"), Magnitude(lower)}));
  }
  return b_.Choice(std::move(parts));
}

}  // namespace causeway
