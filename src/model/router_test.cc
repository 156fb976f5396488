#include "model/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;

struct Routed {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Routed RouteAll(const ModelConfig& config, const std::vector<float>& logits,
                const std::vector<float>& bias) {
  Routed out;
  out.experts.resize(static_cast<size_t>(config.num_experts_per_tok));
  out.weights.resize(out.experts.size());
  std::vector<float> scratch(2 * logits.size());
  Route(config, logits.data(), bias.empty() ? nullptr : bias.data(), out.experts.data(),
        out.weights.data(), scratch.data());
  return out;
}

ModelConfig Sigmoid(int64_t experts, int64_t active, int64_t groups, int64_t kept) {
  ModelConfig config;
  config.n_routed_experts = experts;
  config.num_experts_per_tok = active;
  config.n_group = groups;
  config.topk_group = kept;
  return config;
}

ModelConfig Softmax(int64_t experts, int64_t active, int64_t groups, int64_t kept) {
  ModelConfig config = Sigmoid(experts, active, groups, kept);
  config.scoring_func = Scoring::kSoftmax;
  config.topk_method = groups > 1 ? GateMethod::kGroupLimitedGreedy : GateMethod::kGreedy;
  config.norm_topk_prob = false;
  return config;
}

float SigmoidOf(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// The definition of docs/model.md with full sorts instead of selections. In f32, as the definition:
// where two sums are nearly equal, the rounding decides.
Routed Reference(const ModelConfig& config, const std::vector<float>& logits,
                 const std::vector<float>& bias) {
  const size_t count = logits.size();
  std::vector<float> score(count);
  float sum = 0.0f;
  for (const float logit : logits) sum += std::exp(logit);
  for (size_t e = 0; e < count; ++e) {
    score[e] =
        config.scoring_func == Scoring::kSigmoid ? SigmoidOf(logits[e]) : std::exp(logits[e]) / sum;
  }
  std::vector<float> choice = score;
  for (size_t e = 0; e < bias.size(); ++e) choice[e] += bias[e];
  const auto descending = [](std::vector<std::pair<float, size_t>>& list) {
    std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
  };
  const auto groups = static_cast<size_t>(config.n_group);
  const size_t size = count / groups;
  std::vector<std::pair<float, size_t>> ranked;
  for (size_t g = 0; g < groups; ++g) {
    std::vector<float> members(choice.begin() + static_cast<int64_t>(g * size),
                               choice.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(members.rbegin(), members.rend());
    const bool pair = config.topk_method == GateMethod::kNoAuxTc && size > 1;
    ranked.emplace_back(members[0] + (pair ? members[1] : 0.0f), g);
  }
  descending(ranked);
  std::vector<std::pair<float, size_t>> allowed;
  for (size_t i = 0; i < static_cast<size_t>(config.topk_group); ++i) {
    const size_t first = ranked[i].second * size;
    for (size_t e = first; e < first + size; ++e) allowed.emplace_back(choice[e], e);
  }
  descending(allowed);
  Routed out;
  float total = 0.0f;
  for (size_t slot = 0; slot < static_cast<size_t>(config.num_experts_per_tok); ++slot) {
    out.experts.push_back(static_cast<int32_t>(allowed[slot].second));
    total += score[allowed[slot].second];
  }
  for (const int32_t e : out.experts) {
    const float weight = score[static_cast<size_t>(e)] / (config.norm_topk_prob ? total : 1.0f);
    out.weights.push_back(weight * static_cast<float>(config.routed_scaling_factor));
  }
  return out;
}

// Logits and biases come from a few values, so that ties of experts and of groups are common.
TEST(Router, AgreesWithAFullSortForEveryMethodAndShapeTiesIncluded) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  int ties = 0;
  constexpr float kLogits[] = {-1.3f, -0.4f, 0.1f, 0.9f, 2.3f};
  for (int round = 0; round < 3000; ++round) {
    const int64_t size = 1 + static_cast<int64_t>(random() % 8);
    const int64_t groups = 1 + static_cast<int64_t>(random() % 8);
    const int64_t kept = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(groups));
    const int64_t active = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(kept * size));
    const bool sigmoid = random() % 2 == 0;
    ModelConfig config = sigmoid ? Sigmoid(size * groups, active, groups, kept)
                                 : Softmax(size * groups, active, groups, kept);
    config.norm_topk_prob = active > 1 && random() % 2 == 0;
    config.routed_scaling_factor = 2.5;
    std::vector<float> logits;
    std::vector<float> bias;
    for (int64_t e = 0; e < size * groups; ++e) {
      logits.push_back(kLogits[random() % 5]);
      if (sigmoid) bias.push_back(static_cast<float>(random() % 3) * -10.0f);
    }
    const Routed found = RouteAll(config, logits, bias);
    const Routed expected = Reference(config, logits, bias);
    ASSERT_EQ(found.experts, expected.experts)
        << size << " experts in each of " << groups << " groups, " << kept << " kept, " << active
        << " active, " << (sigmoid ? "sigmoid" : "softmax");
    for (size_t i = 0; i < found.weights.size(); ++i) {
      ASSERT_NEAR(found.weights[i], expected.weights[i], 1e-5);
      ties += i > 0 && found.weights[i] == found.weights[i - 1];
    }
  }
  EXPECT_GT(ties, 1000);  // else this test has lost its point
}

TEST(Router, EqualLogitsGoToTheLowestExpertsOfTheLowestGroups) {
  const Routed found =
      RouteAll(Sigmoid(16, 4, 4, 2), std::vector<float>(16, 0.3f), std::vector<float>(16, 0.0f));
  EXPECT_EQ(found.experts, (std::vector<int32_t>{0, 1, 2, 3}));
  for (const float weight : found.weights) EXPECT_FLOAT_EQ(weight, 0.25f);
}

TEST(Router, GroupsAreChosenByTheirTwoBestInV3AndByTheirBestInV2) {
  // Group 0 has the single best expert; group 1 the best pair.
  const std::vector<float> logits = {3.0f, -5.0f, 2.0f, 2.0f};
  EXPECT_EQ(RouteAll(Sigmoid(4, 2, 2, 1), logits, {0, 0, 0, 0}).experts,
            (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(RouteAll(Softmax(4, 2, 2, 1), logits, {}).experts, (std::vector<int32_t>{0, 1}));
}

TEST(Router, ExpertsOfOtherGroupsAreOutEvenIfEveryBiasedScoreIsNegative) {
  // Masked with 0 instead of -inf, experts 2 and 3 would win.
  const Routed found =
      RouteAll(Sigmoid(4, 2, 2, 1), {1.0f, 1.0f, -1.0f, -1.0f}, {-8.0f, -9.0f, -8.5f, -9.5f});
  EXPECT_EQ(found.experts, (std::vector<int32_t>{0, 1}));
}

TEST(Router, TheBiasChoosesButDoesNotWeigh) {
  ModelConfig config = Sigmoid(4, 2, 1, 1);
  config.norm_topk_prob = false;
  config.routed_scaling_factor = 2.0;
  const Routed found = RouteAll(config, {5.0f, 4.0f, -1.0f, 0.0f}, {0, 0, 7.0f, 3.0f});
  EXPECT_EQ(found.experts, (std::vector<int32_t>{2, 3}));
  EXPECT_FLOAT_EQ(found.weights[0], 2.0f * SigmoidOf(-1.0f));
  EXPECT_FLOAT_EQ(found.weights[1], 2.0f * SigmoidOf(0.0f));
}

TEST(Router, NormalisedWeightsAddUpToTheScalingFactor) {
  ModelConfig config = Sigmoid(8, 3, 1, 1);
  config.routed_scaling_factor = 2.5;
  const Routed found = RouteAll(config, {1, 2, 3, 4, -1, -2, -3, -4}, std::vector<float>(8, 0.0f));
  EXPECT_EQ(found.experts, (std::vector<int32_t>{3, 2, 1}));
  EXPECT_NEAR(found.weights[0] + found.weights[1] + found.weights[2], 2.5f, 1e-6f);
  EXPECT_NEAR(found.weights[0] / found.weights[2], SigmoidOf(4) / SigmoidOf(2), 1e-6f);
}

TEST(Router, SoftmaxWeightsAreProbabilitiesOverAllExpertsAtAnyMagnitude) {
  const Routed found = RouteAll(Softmax(4, 2, 1, 1), {1000.0f, 1001.0f, -500.0f, 999.0f}, {});
  EXPECT_EQ(found.experts, (std::vector<int32_t>{1, 0}));
  const double sum = 1.0 + std::exp(-1.0) + std::exp(-2.0);
  EXPECT_NEAR(found.weights[0], 1.0 / sum, 1e-6);
  EXPECT_NEAR(found.weights[1], std::exp(-1.0) / sum, 1e-6);
}

}  // namespace
}  // namespace causeway
