#include "grammar/regex.h"

#include "grammar/character_class.h"

namespace causeway {
namespace {

constexpr int kMaxGroups = 100;  // one in another

class Parser {
 public:
  Parser(std::vector<uint32_t> pattern, const RegexOptions& options, GrammarBuilder& builder)
      : options_(options), b_(builder), cursor_{std::move(pattern)} {}

  StatusOr<ExprId> Run() {
    CAUSEWAY_ASSIGN_OR_RETURN(const ExprId out, Alternatives(0));
    if (!cursor_.done()) return cursor_.Error("there is a ) without (");
    return out;
  }

 private:
  // `depth`: of groups around it; 0 is the whole expression, where anchors may stand.
  StatusOr<ExprId> Alternatives(int depth) {
    if (depth > kMaxGroups) return cursor_.Error(Text("more than ", kMaxGroups, " nested groups"));
    std::vector<ExprId> out;
    do {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId one, Alternative(depth));
      out.push_back(one);
    } while (cursor_.Take('|'));
    return out.size() == 1 ? out[0] : b_.Choice(std::move(out));
  }

  StatusOr<ExprId> Alternative(int depth) {
    std::vector<ExprId> parts;
    bool start = false;
    bool end = false;
    while (depth == 0 && cursor_.Take('^')) start = true;
    if (depth == 0 && options_.open_start && !start) parts.push_back(Anything());
    while (!cursor_.done() && !cursor_.Sees('|') && !cursor_.Sees(')')) {
      if (depth == 0 && cursor_.Sees('$')) {
        const size_t next = cursor_.at + 1;
        if (next < cursor_.text.size() && cursor_.text[next] != '|' && cursor_.text[next] != '$') {
          return cursor_.Error("$ is supported at the end of the expression only");
        }
        ++cursor_.at;
        end = true;
        continue;
      }
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId atom, Atom(depth));
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId repeated, Repeats(atom));
      parts.push_back(repeated);
    }
    if (depth == 0 && options_.open_end && !end) parts.push_back(Anything());
    return b_.Sequence(std::move(parts));
  }

  ExprId Anything() {
    return b_.Repeat(CharacterOf(b_, CodePoints::All(), options_.spelling), 0, -1);
  }

  StatusOr<ExprId> Atom(int depth) {
    const auto character = [&](const CodePoints& set) {
      return CharacterOf(b_, set, options_.spelling);
    };
    const uint32_t c = cursor_.text[cursor_.at];
    switch (c) {
      case '(':
        ++cursor_.at;
        return Group(depth);
      case '[': {
        ++cursor_.at;
        CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints set, ParseClass(cursor_));
        return character(set);
      }
      case '.':
        ++cursor_.at;
        return character(CodePoints().Add('\n', '\n').Not());
      case '\\': {
        ++cursor_.at;
        CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints set, ParseEscape(cursor_));
        return character(set);
      }
      case '^':
      case '$':
        return cursor_.Error("anchors are supported at the ends of the expression only");
      case '*':
      case '+':
      case '?':
        return cursor_.Error("there is nothing to repeat");
      default:
        break;
    }
    // A brace that is no repetition is refused too: what it means differs from dialect to dialect.
    if (c == '{' || c == '}' || c == ']') {
      return cursor_.Error(Text("write \\", EncodeUtf8(c), " for the character ", EncodeUtf8(c)));
    }
    ++cursor_.at;
    return character(CodePoints().Add(c, c));
  }

  StatusOr<ExprId> Group(int depth) {
    if (cursor_.Take('?')) {
      const bool python = cursor_.Sees("P<");
      if (python) ++cursor_.at;
      if (cursor_.Sees("<=") || cursor_.Sees("<!") || !(cursor_.Sees('<') || cursor_.Sees(':'))) {
        return cursor_.Error("groups with ? other than (?:...) and (?<name>...) are not supported");
      }
      if (!cursor_.Take(':')) {
        while (!cursor_.done() && !cursor_.Sees('>')) ++cursor_.at;
        if (!cursor_.Take('>')) return cursor_.Error("the group's name has no closing >");
      }
    }
    CAUSEWAY_ASSIGN_OR_RETURN(const ExprId out, Alternatives(depth + 1));
    if (!cursor_.Take(')')) return cursor_.Error("the group has no closing )");
    return out;
  }

  StatusOr<int64_t> Number() {
    int64_t value = 0;
    const size_t start = cursor_.at;
    while (!cursor_.done() && cursor_.text[cursor_.at] >= '0' && cursor_.text[cursor_.at] <= '9') {
      value = value * 10 + (cursor_.text[cursor_.at++] - '0');
      if (value > kMaxRegexRepeat) {
        return cursor_.Error(Text("repetitions are limited to ", kMaxRegexRepeat));
      }
    }
    if (cursor_.at == start) return cursor_.Error("expected a number");
    return value;
  }

  StatusOr<ExprId> Repeats(ExprId atom) {
    int64_t min = 1;
    int64_t max = 1;
    if (cursor_.Take('*')) {
      min = 0;
      max = -1;
    } else if (cursor_.Take('+')) {
      max = -1;
    } else if (cursor_.Take('?')) {
      min = 0;
    } else if (cursor_.Take('{')) {
      CAUSEWAY_ASSIGN_OR_RETURN(min, Number());
      max = min;
      if (cursor_.Take(',')) {
        max = -1;
        if (!cursor_.Sees('}')) {
          CAUSEWAY_ASSIGN_OR_RETURN(max, Number());
        }
      }
      if (!cursor_.Take('}')) return cursor_.Error("expected }");
      if (max >= 0 && max < min) return cursor_.Error("the repetition ends below its start");
    } else {
      return atom;
    }
    if (cursor_.Sees('+')) return cursor_.Error("possessive repetitions are not supported");
    cursor_.Take('?');
    if (cursor_.Sees('*') || cursor_.Sees('?') || cursor_.Sees('{')) {
      return cursor_.Error("two repetitions follow each other");
    }
    return b_.Repeat(atom, min, max);
  }

  const RegexOptions options_;
  GrammarBuilder& b_;
  PatternCursor cursor_;
};

StatusOr<Grammar> Compile(std::string_view pattern, const RegexOptions& options,
                          GrammarLimits limits) {
  GrammarBuilder builder(limits);
  StatusOr<ExprId> expr = ParseRegex(pattern, options, builder);
  Status status = expr.status();
  if (status.ok()) {
    StatusOr<Grammar> grammar = builder.Build(builder.AddRule("it", *expr));
    if (grammar.ok()) return grammar;
    status = grammar.status();
  }
  return InvalidArgument(Text("the regular expression can't be used: ", status.message()));
}

}  // namespace

StatusOr<ExprId> ParseRegex(std::string_view pattern, const RegexOptions& options,
                            GrammarBuilder& builder) {
  if (static_cast<int64_t>(pattern.size()) > kMaxRegexBytes) {
    return InvalidArgument(
        Text("it has ", pattern.size(), " bytes; at most ", kMaxRegexBytes, " are allowed"));
  }
  std::optional<std::vector<uint32_t>> text = DecodeUtf8(pattern);
  if (!text) return InvalidArgument("it is not valid UTF-8");
  return Parser(std::move(*text), options, builder).Run();
}

StatusOr<Grammar> CompileRegex(std::string_view pattern) { return Compile(pattern, {}, {}); }

StatusOr<Grammar> CompileRegexSearch(std::string_view pattern, GrammarLimits limits) {
  return Compile(pattern, {.open_start = true}, limits);
}

}  // namespace causeway
