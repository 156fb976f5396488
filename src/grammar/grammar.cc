// Expressions become automata as Thompson (1968) has it. Three facts about the whole are then
// worked out, on which the automaton relies: no rule calls itself before a byte, so that following
// calls ends; calls at the end of a rule are marked, so that lists written by recursion cost no
// depth; and `need` says from where the end can still be reached, so that no dead end is ever
// entered.
#include "grammar/grammar.h"

#include <algorithm>
#include <deque>

namespace causeway {

ExprId GrammarBuilder::Add(Expr expr) {
  for (const ExprId part : expr.parts) {
    expr.nesting = std::max(expr.nesting, exprs_[static_cast<size_t>(part)].nesting + 1);
  }
  exprs_.push_back(std::move(expr));
  return static_cast<ExprId>(exprs_.size() - 1);
}

ExprId GrammarBuilder::Empty() { return Literal(""); }

ExprId GrammarBuilder::Literal(std::string_view text) {
  return Add({.kind = Expr::Kind::kLiteral, .text = std::string(text)});
}

ExprId GrammarBuilder::Bytes(const ByteSet& set) {
  return Add({.kind = Expr::Kind::kBytes, .set = set});
}

ExprId GrammarBuilder::Sequence(std::vector<ExprId> parts) {
  return Add({.kind = Expr::Kind::kSequence, .parts = std::move(parts)});
}

ExprId GrammarBuilder::Choice(std::vector<ExprId> parts) {
  // Bytes that are alternatives are one set: fewer edges to look at.
  ByteSet set;
  std::vector<ExprId> others;
  size_t sets = 0;
  for (const ExprId part : parts) {
    const Expr& expr = exprs_[static_cast<size_t>(part)];
    if (expr.kind == Expr::Kind::kBytes) {
      set.Unite(expr.set);
      ++sets;
    } else {
      others.push_back(part);
    }
  }
  if (sets > 1) {
    others.push_back(Bytes(set));
    parts = std::move(others);
  }
  return Add({.kind = Expr::Kind::kChoice, .parts = std::move(parts)});
}

ExprId GrammarBuilder::Repeat(ExprId part, int64_t min, int64_t max) {
  return Add({.kind = Expr::Kind::kRepeat, .parts = {part}, .min = min, .max = max});
}

ExprId GrammarBuilder::Call(RuleId rule) { return Add({.kind = Expr::Kind::kCall, .rule = rule}); }

RuleId GrammarBuilder::AddRule(std::string name) {
  rules_.push_back({.name = std::move(name)});
  return static_cast<RuleId>(rules_.size() - 1);
}

void GrammarBuilder::Define(RuleId rule, ExprId expression) {
  rules_[static_cast<size_t>(rule)].expression = expression;
}

int32_t GrammarBuilder::AddPosition() {
  if (static_cast<int64_t>(grammar_.positions_.size()) >= limits_.max_positions) {
    too_large_ = true;
    return 0;
  }
  grammar_.positions_.emplace_back();
  return static_cast<int32_t>(grammar_.positions_.size() - 1);
}

int32_t GrammarBuilder::SetIndex(const ByteSet& set) {
  const auto [entry, fresh] = set_index_.emplace(set, static_cast<int32_t>(grammar_.sets_.size()));
  if (fresh) grammar_.sets_.push_back(set);
  return entry->second;
}

void GrammarBuilder::Emit(ExprId id, int32_t from, int32_t to) {
  if (too_large_) return;
  const Expr& expr = exprs_[static_cast<size_t>(id)];
  const auto edge = [&](int32_t at, Grammar::Edge edge) {
    grammar_.positions_[static_cast<size_t>(at)].edges.push_back(edge);
  };
  switch (expr.kind) {
    case Expr::Kind::kLiteral: {
      int32_t at = from;
      for (size_t i = 0; i < expr.text.size() && !too_large_; ++i) {
        const int byte = static_cast<uint8_t>(expr.text[i]);
        const int32_t next = i + 1 == expr.text.size() ? to : AddPosition();
        edge(at, {Grammar::Edge::Kind::kBytes, false, next, SetIndex(ByteSet::Range(byte, byte))});
        at = next;
      }
      if (expr.text.empty()) edge(from, {Grammar::Edge::Kind::kEmpty, false, to, 0});
      break;
    }
    case Expr::Kind::kBytes:
      edge(from, {Grammar::Edge::Kind::kBytes, false, to, SetIndex(expr.set)});
      break;
    case Expr::Kind::kSequence: {
      int32_t at = from;
      for (size_t i = 0; i < expr.parts.size() && !too_large_; ++i) {
        const int32_t next = i + 1 == expr.parts.size() ? to : AddPosition();
        Emit(expr.parts[i], at, next);
        at = next;
      }
      if (expr.parts.empty()) edge(from, {Grammar::Edge::Kind::kEmpty, false, to, 0});
      break;
    }
    case Expr::Kind::kChoice:
      for (const ExprId part : expr.parts) Emit(part, from, to);
      break;
    case Expr::Kind::kRepeat:
      EmitRepeat(expr, from, to);
      break;
    case Expr::Kind::kCall:
      edge(from,
           {Grammar::Edge::Kind::kCall, false, to, rules_[static_cast<size_t>(expr.rule)].start});
      break;
  }
}

void GrammarBuilder::EmitRepeat(const Expr& expr, int32_t from, int32_t to) {
  const auto skip = [&](int32_t at, int32_t next) {
    grammar_.positions_[static_cast<size_t>(at)].edges.push_back({.to = next});
  };
  const ExprId part = expr.parts.front();
  int32_t at = from;
  for (int64_t i = 0; i < expr.min && !too_large_; ++i) {
    const int32_t next = AddPosition();
    Emit(part, at, next);
    at = next;
  }
  // Not `from`, which may have other edges out of it: no edge goes back there.
  if (expr.max < 0) {
    const int32_t loop = AddPosition();
    const int32_t again = AddPosition();
    if (too_large_) return;
    skip(at, loop);
    Emit(part, loop, again);
    skip(again, loop);
    skip(loop, to);
    return;
  }
  for (int64_t i = expr.min; i < expr.max && !too_large_; ++i) {
    const int32_t next = AddPosition();
    skip(at, to);
    Emit(part, at, next);
    at = next;
  }
  if (!too_large_) skip(at, to);
}

std::vector<RuleId> GrammarBuilder::LeftCalls(const Rule& rule, bool& nullable) const {
  std::vector<RuleId> calls;
  std::vector<int32_t> open = {rule.start};
  std::map<int32_t, bool> seen = {{rule.start, true}};
  nullable = false;
  while (!open.empty()) {
    const int32_t at = open.back();
    open.pop_back();
    nullable = nullable || at == rule.end;
    for (const Grammar::Edge& edge : grammar_.positions_[static_cast<size_t>(at)].edges) {
      if (edge.kind == Grammar::Edge::Kind::kBytes) continue;
      if (edge.kind == Grammar::Edge::Kind::kCall) {
        const RuleId called = RuleAt(edge.what);
        calls.push_back(called);
        if (!rules_[static_cast<size_t>(called)].nullable) continue;
      }
      if (seen.emplace(edge.to, true).second) open.push_back(edge.to);
    }
  }
  return calls;
}

void GrammarBuilder::FindNullable() {
  // Who calls a rule is looked at again when that rule turns out to be nullable.
  std::vector<std::vector<RuleId>> callers(rules_.size());
  std::deque<RuleId> open;
  for (size_t i = 0; i < rules_.size(); ++i) open.push_back(static_cast<RuleId>(i));
  while (!open.empty()) {
    const RuleId id = open.front();
    open.pop_front();
    Rule& rule = rules_[static_cast<size_t>(id)];
    if (rule.nullable) continue;
    bool nullable = false;
    for (const RuleId called : LeftCalls(rule, nullable)) {
      callers[static_cast<size_t>(called)].push_back(id);
    }
    if (!nullable) continue;
    rule.nullable = true;
    for (const RuleId caller : callers[static_cast<size_t>(id)]) open.push_back(caller);
  }
}

Status GrammarBuilder::CheckLeftRecursion() const {
  enum class Color : uint8_t { kNew, kOpen, kDone };
  std::vector<Color> color(rules_.size(), Color::kNew);
  struct Visit {
    RuleId rule;
    std::vector<RuleId> calls;
  };
  bool nullable = false;
  for (size_t root = 0; root < rules_.size(); ++root) {
    if (color[root] != Color::kNew) continue;
    std::vector<Visit> path;
    const auto enter = [&](RuleId rule) {
      color[static_cast<size_t>(rule)] = Color::kOpen;
      path.push_back({rule, LeftCalls(rules_[static_cast<size_t>(rule)], nullable)});
    };
    enter(static_cast<RuleId>(root));
    while (!path.empty()) {
      if (path.back().calls.empty()) {
        color[static_cast<size_t>(path.back().rule)] = Color::kDone;
        path.pop_back();
        continue;
      }
      const RuleId next = path.back().calls.back();
      path.back().calls.pop_back();
      if (color[static_cast<size_t>(next)] == Color::kOpen) {
        return InvalidArgument(Text(rules_[static_cast<size_t>(next)].name,
                                    " refers to itself before any text of its own"));
      }
      if (color[static_cast<size_t>(next)] == Color::kNew) enter(next);
    }
  }
  return Status();
}

void GrammarBuilder::MarkTails() {
  const std::vector<Grammar::Position>& positions = grammar_.positions_;
  const auto only_ends = [&](int32_t at) {
    // A few steps see through what repeats and choices leave at the end of a rule.
    for (int steps = 0; steps < 64; ++steps) {
      const Grammar::Position& position = positions[static_cast<size_t>(at)];
      if (position.end) return true;
      if (position.edges.size() != 1 || position.edges[0].kind != Grammar::Edge::Kind::kEmpty) {
        return false;
      }
      at = position.edges[0].to;
    }
    return false;
  };
  for (Grammar::Position& position : grammar_.positions_) {
    for (Grammar::Edge& edge : position.edges) {
      edge.tail = edge.kind == Grammar::Edge::Kind::kCall && only_ends(edge.to);
    }
  }
}

void GrammarBuilder::ComputeNeeds() {
  std::vector<Grammar::Position>& positions = grammar_.positions_;
  const std::vector<ByteSet>& sets = grammar_.sets_;
  // Whoever's need depends on a position's.
  std::vector<std::vector<int32_t>> before(positions.size());
  std::vector<int32_t> open;
  for (size_t at = 0; at < positions.size(); ++at) {
    positions[at].need = positions[at].end ? 0 : Grammar::kNever;
    if (positions[at].end) open.push_back(static_cast<int32_t>(at));
    for (const Grammar::Edge& edge : positions[at].edges) {
      before[static_cast<size_t>(edge.to)].push_back(static_cast<int32_t>(at));
      if (edge.kind == Grammar::Edge::Kind::kCall) {
        before[static_cast<size_t>(edge.what)].push_back(static_cast<int32_t>(at));
      }
    }
  }
  const auto need_of = [&](const Grammar::Edge& edge) {
    const int32_t rest = positions[static_cast<size_t>(edge.to)].need;
    if (edge.kind == Grammar::Edge::Kind::kBytes &&
        sets[static_cast<size_t>(edge.what)] == ByteSet()) {
      return Grammar::kNever;
    }
    if (edge.kind != Grammar::Edge::Kind::kCall) return rest;
    const int32_t inside = positions[static_cast<size_t>(edge.what)].need;
    return std::max(rest, inside + (edge.tail ? 0 : 1));
  };
  // Needs only sink, and are small numbers: this ends.
  while (!open.empty()) {
    const int32_t changed = open.back();
    open.pop_back();
    for (const int32_t at : before[static_cast<size_t>(changed)]) {
      Grammar::Position& position = positions[static_cast<size_t>(at)];
      int32_t need = position.need;
      for (const Grammar::Edge& edge : position.edges) need = std::min(need, need_of(edge));
      if (need > kMaxCallDepth || need >= position.need) continue;
      position.need = need;
      open.push_back(at);
    }
  }
}

StatusOr<Grammar> GrammarBuilder::Build(RuleId root) {
  for (const Expr& expr : exprs_) {
    if (expr.nesting > limits_.max_nesting) {
      return InvalidArgument(Text("it is nested more than ", limits_.max_nesting, " levels deep"));
    }
  }
  for (size_t i = 0; i < rules_.size(); ++i) {
    rules_[i].start = AddPosition();
    rules_[i].end = AddPosition();
    if (too_large_) break;
    rule_of_start_[rules_[i].start] = static_cast<RuleId>(i);
    grammar_.positions_[static_cast<size_t>(rules_[i].end)].end = true;
  }
  for (const Rule& rule : rules_) {
    CHECK(rule.expression >= 0, rule.name);
    Emit(rule.expression, rule.start, rule.end);
  }
  if (too_large_) {
    return InvalidArgument(
        Text("it is too large: it needs more than ", limits_.max_positions, " states"));
  }
  FindNullable();
  CAUSEWAY_RETURN_IF_ERROR(CheckLeftRecursion());
  MarkTails();
  ComputeNeeds();
  grammar_.start_ = rules_[static_cast<size_t>(root)].start;
  if (grammar_.positions_[static_cast<size_t>(grammar_.start_)].need >= Grammar::kNever) {
    return InvalidArgument(
        Text("no text matches it, or none that nests at most ", kMaxCallDepth, " levels deep"));
  }
  return std::move(grammar_);
}

}  // namespace causeway
