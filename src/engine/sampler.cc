// All in double and in a fixed order: the same logits, parameters and position give the same token
// on every machine with the same exp and log.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace causeway {
namespace {

// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Candidate {
  int32_t token;
  double probability;
};

// Ties go to the lower id, so that sorting is the same everywhere.
bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
}

// The smallest number of most likely candidates whose sum reaches `wanted`; puts these first, most
// likely first. Sorts only as many as it takes: mostly a few hundred of a hundred thousand.
size_t CountUpTo(double wanted, std::vector<Candidate>& candidates) {
  for (size_t sorted = 256;; sorted *= 8) {
    const size_t limit = std::min(sorted, candidates.size());
    const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(limit);
    std::partial_sort(candidates.begin(), end, candidates.end(), MoreLikely);
    double sum = 0.0;
    for (size_t i = 0; i < limit; ++i) {
      sum += candidates[i].probability;
      if (sum >= wanted) return i + 1;
    }
    if (limit == candidates.size()) return limit;
  }
}

// Cuts the candidates to the top_k most likely, then to top_p of what is left, then by min_p.
void Truncate(const SamplingParams& params, std::vector<Candidate>& candidates) {
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(candidates.size())) {
    const auto end = candidates.begin() + params.top_k;
    std::partial_sort(candidates.begin(), end, candidates.end(), MoreLikely);
    candidates.erase(end, candidates.end());
  }
  if (params.top_p < 1.0) {
    double total = 0.0;
    for (const Candidate& c : candidates) total += c.probability;
    candidates.resize(CountUpTo(params.top_p * total, candidates));
  }
  if (params.min_p > 0.0) {
    // The largest is exp(0), and stays.
    const double least = std::min(params.min_p, 1.0);
    std::erase_if(candidates, [&](const Candidate& c) { return c.probability < least; });
  }
}

}  // namespace

double UniformAt(uint64_t seed, int64_t position) {
  const uint64_t bits =
      Mix(Mix(seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

StatusOr<int32_t> ChooseToken(const float* logits, int64_t vocab, int64_t vocab_limit,
                              const SamplingParams& params, int64_t position) {
  const int64_t limit = std::min(vocab, vocab_limit);
  int64_t best = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      return InternalError(Text("logit ", i, " at position ", position, " is ",
                                std::isnan(logits[i]) ? "NaN" : "infinite"));
    }
    if (i < limit && logits[i] > logits[best]) best = i;
  }
  if (limit <= 0 || std::isinf(logits[best])) {
    return InternalError(Text("no token can be chosen at position ", position, ": of ", limit,
                              " logits none is above -inf"));
  }
  auto token = static_cast<int32_t>(best);
  if (params.temperature > 0.0) {
    std::vector<Candidate> candidates;
    candidates.reserve(static_cast<size_t>(limit));
    for (int64_t i = 0; i < limit; ++i) {
      // Against the largest, so that exp never overflows; its own is exp(0) = 1.
      const double scaled =
          (static_cast<double>(logits[i]) - static_cast<double>(logits[best])) / params.temperature;
      candidates.push_back({static_cast<int32_t>(i), std::exp(scaled)});
    }
    Truncate(params, candidates);
    double total = 0.0;
    for (const Candidate& c : candidates) total += c.probability;
    // Probabilities are not divided by their sum: the random number is multiplied by it.
    double rest = UniformAt(params.seed, position) * total;
    token = candidates.front().token;
    for (const Candidate& c : candidates) {
      if (c.probability <= 0.0) continue;
      token = c.token;  // the last one with a chance takes what rounding leaves
      rest -= c.probability;
      if (rest < 0.0) break;
    }
  }
  return token;
}

// Of the unscaled, uncut distribution over the whole vocabulary.
void AddLogprobs(const float* logits, int64_t vocab, int64_t vocab_limit, int64_t top,
                 const std::vector<int32_t>& ids, TokenOutput& out) {
  const int64_t limit = std::min(vocab, vocab_limit);
  const double most = *std::max_element(logits, logits + vocab);
  double sum = 0.0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - most);
  const double normaliser = most + std::log(sum);
  out.logprob = static_cast<double>(logits[out.token]) - normaliser;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab) continue;
    out.listed.push_back({id, static_cast<double>(logits[id]) - normaliser});
  }
  if (top <= 0) return;
  std::vector<int32_t> order(static_cast<size_t>(limit));
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<int64_t>(top, limit);
  std::partial_sort(order.begin(), end, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (auto it = order.begin(); it != end; ++it) {
    out.top.push_back({*it, static_cast<double>(logits[*it]) - normaliser});
  }
}

StatusOr<TokenOutput> Sample(const float* logits, int64_t vocab, int64_t vocab_limit,
                             const SamplingParams& params, int64_t position) {
  CAUSEWAY_ASSIGN_OR_RETURN(const int32_t token,
                            ChooseToken(logits, vocab, vocab_limit, params, position));
  TokenOutput out;
  out.token = token;
  if (params.logprobs >= 0) {
    AddLogprobs(logits, vocab, vocab_limit, params.logprobs, params.logprob_ids, out);
  }
  return out;
}

}  // namespace causeway
