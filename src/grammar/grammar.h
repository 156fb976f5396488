// A context-free grammar over bytes, and how to build one.
//
// Expressions are made bottom up and combined by their ids; rules give them names, so that they may
// refer to themselves:
//
//   GrammarBuilder b;                                   // value := digit | "[" value "]"
//   const RuleId value = b.AddRule("value");
//   b.Define(value, b.Choice({b.Bytes(ByteSet::Range('0', '9')),
//                             b.Sequence({b.Literal("["), b.Call(value), b.Literal("]")})}));
//   StatusOr<Grammar> grammar = b.Build(value);
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "grammar/byte_set.h"

namespace causeway {

using ExprId = int32_t;
using RuleId = int32_t;

// What a grammar may cost. Beyond it there is an error that names the limit.
struct GrammarLimits {
  int64_t max_positions = 400'000;  // of the compiled grammar, about one for each byte of a text
  int64_t max_nesting = 500;        // of expressions in expressions
};

// Rules that are under way at once, but for calls at the end of a rule: how deep a text may nest.
inline constexpr int32_t kMaxCallDepth = 256;

// A compiled grammar: for each rule a non-deterministic automaton whose edges read a byte, nothing,
// or what another rule matches. Immutable.
class Grammar {
 public:
  struct Edge {
    enum class Kind : uint8_t { kEmpty, kBytes, kCall };
    Kind kind = Kind::kEmpty;
    bool tail = false;  // of a call: nothing of the caller is left after it
    int32_t to = 0;
    int32_t what = 0;  // kBytes: index of sets(); kCall: the position where the rule begins
  };
  struct Position {
    std::vector<Edge> edges;
    bool end = false;  // of its rule
    // Calls that must at least be under way at once, beyond the present ones, to reach the end of
    // the rule from here; kNever if there is no way.
    int32_t need = 0;
  };
  static constexpr int32_t kNever = 1 << 20;

  const std::vector<Position>& positions() const { return positions_; }
  const std::vector<ByteSet>& sets() const { return sets_; }
  int32_t start() const { return start_; }

 private:
  friend class GrammarBuilder;
  std::vector<Position> positions_;
  std::vector<ByteSet> sets_;
  int32_t start_ = 0;
};

class GrammarBuilder {
 public:
  explicit GrammarBuilder(GrammarLimits limits = {}) : limits_(limits) {}

  ExprId Empty();                         // the empty text
  ExprId Never() { return Choice({}); }   // no text at all
  ExprId Literal(std::string_view text);  // these bytes
  ExprId Bytes(const ByteSet& set);       // one of these bytes
  ExprId Sequence(std::vector<ExprId> parts);
  ExprId Choice(std::vector<ExprId> parts);
  ExprId Optional(ExprId part) { return Repeat(part, 0, 1); }
  // At least min and at most max times; max < 0: without end.
  ExprId Repeat(ExprId part, int64_t min, int64_t max);
  ExprId Call(RuleId rule);

  // Rules may be called before they are defined. `name` is for messages.
  RuleId AddRule(std::string name);
  void Define(RuleId rule, ExprId expression);
  RuleId AddRule(std::string name, ExprId expression) {
    const RuleId rule = AddRule(std::move(name));
    Define(rule, expression);
    return rule;
  }

  // Refuses a rule that calls itself before any byte (left recursion), a root that matches no
  // finite text, and what goes beyond the limits. Every rule must be defined.
  StatusOr<Grammar> Build(RuleId root);

 private:
  struct Expr {
    enum class Kind { kLiteral, kBytes, kSequence, kChoice, kRepeat, kCall };
    Kind kind;
    std::string text = {};
    ByteSet set = {};
    std::vector<ExprId> parts = {};
    int64_t min = 0;
    int64_t max = 0;
    RuleId rule = 0;
    int64_t nesting = 1;
  };
  struct Rule {
    std::string name;
    ExprId expression = -1;
    int32_t start = 0;
    int32_t end = 0;
    bool nullable = false;
  };

  ExprId Add(Expr expr);
  int32_t AddPosition();
  // Edges from `from` to `to` that read what the expression matches. `from` gets no edges into it,
  // and `to` none out of it.
  void Emit(ExprId id, int32_t from, int32_t to);
  void EmitRepeat(const Expr& expr, int32_t from, int32_t to);
  int32_t SetIndex(const ByteSet& set);

  // The rules that may be called from its start before any byte; whether its end can be reached so.
  std::vector<RuleId> LeftCalls(const Rule& rule, bool& nullable) const;
  void FindNullable();
  Status CheckLeftRecursion() const;
  void MarkTails();
  void ComputeNeeds();
  RuleId RuleAt(int32_t start) const { return rule_of_start_.at(start); }

  const GrammarLimits limits_;
  std::vector<Expr> exprs_;
  std::vector<Rule> rules_;
  std::map<ByteSet, int32_t> set_index_;
  std::map<int32_t, RuleId> rule_of_start_;
  bool too_large_ = false;
  Grammar grammar_;
};

}  // namespace causeway
