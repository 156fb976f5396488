// From a row of logits to a token. Pure: the random number is a function of (seed, position) alone.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "engine/request.h"

namespace causeway {

// logits: [vocab]. Ids from vocab_limit on have no text and are never chosen. position: of the
// token to be sampled, in its sequence.
//
// temperature 0 takes the largest logit (ties to the lower id). Else the logits are divided by the
// temperature, made probabilities, cut to the top_k largest, then (renormalised) to the smallest
// set of the most likely whose sum reaches top_p, then to those of at least min_p times the
// largest; one is drawn in proportion. Log-probabilities are those of the model before any of this,
// over all of the vocabulary; the listed ones are of ids that have text.
// kInternal if a logit is NaN or +inf, or all that may be chosen are -inf.
StatusOr<TokenOutput> Sample(const float* logits, int64_t vocab, int64_t vocab_limit,
                             const SamplingParams& params, int64_t position);

// The first half of Sample: the token. `logits` may be those that LogitChanges has made.
StatusOr<int32_t> ChooseToken(const float* logits, int64_t vocab, int64_t vocab_limit,
                              const SamplingParams& params, int64_t position);
// The second half: out.logprob of out.token, the `top` most likely ones, and those of `ids`.
// `logits`: the model's own, without NaN and +inf.
void AddLogprobs(const float* logits, int64_t vocab, int64_t vocab_limit, int64_t top,
                 const std::vector<int32_t>& ids, TokenOutput& out);

// A number in [0, 1), the same for the same arguments everywhere.
// Hashed, not drawn from a stream: no call depends on those before it.
double UniformAt(uint64_t seed, int64_t position);

}  // namespace causeway
