#include "grammar/character_class.h"

#include <optional>

namespace causeway {
namespace {

std::optional<uint32_t> HexDigit(uint32_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

StatusOr<uint32_t> ParseHex(PatternCursor& cursor, size_t least, size_t most) {
  uint32_t value = 0;
  size_t count = 0;
  while (count < most && !cursor.done()) {
    const std::optional<uint32_t> digit = HexDigit(cursor.text[cursor.at]);
    if (!digit) break;
    value = value * 16 + *digit;
    ++cursor.at;
    ++count;
  }
  if (count < least) return cursor.Error(Text("expected ", least, " hexadecimal digits"));
  if (value > CodePoints::kLast || (value >= 0xd800 && value <= 0xdfff)) {
    return cursor.Error("the digits name no character");
  }
  return value;
}

CodePoints One(uint32_t point) { return CodePoints().Add(point, point); }

CodePoints Digits() { return CodePoints().Add('0', '9'); }
CodePoints Words() { return Digits().Add('a', 'z').Add('A', 'Z').Add('_', '_'); }
CodePoints Spaces() { return CodePoints().Add('\t', '\r').Add(' ', ' '); }

// The one character of a set; nothing if it has more.
std::optional<uint32_t> Single(const CodePoints& set) {
  const std::vector<CodePoints::Range> ranges = set.Ranges();
  if (ranges.size() != 1 || ranges[0].first != ranges[0].last) return std::nullopt;
  return ranges[0].first;
}

}  // namespace

bool PatternCursor::Sees(std::string_view word) const {
  if (text.size() - at < word.size()) return false;
  for (size_t i = 0; i < word.size(); ++i) {
    if (text[at + i] != static_cast<uint8_t>(word[i])) return false;
  }
  return true;
}

StatusOr<CodePoints> ParseEscape(PatternCursor& cursor) {
  if (cursor.done()) return cursor.Error("nothing follows the backslash");
  const uint32_t c = cursor.text[cursor.at++];
  switch (c) {
    case 'd':
      return Digits();
    case 'D':
      return Digits().Not();
    case 'w':
      return Words();
    case 'W':
      return Words().Not();
    case 's':
      return Spaces();
    case 'S':
      return Spaces().Not();
    case 'n':
      return One('\n');
    case 'r':
      return One('\r');
    case 't':
      return One('\t');
    case 'f':
      return One('\f');
    case 'v':
      return One('\v');
    case '0':
      return One(0);
    case 'x': {
      CAUSEWAY_ASSIGN_OR_RETURN(const uint32_t point, ParseHex(cursor, 2, 2));
      return One(point);
    }
    case 'u': {
      const bool braces = cursor.Take('{');
      CAUSEWAY_ASSIGN_OR_RETURN(const uint32_t point,
                                ParseHex(cursor, braces ? 1 : 4, braces ? 6 : 4));
      if (braces && !cursor.Take('}')) return cursor.Error("expected }");
      return One(point);
    }
    default:
      break;
  }
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9');
  if (letter || c >= 0x80) {
    --cursor.at;
    return cursor.Error(Text("the escape \\", EncodeUtf8(c), " is not supported"));
  }
  return One(c);
}

StatusOr<CodePoints> ParseClass(PatternCursor& cursor) {
  const bool negated = cursor.Take('^');
  CodePoints set;
  const auto one = [&]() -> StatusOr<CodePoints> {
    if (cursor.Take('\\')) {
      // In a class \b is the backspace.
      if (cursor.Take('b')) return One('\b');
      return ParseEscape(cursor);
    }
    return One(cursor.text[cursor.at++]);
  };
  while (!cursor.Sees(']')) {
    if (cursor.done()) return cursor.Error("the class has no closing ]");
    if (cursor.Sees("[:") || cursor.Sees("&&") || cursor.Sees("--")) {
      return cursor.Error("named classes and operations on classes are not supported");
    }
    CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints first, one());
    const bool range =
        cursor.Sees('-') && cursor.at + 1 < cursor.text.size() && cursor.text[cursor.at + 1] != ']';
    if (!range) {
      set.Add(first);
      continue;
    }
    ++cursor.at;
    CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints last, one());
    const std::optional<uint32_t> low = Single(first);
    const std::optional<uint32_t> high = Single(last);
    if (!low || !high || *low > *high)
      return cursor.Error("the range is not one, from low to high");
    set.Add(*low, *high);
  }
  ++cursor.at;
  return negated ? set.Not() : set;
}

}  // namespace causeway
