// One pass with an explicit stack of what is open: no input can exhaust the thread's stack.
#include "router/json_scan.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace causeway {
namespace {

constexpr size_t kMaxLevels = 256;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The number that four digits in base 16 stand for; -1 if they are not there.
int HexFour(std::string_view text) {
  if (text.size() < 4) return -1;
  int value = 0;
  for (size_t i = 0; i < 4; ++i) {
    const int digit = HexDigit(text[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// Whether one of eight bytes is a quote, a backslash or a control character; perhaps also where
// none is, never the other way round.
bool HasSpecial(const char* bytes) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  constexpr uint64_t kHigh = 0x8080808080808080;
  uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  const auto has_zero = [](uint64_t value) { return (value - kOnes) & ~value & kHigh; };
  const uint64_t quote = has_zero(word ^ kOnes * '"');
  const uint64_t backslash = has_zero(word ^ kOnes * '\\');
  const uint64_t control = (word - kOnes * 0x20) & ~word & kHigh;
  return (quote | backslash | control) != 0;
}

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  size_t at() const { return at_; }
  const std::string& problem() const { return problem_; }

  bool Fail(const char* expected) {
    if (!problem_.empty()) return false;
    problem_ = at_ >= text_.size() ? Text("it ends where ", expected, " is expected")
                                   : Text("at byte ", at_, " ", expected, " is expected");
    return false;
  }

  void SkipBlanks() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  bool AtEnd() {
    SkipBlanks();
    return at_ == text_.size() || Fail("the end");
  }

  // From its opening quote to behind the closing one.
  bool SkipString() {
    if (!Take('"')) return Fail("a string");
    while (at_ < text_.size()) {
      // Prompts are long, and most of their bytes are plain.
      while (at_ + 8 <= text_.size() && !HasSpecial(text_.data() + at_)) at_ += 8;
      if (at_ == text_.size()) break;
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (static_cast<uint8_t>(c) < 0x20) return Fail("an escaped control character");
      if (c != '\\') {
        ++at_;
        continue;
      }
      ++at_;
      const char escaped = Peek();
      if (escaped == 'u') {
        if (HexFour(text_.substr(at_ + 1)) < 0) return Fail("four hexadecimal digits");
        at_ += 5;
      } else if (escaped != '\0' &&
                 std::string_view("\"\\/bfnrt").find(escaped) != std::string_view::npos) {
        ++at_;
      } else {
        return Fail("a known escape");
      }
    }
    return Fail("a closing quote");
  }

  bool SkipDigits() {
    if (!IsDigit(Peek())) return Fail("a digit");
    while (IsDigit(Peek())) ++at_;
    return true;
  }

  bool SkipNumber() {
    Take('-');
    if (Take('0')) {
      if (IsDigit(Peek())) return Fail("no digit after a leading zero");
    } else if (!SkipDigits()) {
      return false;
    }
    if (Take('.') && !SkipDigits()) return false;
    if (Peek() == 'e' || Peek() == 'E') {
      ++at_;
      if (!Take('+')) Take('-');
      if (!SkipDigits()) return false;
    }
    return true;
  }

  bool SkipWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return Fail("a value");
    at_ += word.size();
    return true;
  }

  bool SkipScalar() {
    switch (Peek()) {
      case '"':
        return SkipString();
      case 't':
        return SkipWord("true");
      case 'f':
        return SkipWord("false");
      case 'n':
        return SkipWord("null");
      default:
        return Peek() == '-' || IsDigit(Peek()) ? SkipNumber() : Fail("a value");
    }
  }

  bool SkipKey() {
    SkipBlanks();
    if (!SkipString()) return false;
    SkipBlanks();
    if (!Take(':')) return Fail("a colon");
    SkipBlanks();
    return true;
  }

  // One value of any kind, from its first byte to behind its last.
  bool SkipValue() {
    open_.clear();
    for (;;) {
      // At the first byte of a value.
      const char c = Peek();
      if (c == '{' || c == '[') {
        if (open_.size() == kMaxLevels) return Fail("an end of the nesting (256 levels at most)");
        ++at_;
        open_.push_back(c == '{' ? '}' : ']');
        SkipBlanks();
        if (Peek() != open_.back()) {
          if (c == '{' && !SkipKey()) return false;
          continue;
        }
      } else if (!SkipScalar()) {
        return false;
      }
      // Behind a value, or before the end of an empty one.
      for (;;) {
        if (open_.empty()) return true;
        SkipBlanks();
        if (Take(open_.back())) {
          open_.pop_back();
          continue;
        }
        if (!Take(',')) return Fail("a comma or the end of the list");
        if (open_.back() == '}') {
          if (!SkipKey()) return false;
        } else {
          SkipBlanks();
        }
        break;
      }
    }
  }

  std::string_view From(size_t begin) const { return text_.substr(begin, at_ - begin); }

 private:
  const std::string_view text_;
  size_t at_ = 0;
  std::string open_;  // the closing brackets that are owed
  std::string problem_;
};

void AppendUtf8(std::string& out, uint32_t point) {
  const auto byte = [&out](uint32_t value) { out += static_cast<char>(value); };
  if (point < 0x80) {
    byte(point);
  } else if (point < 0x800) {
    byte(0xC0 | point >> 6);
    byte(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    byte(0xE0 | point >> 12);
    byte(0x80 | (point >> 6 & 0x3F));
    byte(0x80 | (point & 0x3F));
  } else {
    byte(0xF0 | point >> 18);
    byte(0x80 | (point >> 12 & 0x3F));
    byte(0x80 | (point >> 6 & 0x3F));
    byte(0x80 | (point & 0x3F));
  }
}

char Unescaped(char c) {
  switch (c) {
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    default:
      return c;
  }
}

}  // namespace

JsonProblem ScanObject(std::string_view text,
                       const std::function<void(const JsonMember&)>& member) {
  Scanner scan(text);
  scan.SkipBlanks();
  if (!scan.Take('{')) {
    scan.Fail("an object");
    return scan.problem();
  }
  scan.SkipBlanks();
  if (scan.Take('}')) {
    if (!scan.AtEnd()) return scan.problem();
    return std::nullopt;
  }
  for (;;) {
    JsonMember found;
    scan.SkipBlanks();
    found.begin = scan.at();
    if (!scan.SkipString()) return scan.problem();
    found.key = scan.From(found.begin);
    found.key = found.key.substr(1, found.key.size() - 2);
    scan.SkipBlanks();
    if (!scan.Take(':')) {
      scan.Fail("a colon");
      return scan.problem();
    }
    scan.SkipBlanks();
    const size_t value = scan.at();
    if (!scan.SkipValue()) return scan.problem();
    found.value = scan.From(value);
    found.end = scan.at();
    member(found);
    scan.SkipBlanks();
    if (scan.Take(',')) continue;
    if (!scan.Take('}')) {
      scan.Fail("a comma or the end of the object");
      return scan.problem();
    }
    if (!scan.AtEnd()) return scan.problem();
    return std::nullopt;
  }
}

JsonProblem ScanArray(std::string_view text, const std::function<void(std::string_view)>& value) {
  Scanner scan(text);
  scan.SkipBlanks();
  if (!scan.Take('[')) {
    scan.Fail("an array");
    return scan.problem();
  }
  scan.SkipBlanks();
  const bool empty = scan.Take(']');
  while (!empty) {
    scan.SkipBlanks();
    const size_t begin = scan.at();
    if (!scan.SkipValue()) return scan.problem();
    value(scan.From(begin));
    scan.SkipBlanks();
    if (scan.Take(',')) continue;
    if (scan.Take(']')) break;
    scan.Fail("a comma or the end of the array");
    return scan.problem();
  }
  if (!scan.AtEnd()) return scan.problem();
  return std::nullopt;
}

std::string UnescapeJson(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    ++i;
    if (text[i] != 'u') {
      out += Unescaped(text[i]);
      continue;
    }
    const int first = HexFour(text.substr(i + 1));
    i += 4;
    auto point = static_cast<uint32_t>(first < 0 ? 0xFFFD : first);
    if (point >= 0xD800 && point < 0xDC00 && text.substr(i + 1, 2) == "\\u") {
      const int second = HexFour(text.substr(i + 3));
      if (second >= 0xDC00 && second < 0xE000) {
        point = 0x10000 + ((point - 0xD800) << 10) + static_cast<uint32_t>(second - 0xDC00);
        i += 6;
      }
    }
    AppendUtf8(out, point >= 0xD800 && point < 0xE000 ? 0xFFFD : point);
  }
  return out;
}

bool IsKey(std::string_view key, std::string_view name) {
  if (key == name) return true;
  return key.find('\\') != std::string_view::npos && UnescapeJson(key) == name;
}

std::string QuoteJson(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

}  // namespace causeway
