#include "grammar/token_grammar.h"

#include <algorithm>
#include <cmath>

namespace causeway {
namespace {

constexpr size_t kMaxMasks = 512;  // of 16 KiB for a vocabulary of 129,280

}  // namespace

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary,
                           AutomatonLimits limits)
    : vocabulary_(std::move(vocabulary)), automaton_(std::move(grammar), limits) {}

Status TokenGrammar::Exhausted() const {
  return InvalidArgument(
      "the constraint needs too many states at this place of the answer; make it simpler, with "
      "smaller bounds of repetitions");
}

Automaton::State TokenGrammar::Take(Automaton::State state, int32_t token) {
  const std::string_view text = vocabulary_->TextOf(token);
  if (text.empty()) return Automaton::kDead;
  for (const char c : text) {
    state = automaton_.Next(state, static_cast<uint8_t>(c));
    if (state == Automaton::kDead) break;
  }
  return state;
}

std::shared_ptr<const TokenMask> TokenGrammar::MaskOf(Automaton::State state) {
  if (const auto known = masks_.find(state); known != masks_.end()) return known->second;
  auto mask = std::make_shared<TokenMask>((static_cast<size_t>(vocabulary_->size()) + 63) / 64);
  const std::vector<Vocabulary::Place>& places = vocabulary_->places();
  const std::vector<int32_t>& tokens = vocabulary_->tokens();
  // path[d]: the state after d bytes.
  std::vector<Automaton::State> path = {state};
  const size_t count = places.size() - 1;  // the last one only marks the end
  for (size_t i = 0; i < count;) {
    const Vocabulary::Place& place = places[i];
    const auto depth = static_cast<size_t>(place.depth);
    const Automaton::State next = automaton_.Next(path[depth - 1], place.byte);
    if (next == Automaton::kDead) {
      if (automaton_.exhausted()) return nullptr;
      i = static_cast<size_t>(place.end);
      continue;
    }
    if (path.size() <= depth) path.resize(depth + 1);
    path[depth] = next;
    for (int32_t t = place.first_token; t < places[i + 1].first_token; ++t) {
      const auto token = static_cast<size_t>(tokens[static_cast<size_t>(t)]);
      (*mask)[token / 64] |= uint64_t{1} << (token % 64);
    }
    ++i;
  }
  if (masks_.size() >= kMaxMasks) masks_.clear();
  masks_[state] = mask;
  return mask;
}

GrammarCursor::GrammarCursor(std::shared_ptr<TokenGrammar> grammar, int32_t start_after)
    : grammar_(std::move(grammar)), start_after_(start_after), inside_(start_after < 0) {
  const std::lock_guard lock(grammar_->mutex_);
  epoch_ = grammar_->epoch_;
  if (inside_) Note(grammar_->automaton_.start());
}

void GrammarCursor::Note(Automaton::State state) {
  state_ = state;
  accepts_ = grammar_->automaton_.Accepts(state);
  complete_ = grammar_->automaton_.Complete(state);
}

Status GrammarCursor::Restore() {
  Automaton& automaton = grammar_->automaton_;
  automaton.StartWork();
  if (automaton.full() || automaton.exhausted()) {
    // Others find out by the epoch, and go their ways once more.
    automaton.Reset();
    grammar_->masks_.clear();
    ++grammar_->epoch_;
  }
  if (epoch_ == grammar_->epoch_) return Status();
  Automaton::State state = automaton.start();
  for (const int32_t token : tokens_) {
    automaton.StartWork();
    state = grammar_->Take(state, token);
    if (state == Automaton::kDead) return grammar_->Exhausted();
  }
  epoch_ = grammar_->epoch_;
  Note(state);
  return Status();
}

Status GrammarCursor::Take(int32_t token) {
  if (!inside_) {
    if (token == start_after_) {
      inside_ = true;
      const std::lock_guard lock(grammar_->mutex_);
      epoch_ = grammar_->epoch_;
      Note(grammar_->automaton_.start());
    }
    return Status();
  }
  const std::lock_guard lock(grammar_->mutex_);
  CAUSEWAY_RETURN_IF_ERROR(Restore());
  const Automaton::State next = grammar_->Take(state_, token);
  if (next == Automaton::kDead) {
    if (grammar_->automaton_.exhausted()) return grammar_->Exhausted();
    return InternalError(Text("token ", token, " does not fit the grammar"));
  }
  tokens_.push_back(token);
  Note(next);
  return Status();
}

Status GrammarCursor::Mask(std::span<const int32_t> ends, std::span<float> logits) {
  const auto forbid = [&](size_t token) { logits[token] = -INFINITY; };
  if (!inside_) {
    for (const int32_t end : ends) {
      if (end >= 0 && static_cast<size_t>(end) < logits.size()) forbid(static_cast<size_t>(end));
    }
    return Status();
  }
  std::shared_ptr<const TokenMask> mask;
  {
    const std::lock_guard lock(grammar_->mutex_);
    CAUSEWAY_RETURN_IF_ERROR(Restore());
    mask = grammar_->MaskOf(state_);
    if (mask == nullptr) return grammar_->Exhausted();
  }
  std::vector<std::pair<size_t, float>> kept;
  for (const int32_t end : ends) {
    if (accepts_ && end >= 0 && static_cast<size_t>(end) < logits.size()) {
      kept.emplace_back(static_cast<size_t>(end), logits[static_cast<size_t>(end)]);
    }
  }
  for (size_t word = 0; word * 64 < logits.size(); ++word) {
    uint64_t forbidden = word < mask->size() ? ~(*mask)[word] : ~uint64_t{0};
    const size_t last = std::min<size_t>(64, logits.size() - word * 64);
    if (last < 64) forbidden &= (uint64_t{1} << last) - 1;
    for (; forbidden != 0; forbidden &= forbidden - 1) {
      forbid(word * 64 + static_cast<size_t>(__builtin_ctzll(forbidden)));
    }
  }
  // An end token may have a text that fits: it would end the answer all the same.
  for (const int32_t end : ends) {
    if (end >= 0 && static_cast<size_t>(end) < logits.size()) forbid(static_cast<size_t>(end));
  }
  for (const auto& [token, logit] : kept) logits[token] = logit;
  return Status();
}

}  // namespace causeway
