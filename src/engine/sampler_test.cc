#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace causeway {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
constexpr int64_t kDraws = 20000;

SamplingParams Params(double temperature) {
  SamplingParams params;
  params.temperature = temperature;
  return params;
}

StatusOr<TokenOutput> SampleAll(const std::vector<float>& logits, const SamplingParams& params,
                                int64_t position = 0) {
  const auto vocab = static_cast<int64_t>(logits.size());
  return Sample(logits.data(), vocab, vocab, params, position);
}

int32_t TokenOf(const std::vector<float>& logits, const SamplingParams& params,
                int64_t position = 0) {
  const auto out = SampleAll(logits, params, position);
  EXPECT_TRUE(out.ok()) << out.status().message();
  return out.ok() ? out->token : -1;
}

// How often each token comes at positions 0 .. kDraws - 1.
std::map<int32_t, int64_t> Histogram(const std::vector<float>& logits, SamplingParams params) {
  std::map<int32_t, int64_t> counts;
  for (int64_t position = 0; position < kDraws; ++position) {
    ++counts[TokenOf(logits, params, position)];
  }
  return counts;
}

std::set<int32_t> TokensSeen(const std::vector<float>& logits, const SamplingParams& params) {
  std::set<int32_t> seen;
  for (const auto& [token, count] : Histogram(logits, params)) seen.insert(token);
  return seen;
}

// Logits whose softmax is `probabilities`, up to a constant.
std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + 3.0));
  return logits;
}

// Pearson's statistic over the tokens of positive probability.
double ChiSquare(const std::map<int32_t, int64_t>& counts,
                 const std::vector<double>& probabilities) {
  double sum = 0.0;
  for (size_t t = 0; t < probabilities.size(); ++t) {
    const auto it = counts.find(static_cast<int32_t>(t));
    const double found = it == counts.end() ? 0.0 : static_cast<double>(it->second);
    const double expected = probabilities[t] * static_cast<double>(kDraws);
    sum += (found - expected) * (found - expected) / expected;
  }
  return sum;
}

const std::vector<double> kProbabilities = {0.05, 0.4, 0.2, 0.1, 0.25};

TEST(Sampler, GreedyTakesTheLargestLogitAndTheLowerIdOfEquals) {
  EXPECT_EQ(TokenOf({1, 5, 3, 5}, Params(0)), 1);
  EXPECT_EQ(TokenOf({-7, -7, -7}, Params(0)), 0);
  EXPECT_EQ(TokenOf({kMinusInf, kMinusInf, -1e30f}, Params(0)), 2);
  EXPECT_EQ(TokenOf({4}, Params(0)), 0);
}

TEST(Sampler, DrawsInProportionToTheSoftmaxOfTheLogitsOverTheTemperature) {
  // The 99.9 % quantile of chi-square with 4 degrees of freedom is 18.5.
  for (const uint64_t seed : {0u, 1u, 123456789u}) {
    for (const double temperature : {0.5, 1.0, 2.0}) {
      SamplingParams params = Params(temperature);
      params.seed = seed;
      std::vector<double> expected;
      double sum = 0.0;
      for (const double p : kProbabilities) {
        expected.push_back(std::pow(p, 1.0 / temperature));
        sum += expected.back();
      }
      for (double& p : expected) p /= sum;
      EXPECT_LT(ChiSquare(Histogram(LogitsOf(kProbabilities), params), expected), 18.5)
          << "seed " << seed << ", temperature " << temperature;
    }
  }
}

TEST(Sampler, ATruncatedDistributionIsRenormalised) {
  SamplingParams params = Params(1.0);
  params.top_k = 3;
  const auto counts = Histogram(LogitsOf(kProbabilities), params);
  EXPECT_EQ(counts.size(), 3u);
  // Two degrees of freedom: 13.8.
  std::map<int32_t, int64_t> kept = {{0, counts.at(1)}, {1, counts.at(4)}, {2, counts.at(2)}};
  EXPECT_LT(ChiSquare(kept, {0.4 / 0.85, 0.25 / 0.85, 0.2 / 0.85}), 13.8);
}

TEST(Sampler, CutsKeepExactlyWhatTheirDefinitionsSay) {
  struct Case {
    int64_t top_k;
    double top_p, min_p;
    std::set<int32_t> kept;
  };
  const std::set<int32_t> all = {0, 1, 2, 3, 4};
  for (const Case& c : {
           Case{-1, 1.0, 0.0, all},
           Case{0, 1.0, 0.0, all},
           Case{1, 1.0, 0.0, {1}},
           Case{2, 1.0, 0.0, {1, 4}},
           Case{5, 1.0, 0.0, all},
           Case{99, 1.0, 0.0, all},
           Case{-1, 0.3, 0.0, {1}},         // 0.4 alone reaches it
           Case{-1, 0.64, 0.0, {1, 4}},     // 0.65
           Case{-1, 0.66, 0.0, {1, 2, 4}},  // 0.85
           Case{-1, 1e-9, 0.0, {1}},
           Case{3, 0.75, 0.0, {1, 4}},  // of 0.85, renormalised: (0.4 + 0.25) / 0.85 = 0.765
           Case{-1, 1.0, 0.2, {1, 2, 3, 4}},
           Case{-1, 1.0, 0.3, {1, 2, 4}},
           Case{-1, 1.0, 1.0, {1}},
           Case{-1, 0.9, 0.55, {1, 4}},
       }) {
    SamplingParams params = Params(1.0);
    params.top_k = c.top_k;
    params.top_p = c.top_p;
    params.min_p = c.min_p;
    EXPECT_EQ(TokensSeen(LogitsOf(kProbabilities), params), c.kept)
        << "top_k " << c.top_k << ", top_p " << c.top_p << ", min_p " << c.min_p;
  }
}

TEST(Sampler, ATopPOfThousandsOfTokensKeepsExactlyTheMostLikely) {
  // 4096 tokens of one probability each 2^-13, behind one of 1/2: top_p 0.75 keeps 2048 of them.
  std::vector<float> logits(4097, 0.0f);
  logits[4000] = static_cast<float>(std::log(4096.0));
  SamplingParams params = Params(1.0);
  params.top_p = 0.75 - 1e-6;
  std::set<int32_t> seen;
  for (int64_t position = 0; position < 1000; ++position) {
    seen.insert(TokenOf(logits, params, position));
  }
  EXPECT_EQ(*seen.rbegin(), 4000);
  EXPECT_LT(*std::next(seen.rbegin()), 2048);
  EXPECT_GT(*std::next(seen.rbegin()), 2000);
}

TEST(Sampler, EqualTokensAtACutAreKeptByLowerId) {
  SamplingParams params = Params(1.0);
  params.top_k = 2;
  EXPECT_EQ(TokensSeen({0, 1, 1, 1, 0}, params), (std::set<int32_t>{1, 2}));
}

TEST(Sampler, TheTokenDependsOnSeedAndPositionAlone) {
  const std::vector<float> logits(1000, 0.0f);
  SamplingParams params = Params(1.0);
  std::set<int32_t> by_position;
  std::set<int32_t> by_seed;
  for (int64_t i = 0; i < 50; ++i) {
    params.seed = 7;
    const int32_t token = TokenOf(logits, params, i);
    EXPECT_EQ(TokenOf(logits, params, i), token);
    by_position.insert(token);
    params.seed = static_cast<uint64_t>(i);
    by_seed.insert(TokenOf(logits, params, 3));
  }
  EXPECT_GT(by_position.size(), 40u);
  EXPECT_GT(by_seed.size(), 40u);
}

TEST(Sampler, UniformNumbersAreDistinctAndEvenInTheUnitInterval) {
  double sum = 0.0;
  double squares = 0.0;
  std::set<double> values;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (int64_t position = 0; position < 100; ++position) {
      const double u = UniformAt(seed, position);
      ASSERT_GE(u, 0.0);
      ASSERT_LT(u, 1.0);
      sum += u;
      squares += u * u;
      values.insert(u);
    }
  }
  EXPECT_NEAR(sum / 1e4, 0.5, 0.01);
  EXPECT_NEAR(squares / 1e4, 1.0 / 3, 0.01);
  EXPECT_EQ(values.size(), 10000u);
}

TEST(Sampler, TinyAndHugeTemperaturesStayWithinTheirLimits) {
  EXPECT_EQ(TokensSeen({1.0f, 1.001f, 0.0f}, Params(1e-300)), (std::set<int32_t>{1}));
  const std::vector<double> even(3, 1.0 / 3);
  EXPECT_LT(ChiSquare(Histogram({100.0f, -100.0f, 0.0f}, Params(1e9)), even), 13.8);
}

TEST(Sampler, TokensOfProbabilityZeroAreNeverDrawn) {
  EXPECT_EQ(TokensSeen({kMinusInf, 0.0f, kMinusInf, 0.0f, kMinusInf}, Params(1.0)),
            (std::set<int32_t>{1, 3}));
  EXPECT_EQ(TokensSeen({0.0f, -1e30f, 0.0f}, Params(1.0)), (std::set<int32_t>{0, 2}));
}

TEST(Sampler, IdsFromTheVocabularyLimitOnAreNeverChosenNorListed) {
  const std::vector<float> logits = {0.0f, 1.0f, 9.0f, 9.0f};
  for (const double temperature : {0.0, 1.0}) {
    SamplingParams params = Params(temperature);
    params.logprobs = 10;
    for (int64_t position = 0; position < 200; ++position) {
      const auto out = Sample(logits.data(), 4, /*vocab_limit=*/2, params, position);
      ASSERT_TRUE(out.ok()) << out.status().message();
      EXPECT_LT(out->token, 2);
      ASSERT_EQ(out->top.size(), 2u);
      EXPECT_EQ(out->top[0].token, 1);
      EXPECT_EQ(out->top[1].token, 0);
    }
  }
}

TEST(Sampler, LogProbabilitiesAreTheModelsWhateverTheCuts) {
  SamplingParams params = Params(0.3);
  params.top_k = 2;
  params.min_p = 0.1;
  params.logprobs = 5;
  const auto out = SampleAll(LogitsOf(kProbabilities), params, 3);
  ASSERT_TRUE(out.ok());
  EXPECT_NEAR(out->logprob, std::log(kProbabilities[static_cast<size_t>(out->token)]), 1e-6);
  ASSERT_EQ(out->top.size(), 5u);
  double sum = 0.0;
  for (size_t i = 0; i < 5; ++i) {
    const TokenLogprob& top = out->top[i];
    EXPECT_NEAR(top.logprob, std::log(kProbabilities[static_cast<size_t>(top.token)]), 1e-6);
    EXPECT_LE(top.logprob, out->top[i == 0 ? 0 : i - 1].logprob);
    sum += std::exp(top.logprob);
  }
  EXPECT_NEAR(sum, 1.0, 1e-6);
}

TEST(Sampler, LogProbabilitiesComeAsManyAsAskedFor) {
  SamplingParams params = Params(0.0);
  const std::vector<float> logits = {1, 2, 3};
  EXPECT_EQ(SampleAll(logits, params)->top.size(), 0u);
  EXPECT_EQ(SampleAll(logits, params)->logprob, 0.0);
  params.logprobs = 0;
  EXPECT_EQ(SampleAll(logits, params)->top.size(), 0u);
  EXPECT_LT(SampleAll(logits, params)->logprob, 0.0);
  params.logprobs = 2;
  EXPECT_EQ(SampleAll(logits, params)->top.size(), 2u);
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnErrorWithTheirIdAndPosition) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    const auto found = SampleAll({1, 2, nan}, Params(temperature), 17);
    ASSERT_FALSE(found.ok());
    EXPECT_EQ(found.status().code(), StatusCode::kInternal);
    EXPECT_EQ(found.status().message(), "logit 2 at position 17 is NaN");
    EXPECT_EQ(SampleAll({-kMinusInf, 2}, Params(temperature), 17).status().message(),
              "logit 0 at position 17 is infinite");
    EXPECT_EQ(SampleAll({kMinusInf, kMinusInf}, Params(temperature), 17).status().message(),
              "no token can be chosen at position 17: of 2 logits none is above -inf");
  }
  const std::vector<float> good_beyond_the_limit = {kMinusInf, 1.0f};
  EXPECT_FALSE(Sample(good_beyond_the_limit.data(), 2, 1, Params(0.0), 0).ok());
  EXPECT_FALSE(Sample(good_beyond_the_limit.data(), 2, 0, Params(0.0), 0).ok());
}

}  // namespace
}  // namespace causeway
