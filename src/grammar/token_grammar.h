// A grammar over tokens: which of them may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/vocabulary.h"

namespace causeway {

// Bit id % 64 of word id / 64: whether the token may come.
using TokenMask = std::vector<uint64_t>;

inline bool Allows(const TokenMask& mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
}

// What requests with the same grammar share: its states, and the masks of those that were needed.
// For any number of threads. A mask that is known costs a look-up; a new one a walk over the tree
// of the vocabulary, which leaves out what goes on from impossible beginnings.
class TokenGrammar {
 public:
  TokenGrammar(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary,
               AutomatonLimits limits = {});

 private:
  friend class GrammarCursor;

  // All below: mutex_ held.
  std::shared_ptr<const TokenMask> MaskOf(Automaton::State state);
  // kDead if the token does not fit.
  Automaton::State Take(Automaton::State state, int32_t token);
  Status Exhausted() const;

  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;
  Automaton automaton_;
  std::unordered_map<Automaton::State, std::shared_ptr<const TokenMask>> masks_;
  int64_t epoch_ = 0;  // grows when states are forgotten
};

// How far one answer has come in a grammar: a function of its tokens. Used by one thread at a time.
class GrammarCursor {
 public:
  // With `start_after` >= 0 everything up to the first token of that id is outside the grammar,
  // and there is no end before it.
  explicit GrammarCursor(std::shared_ptr<TokenGrammar> grammar, int32_t start_after = -1);

  // The answer's next token. kInternal if it does not fit, and then nothing has changed.
  Status Take(int32_t token);
  // Makes the logits, [vocab], of all tokens that can't come next -inf. Those of `ends` are
  // possible where the answer may end, and nowhere else. Something is possible unless Complete().
  // Errors if the grammar's limits are reached.
  Status Mask(std::span<const int32_t> ends, std::span<float> logits);
  // The answer matches, and nothing can follow.
  bool complete() const { return complete_; }
  bool accepts() const { return accepts_; }

 private:
  // The state after tokens_, also where the grammar has forgotten it. The mutex is held.
  Status Restore();
  void Note(Automaton::State state);

  const std::shared_ptr<TokenGrammar> grammar_;
  const int32_t start_after_;
  bool inside_;
  std::vector<int32_t> tokens_;  // since it is inside
  Automaton::State state_ = 0;
  int64_t epoch_ = 0;
  bool accepts_ = false;
  bool complete_ = false;
};

}  // namespace causeway
