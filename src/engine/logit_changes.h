// What a request's parameters and its own tokens do to its logits before one is sampled.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/request.h"
#include "grammar/token_grammar.h"

namespace causeway {

// A function of the request's parameters, prompt and answer so far, and of nothing else: what runs
// beside it, layouts and retractions can't change it. Used by one thread at a time.
class LogitChanges {
 public:
  // `eos`: the model's end tokens. `sampling` must outlive this.
  LogitChanges(const SamplingParams& sampling, const std::vector<int32_t>& prompt,
               const std::vector<int32_t>& eos);

  // One more token of the answer. Not ok if the grammar does not allow it, or is too large.
  Status Take(int32_t token);

  // The logits to sample from, [vocab]: `logits` itself if nothing changes, else a copy in
  // `memory`. In this order, as in vLLM:
  //   repetition_penalty  of tokens in prompt or answer: positive logits are divided, others
  //                       multiplied
  //   frequency_penalty   is subtracted as often as the token is in the answer
  //   presence_penalty    is subtracted once if it is there
  //   logit_bias          is added
  //   grammar             what it does not allow can't be chosen, nor an end token within it
  //   min_new_tokens      until then no token that ends the answer can be chosen, unless nothing
  //                       else can
  // Errors if the grammar is too large.
  StatusOr<const float*> Apply(const float* logits, int64_t vocab, std::vector<float>& memory);

  // Whether the token ends the answer.
  bool Ends(int32_t token) const;
  // The grammar allows nothing more.
  bool complete() const { return cursor_ && cursor_->complete(); }

 private:
  // Before min_new_tokens.
  void ForbidEnd(std::vector<float>& logits) const;

  const SamplingParams& sampling_;
  std::vector<int32_t> stops_;
  std::vector<int32_t> prompt_;                  // each once; empty without repetition_penalty
  std::unordered_map<int32_t, int64_t> answer_;  // how often
  int64_t produced_ = 0;
  const std::vector<int32_t> eos_;
  std::optional<GrammarCursor> cursor_;
};

}  // namespace causeway
