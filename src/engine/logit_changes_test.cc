#include "engine/logit_changes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace causeway {
namespace {

std::vector<float> Applied(LogitChanges& changes, const std::vector<float>& logits) {
  std::vector<float> memory;
  const auto vocab = static_cast<int64_t>(logits.size());
  const StatusOr<const float*> applied = changes.Apply(logits.data(), vocab, memory);
  EXPECT_TRUE(applied.ok()) << applied.status().message();
  const float* out = *applied;
  return {out, out + vocab};
}

TEST(LogitChanges, NothingIsCopiedWhereNothingChanges) {
  const SamplingParams sampling;
  LogitChanges changes(sampling, {1, 2}, {0});
  ASSERT_TRUE(changes.Take(3).ok());
  const std::vector<float> logits = {1, 2, 3, 4};
  std::vector<float> memory;
  EXPECT_EQ(*changes.Apply(logits.data(), 4, memory), logits.data());
}

TEST(LogitChanges, FrequencyAndPresenceCountTheAnswerAndNotThePrompt) {
  SamplingParams sampling;
  sampling.frequency_penalty = 0.5;
  sampling.presence_penalty = 1.0;
  LogitChanges changes(sampling, {0, 0}, {});
  for (const int32_t token : {1, 2, 1}) ASSERT_TRUE(changes.Take(token).ok());
  EXPECT_EQ(Applied(changes, {5, 5, 5, 5}), (std::vector<float>{5, 3, 3.5, 5}));
}

TEST(LogitChanges, RepetitionCountsPromptAndAnswerOnceAndMovesEverySignDown) {
  SamplingParams sampling;
  sampling.repetition_penalty = 2.0;
  LogitChanges changes(sampling, {0, 1, 1}, {});
  for (const int32_t token : {1, 2, 2}) ASSERT_TRUE(changes.Take(token).ok());
  EXPECT_EQ(Applied(changes, {4, -4, 4, -4}), (std::vector<float>{2, -8, 2, -4}));
}

TEST(LogitChanges, TheOrderIsRepetitionThenCountsThenBias) {
  SamplingParams sampling;
  sampling.repetition_penalty = 2.0;
  sampling.frequency_penalty = 1.0;
  sampling.logit_bias = {{0, 10.0}, {2, -3.0}};
  LogitChanges changes(sampling, {}, {});
  ASSERT_TRUE(changes.Take(0).ok());
  // 8 / 2 - 1 + 10; any other order gives another number.
  EXPECT_EQ(Applied(changes, {8, 1, 1}), (std::vector<float>{13, 1, -2}));
}

TEST(LogitChanges, BeforeMinNewTokensNoTokenEndsTheAnswerWhateverItsBias) {
  SamplingParams sampling;
  sampling.min_new_tokens = 1;
  sampling.stop_token_ids = {2};
  sampling.logit_bias = {{2, 100.0}};
  LogitChanges changes(sampling, {}, {1});
  EXPECT_EQ(Applied(changes, {0, 0, 0}), (std::vector<float>{0, -INFINITY, -INFINITY}));
  ASSERT_TRUE(changes.Take(0).ok());
  EXPECT_EQ(Applied(changes, {0, 0, 0}), (std::vector<float>{0, 0, 100}));
  EXPECT_TRUE(changes.Ends(1));
  EXPECT_TRUE(changes.Ends(2));
  EXPECT_FALSE(changes.Ends(0));
}

TEST(LogitChanges, ExtremeValuesStayFiniteAndImpossibleTokensImpossible) {
  SamplingParams sampling;
  sampling.repetition_penalty = 1e-300;
  sampling.logit_bias = {{0, 100.0}, {1, 100.0}, {99, 1.0}, {-1, 1.0}};
  LogitChanges changes(sampling, {0, 1, 2, 1000}, {});
  const std::vector<float> out = Applied(changes, {3e38f, -INFINITY, -3e38f});
  EXPECT_TRUE(std::isfinite(out[0]));
  EXPECT_EQ(out[1], -INFINITY);
  EXPECT_TRUE(std::isfinite(out[2]));
}

TEST(LogitChanges, AreAFunctionOfTheTokensHoweverOftenTheyWereAskedFor) {
  SamplingParams sampling;
  sampling.repetition_penalty = 1.3;
  sampling.frequency_penalty = 0.7;
  sampling.presence_penalty = -0.2;
  sampling.logit_bias = {{3, 1.5}};
  const uint32_t seed = 7;
  std::mt19937 random(seed);
  std::vector<float> logits;
  for (int i = 0; i < 50; ++i)
    logits.push_back(static_cast<float>(random() % 1000) / 37.0f - 13.0f);
  LogitChanges asked(sampling, {1, 2, 3}, {0});
  std::vector<int32_t> answer;
  for (int i = 0; i < 200; ++i) {
    answer.push_back(static_cast<int32_t>(random() % 50));
    ASSERT_TRUE(asked.Take(answer.back()).ok());
    LogitChanges fresh(sampling, {3, 1, 2, 2}, {0});
    for (const int32_t token : answer) ASSERT_TRUE(fresh.Take(token).ok());
    ASSERT_EQ(Applied(asked, logits), Applied(fresh, logits)) << i << ", seed " << seed;
  }
}

}  // namespace
}  // namespace causeway
