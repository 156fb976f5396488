// Regular expressions of tokenizer.json, read and rewritten for PCRE2.
#include <array>
#include <cstdint>

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "text/split_pattern.h"

namespace causeway {
namespace {

// What \s means to Oniguruma: the property White_Space. As it stands between brackets.
constexpr char kWhiteSpace[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

struct Category {
  char name;
  const char* added;
};

// General categories and what Unicode 15.0, 15.1 and 16.0 added to them (nothing was taken away),
// as it stands between brackets. A PCRE2 that knows these characters already sees them twice, which
// changes nothing.
constexpr std::array<Category, 5> kCategories = {{
    // clang-format off
    {'L',
     R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
     R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
     R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
     R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
     R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff})"
     R"(\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
     R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})"
    },
    {'M',
     R"(\x{897}\x{cf3}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241}\x{113b8}-\x{113c0})"
     R"(\x{113c2}\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113d0}\x{113d2}\x{113e1}-\x{113e2})"
     R"(\x{11f00}-\x{11f01}\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f42}\x{11f5a}\x{13440})"
     R"(\x{13447}-\x{13455}\x{1611e}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef}\x{1e5ee}-\x{1e5ef})"
    },
    {'N',
     R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
     R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
     R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})"
    },
    {'P',
     R"(\x{1b4e}-\x{1b4f}\x{1b7f}\x{10d6e}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8})"
     R"(\x{11b00}-\x{11b09}\x{11be1}\x{11f43}-\x{11f4f}\x{16d6d}-\x{16d6f}\x{1e5ff})"
    },
    {'S',
     R"(\x{2427}-\x{2429}\x{2ffc}-\x{2fff}\x{31e4}-\x{31e5}\x{31ef}\x{10d8e}-\x{10d8f})"
     R"(\x{1cc00}-\x{1ccef}\x{1cd00}-\x{1ceb3}\x{1f6dc}\x{1f774}-\x{1f776}\x{1f77b}-\x{1f77f})"
     R"(\x{1f7d9}\x{1f8b2}-\x{1f8bb}\x{1f8c0}-\x{1f8c1}\x{1fa75}-\x{1fa77}\x{1fa87}-\x{1fa89})"
     R"(\x{1fa8f}\x{1faad}-\x{1faaf}\x{1fabb}-\x{1fabf}\x{1fac6}\x{1face}-\x{1facf})"
     R"(\x{1fada}-\x{1fadc}\x{1fadf}\x{1fae8}-\x{1fae9}\x{1faf7}-\x{1faf8}\x{1fbcb}-\x{1fbef})"
    },
    // clang-format on
}};

constexpr char kSupported[] =
    "supported: literal characters, classes, groups (?: ) (?= ) (?! ), alternatives, greedy, lazy "
    "and possessive quantifiers of single items, \\r \\n \\t \\s \\S and \\p{..} \\P{..} of L, M, "
    "N, P, S";

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  StatusOr<std::string> Translate() {
    while (at_ < pattern_.size()) CAUSEWAY_RETURN_IF_ERROR(Item());
    return std::move(out_);
  }

 private:
  Status Refuse(const std::string& what) const {
    return InvalidArgument(Text(where_, ": pattern ", Quoted(pattern_), ": ", what, " at byte ",
                                at_, "; ", kSupported));
  }
  bool Next(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  char Peek(size_t ahead) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  void Copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  // One character, escape, class or parenthesis with its quantifier.
  Status Item() {
    const char c = pattern_[at_];
    switch (c) {
      case '|':
        Copy(1);
        return Status();
      case '(':
        if (Next("(?:") || Next("(?=") || Next("(?!")) {
          Copy(3);
          return Status();
        }
        return Refuse("this kind of group");
      case ')':
        Copy(1);
        // A repeated group could take exponential time on some text; an optional one can't.
        if (Peek(0) == '*' || Peek(0) == '+' || Peek(0) == '{') return Refuse("a repeated group");
        return Quantifier();
      case '[':
        CAUSEWAY_RETURN_IF_ERROR(Class());
        return Quantifier();
      case '\\':
        CAUSEWAY_RETURN_IF_ERROR(Escape(false));
        return Quantifier();
      case '^':
      case '$':
      case '.':
      case '*':
      case '+':
      case '?':
      case '{':
        return Refuse(Text("\"", c, "\""));
      default:
        CopyCharacter();
        return Quantifier();
    }
  }

  // A literal character: all its bytes.
  void CopyCharacter() {
    size_t bytes = 1;
    while ((static_cast<uint8_t>(Peek(bytes)) & 0xc0) == 0x80) ++bytes;
    Copy(bytes);
  }

  // Copies "*", "+", "?", each also lazy or possessive, or a counted repetition. Oniguruma gives
  // other meanings than PCRE2 to "{,n}" and to a sign after "}".
  Status Quantifier() {
    const char c = Peek(0);
    if (c == '*' || c == '+' || c == '?') {
      Copy(1);
      if (Peek(0) == '?' || Peek(0) == '+') Copy(1);
    } else if (c == '{') {
      size_t bytes = 1;
      const auto digits = [&] {
        const size_t first = bytes;
        while (Peek(bytes) >= '0' && Peek(bytes) <= '9') ++bytes;
        return bytes - first;
      };
      if (digits() == 0) return Refuse("this \"{\"");
      if (Peek(bytes) == ',') {
        ++bytes;
        digits();
      }
      if (Peek(bytes) != '}') return Refuse("this \"{\"");
      Copy(bytes + 1);
    } else {
      return Status();
    }
    const char after = Peek(0);
    if (after == '*' || after == '+' || after == '?' || after == '{')
      return Refuse("two quantifiers in a row");
    return Status();
  }

  Status Class() {
    Copy(1);
    if (Peek(0) == '^') Copy(1);
    if (Peek(0) == ']') return Refuse("\"]\" as the first character of a class");
    while (Peek(0) != ']') {
      if (at_ >= pattern_.size()) return Refuse("a class without its end");
      if (Peek(0) == '[') return Refuse("\"[\" in a class");
      if (Next("&&")) return Refuse("\"&&\" in a class");
      if (Peek(0) == '\\') {
        CAUSEWAY_RETURN_IF_ERROR(Escape(true));
      } else {
        CopyCharacter();
      }
    }
    Copy(1);
    return Status();
  }

  Status Escape(bool in_class) {
    const char c = Peek(1);
    if (c == 'r' || c == 'n' || c == 't') {
      Copy(2);
      return Status();
    }
    // Printable ASCII that is neither letter nor digit stands for itself.
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c > ' ' && c < '\x7f' && !letter && !(c >= '0' && c <= '9')) {
      Copy(2);
      return Status();
    }
    const bool negated = c == 'S' || c == 'P';
    if (negated && in_class) return Refuse(Text("\"\\", c, "\" in a class"));
    std::string members;
    if (c == 's' || c == 'S') {
      members = kWhiteSpace;
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      for (const Category& category : kCategories)
        if (pattern_.substr(at_ + 2).starts_with(std::string{'{', category.name, '}'}))
          members = Text("\\p{", category.name, "}", category.added);
      if (members.empty()) return Refuse("this property");
      at_ += 5;
    } else {
      return Refuse("this escape");
    }
    if (!in_class) {
      out_ += negated ? "[^" : "[";
      out_ += members;
      out_ += ']';
      return Status();
    }
    // "\s-x" is no range, but what stands here now would become one.
    if (Peek(0) == '-' && Peek(1) != ']') return Refuse("a range that starts with a class");
    out_ += members;
    return Status();
  }

  const std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

StatusOr<std::string> TranslateRegex(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).Translate();
}

}  // namespace causeway
