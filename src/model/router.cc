#include "model/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace causeway {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// The group's score: the sum of its two largest choice scores (noaux_tc), or its largest.
float GroupScore(GateMethod method, const float* choice, int64_t count) {
  float first = kMasked;
  float second = kMasked;
  for (int64_t i = 0; i < count; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  if (method != GateMethod::kNoAuxTc || count == 1) return first;
  return first + second;
}

// Masks all but the best topk_group groups. Masked experts count as -inf, not as 0: biased scores
// may be negative.
void MaskGroups(const ModelConfig& config, float* choice) {
  const int64_t size = config.n_routed_experts / config.n_group;
  // As config.json is checked against (model_config.cc).
  constexpr int64_t kMaxGroups = 256;
  float score[kMaxGroups];
  bool keep[kMaxGroups];
  for (int64_t group = 0; group < config.n_group; ++group) {
    score[group] = GroupScore(config.topk_method, choice + group * size, size);
  }
  for (int64_t group = 0; group < config.n_group; ++group) {
    // By rank and not by sorting: of equal groups the lower one is kept.
    int64_t better = 0;
    for (int64_t other = 0; other < config.n_group; ++other) {
      better += score[other] > score[group] || (score[other] == score[group] && other < group);
    }
    keep[group] = better < config.topk_group;
  }
  for (int64_t group = 0; group < config.n_group; ++group) {
    if (!keep[group]) std::fill_n(choice + group * size, size, kMasked);
  }
}

}  // namespace

void Route(const ModelConfig& config, const float* logits, const float* bias, int32_t* experts,
           float* weights, float* scratch) {
  const int64_t count = config.n_routed_experts;
  float* score = scratch;
  float* choice = scratch + count;
  if (config.scoring_func == Scoring::kSigmoid) {
    for (int64_t e = 0; e < count; ++e) score[e] = 1.0f / (1.0f + std::exp(-logits[e]));
  } else {
    // Against the largest, so that exp can't overflow.
    const float top = *std::max_element(logits, logits + count);
    float sum = 0.0f;
    for (int64_t e = 0; e < count; ++e) sum += score[e] = std::exp(logits[e] - top);
    for (int64_t e = 0; e < count; ++e) score[e] /= sum;
  }
  const bool biased = config.topk_method == GateMethod::kNoAuxTc;
  // The bias decides who is chosen, and never how much: weights come from `score`.
  for (int64_t e = 0; e < count; ++e) choice[e] = biased ? score[e] + bias[e] : score[e];
  if (config.topk_method != GateMethod::kGreedy && config.n_group > 1) MaskGroups(config, choice);

  float sum = 0.0f;
  for (int64_t slot = 0; slot < config.num_experts_per_tok; ++slot) {
    const float* best = std::max_element(choice, choice + count);  // the first of equals
    const int64_t expert = best - choice;
    experts[slot] = static_cast<int32_t>(expert);
    weights[slot] = score[expert];
    sum += score[expert];
    choice[expert] = kMasked;
  }
  const auto scale = static_cast<float>(config.routed_scaling_factor);
  for (int64_t slot = 0; slot < config.num_experts_per_tok; ++slot) {
    if (config.norm_topk_prob && config.num_experts_per_tok > 1) weights[slot] /= sum;
    weights[slot] *= scale;
  }
}

}  // namespace causeway
