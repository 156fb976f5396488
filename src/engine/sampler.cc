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

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
}

// Cuts the candidates to the top_k most likely and then to top_p of what is left, most likely
// first.
void Truncate(const SamplingParams& params, std::vector<Candidate>& candidates) {
  const bool by_count = params.top_k > 0 && params.top_k < static_cast<int64_t>(candidates.size());
  if (!by_count && params.top_p >= 1.0 && params.min_p <= 0.0) return;
  if (by_count) {
    const auto end = candidates.begin() + params.top_k;
    std::partial_sort(candidates.begin(), end, candidates.end(), MoreLikely);
    candidates.erase(end, candidates.end());
  } else {
    std::sort(candidates.begin(), candidates.end(), MoreLikely);
  }
  double total = 0.0;
  for (const Candidate& c : candidates) total += c.probability;
  if (params.top_p < 1.0) {
    double before = 0.0;
    size_t kept = 0;
    while (kept < candidates.size() && before <= params.top_p * total) {
      before += candidates[kept++].probability;
      if (before >= params.top_p * total) break;
    }
    candidates.resize(std::max<size_t>(kept, 1));
  }
  const double least = params.min_p * candidates.front().probability;
  while (candidates.size() > 1 && candidates.back().probability < least) candidates.pop_back();
}

}  // namespace

double UniformAt(uint64_t seed, int64_t position) {
  const uint64_t bits =
      Mix(Mix(seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

StatusOr<TokenOutput> Sample(const float* logits, int64_t vocab, int64_t vocab_limit,
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
  TokenOutput out;
  out.token = static_cast<int32_t>(best);
  if (params.temperature > 0.0) {
    std::vector<Candidate> candidates;
    candidates.reserve(static_cast<size_t>(limit));
    for (int64_t i = 0; i < limit; ++i) {
      const double scaled =
          (static_cast<double>(logits[i]) - static_cast<double>(logits[best])) / params.temperature;
      candidates.push_back({static_cast<int32_t>(i), std::exp(scaled)});
    }
    Truncate(params, candidates);
    double total = 0.0;
    for (const Candidate& c : candidates) total += c.probability;
    double rest = UniformAt(params.seed, position) * total;
    out.token = candidates.front().token;
    for (const Candidate& c : candidates) {
      if (c.probability <= 0.0) continue;
      out.token = c.token;  // the last one with a chance takes what rounding leaves
      rest -= c.probability;
      if (rest < 0.0) break;
    }
  }
  if (params.logprobs >= 0) {
    const double top = *std::max_element(logits, logits + vocab);
    double sum = 0.0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - top);
    const double normaliser = top + std::log(sum);
    out.logprob = static_cast<double>(logits[out.token]) - normaliser;
    std::vector<int32_t> order(static_cast<size_t>(limit));
    std::iota(order.begin(), order.end(), 0);
    const auto end = order.begin() + std::min<int64_t>(params.logprobs, limit);
    std::partial_sort(order.begin(), end, order.end(), [&](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    for (auto it = order.begin(); it != end; ++it) {
      out.top.push_back({*it, static_cast<double>(logits[*it]) - normaliser});
    }
  }
  return out;
}

}  // namespace causeway
