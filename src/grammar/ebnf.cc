#include "grammar/ebnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "grammar/character_class.h"

namespace causeway {
namespace {

constexpr int kMaxGroups = 100;
constexpr int64_t kMaxRepeat = 100'000;

class Parser {
 public:
  explicit Parser(std::vector<uint32_t> text) : cursor_{std::move(text)} {}

  StatusOr<Grammar> Run() {
    Skip();
    while (!cursor_.done()) {
      const std::string name = Name();
      Skip();
      if (name.empty() || !cursor_.Sees("::=")) {
        return cursor_.Error("expected a rule, as: name ::= \"text\"");
      }
      cursor_.at += 3;
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId expr, Alternatives(0));
      Rule& rule = RuleOf(name);
      if (rule.defined) return cursor_.Error(Text("the rule ", name, " is defined twice"));
      rule.defined = true;
      b_.Define(rule.id, expr);
    }
    for (const auto& [name, rule] : rules_) {
      if (!rule.defined) return InvalidArgument(Text("the rule ", name, " is not defined"));
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return InvalidArgument("there is no rule root");
    return b_.Build(root->second.id);
  }

 private:
  struct Rule {
    RuleId id = 0;
    bool defined = false;
  };

  Rule& RuleOf(const std::string& name) {
    const auto [entry, fresh] = rules_.try_emplace(name);
    if (fresh) entry->second.id = b_.AddRule(Text("the rule ", name));
    return entry->second;
  }

  // White space and comments.
  void Skip() {
    while (!cursor_.done()) {
      if (cursor_.Sees('#')) {
        while (!cursor_.done() && !cursor_.Sees('\n')) ++cursor_.at;
      } else if (cursor_.Sees(' ') || cursor_.Sees('\t') || cursor_.Sees('\n') ||
                 cursor_.Sees('\r')) {
        ++cursor_.at;
      } else {
        return;
      }
    }
  }

  std::string Name() {
    std::string out;
    for (; !cursor_.done(); ++cursor_.at) {
      const uint32_t c = cursor_.text[cursor_.at];
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
      const bool other = (c >= '0' && c <= '9') || c == '-';
      if (!letter && !(other && !out.empty())) break;
      out += static_cast<char>(c);
    }
    return out;
  }

  // A name and ::= begin the next rule, and end this one's expression.
  bool AtRule() {
    const size_t start = cursor_.at;
    const bool named = !Name().empty();
    Skip();
    const bool rule = named && cursor_.Sees("::=");
    cursor_.at = start;
    return rule;
  }

  StatusOr<ExprId> Alternatives(int depth) {
    if (depth > kMaxGroups) return cursor_.Error(Text("more than ", kMaxGroups, " nested groups"));
    std::vector<ExprId> out;
    do {
      std::vector<ExprId> parts;
      for (Skip(); !cursor_.done() && !cursor_.Sees('|') && !cursor_.Sees(')') && !AtRule();
           Skip()) {
        CAUSEWAY_ASSIGN_OR_RETURN(const ExprId atom, Atom(depth));
        CAUSEWAY_ASSIGN_OR_RETURN(const ExprId repeated, Repeats(atom));
        parts.push_back(repeated);
      }
      out.push_back(b_.Sequence(std::move(parts)));
    } while (cursor_.Take('|'));
    if (depth == 0 && cursor_.Sees(')')) return cursor_.Error("there is a ) without (");
    return b_.Choice(std::move(out));
  }

  StatusOr<ExprId> Atom(int depth) {
    if (cursor_.Take('(')) {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId out, Alternatives(depth + 1));
      if (!cursor_.Take(')')) return cursor_.Error("the group has no closing )");
      return out;
    }
    if (cursor_.Take('[')) {
      CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints set, ParseClass(cursor_));
      return CharacterOf(b_, set, Spelling::kUtf8);
    }
    if (cursor_.Take('"')) return Literal();
    const std::string name = Name();
    if (name.empty()) return cursor_.Error("expected a literal, a class, a group or a rule's name");
    return b_.Call(RuleOf(name).id);
  }

  StatusOr<ExprId> Literal() {
    std::vector<ExprId> parts;
    while (!cursor_.Take('"')) {
      if (cursor_.done()) return cursor_.Error("the literal has no closing quote");
      if (cursor_.Take('\\')) {
        CAUSEWAY_ASSIGN_OR_RETURN(const CodePoints set, ParseEscape(cursor_));
        parts.push_back(CharacterOf(b_, set, Spelling::kUtf8));
      } else {
        parts.push_back(b_.Literal(EncodeUtf8(cursor_.text[cursor_.at++])));
      }
    }
    return b_.Sequence(std::move(parts));
  }

  StatusOr<ExprId> Repeats(ExprId atom) {
    Skip();
    if (cursor_.Take('*')) return b_.Repeat(atom, 0, -1);
    if (cursor_.Take('+')) return b_.Repeat(atom, 1, -1);
    if (cursor_.Take('?')) return b_.Optional(atom);
    if (!cursor_.Take('{')) return atom;
    CAUSEWAY_ASSIGN_OR_RETURN(const int64_t min, Number());
    int64_t max = min;
    Skip();
    if (cursor_.Take(',')) {
      Skip();
      max = -1;
      if (!cursor_.Sees('}')) {
        CAUSEWAY_ASSIGN_OR_RETURN(max, Number());
      }
    }
    Skip();
    if (!cursor_.Take('}')) return cursor_.Error("expected }");
    if (max >= 0 && max < min) return cursor_.Error("the repetition ends below its start");
    return b_.Repeat(atom, min, max);
  }

  StatusOr<int64_t> Number() {
    Skip();
    int64_t value = -1;
    while (!cursor_.done() && cursor_.text[cursor_.at] >= '0' && cursor_.text[cursor_.at] <= '9') {
      value = std::max<int64_t>(value, 0) * 10 + (cursor_.text[cursor_.at++] - '0');
      if (value > kMaxRepeat) {
        return cursor_.Error(Text("repetitions are limited to ", kMaxRepeat));
      }
    }
    if (value < 0) return cursor_.Error("expected a number");
    return value;
  }

  GrammarBuilder b_;
  PatternCursor cursor_;
  std::map<std::string, Rule> rules_;
};

}  // namespace

StatusOr<Grammar> CompileEbnf(std::string_view text) {
  const auto refuse = [](const std::string& why) {
    return InvalidArgument(Text("the EBNF grammar can't be used: ", why));
  };
  if (text.size() > kMaxEbnfBytes) {
    return refuse(Text("it has ", text.size(), " bytes; at most ", kMaxEbnfBytes, " are allowed"));
  }
  std::optional<std::vector<uint32_t>> points = DecodeUtf8(text);
  if (!points) return refuse("it is not valid UTF-8");
  StatusOr<Grammar> grammar = Parser(std::move(*points)).Run();
  return grammar.ok() ? std::move(grammar) : refuse(grammar.status().message());
}

}  // namespace causeway
