#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace causeway {
namespace {

// The settings of the released V3 and V3.2.
ModelConfig Released() {
  ModelConfig config;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.rope_theta = 10000.0;
  config.yarn = {.enabled = true,
                 .factor = 40,
                 .original_max_position_embeddings = 4096,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .mscale = 1.0,
                 .mscale_all_dim = 1.0};
  return config;
}

ModelConfig Plain() {
  ModelConfig config = Released();
  config.yarn = YarnConfig();
  return config;
}

float CosAt(const RopeTable& table, int64_t position, int64_t pair) {
  return table.view().cos[position * table.view().rope_dim / 2 + pair];
}
float SinAt(const RopeTable& table, int64_t position, int64_t pair) {
  return table.view().sin[position * table.view().rope_dim / 2 + pair];
}

// Radians per position of a pair, read from the table (all are at most 1).
double FrequencyOf(const RopeTable& table, int64_t pair) {
  return std::atan2(SinAt(table, 1, pair), CosAt(table, 1, pair));
}

double PlainFrequency(int64_t pair) {
  return std::pow(10000.0, -2.0 * static_cast<double>(pair) / 64);
}

TEST(Rope, PlainPairsTurnByPowersOfTheta) {
  const RopeTable table(Plain(), 5000);
  EXPECT_EQ(table.positions(), 5000);
  EXPECT_EQ(table.view().rope_dim, 64);
  for (int64_t pair = 0; pair < 32; ++pair) {
    EXPECT_EQ(CosAt(table, 0, pair), 1.0f);
    EXPECT_EQ(SinAt(table, 0, pair), 0.0f);
    EXPECT_NEAR(FrequencyOf(table, pair) / PlainFrequency(pair), 1.0, 1e-6) << pair;
    for (int64_t position : {1, 17, 4999}) {
      const double angle = static_cast<double>(position) * PlainFrequency(pair);
      EXPECT_NEAR(CosAt(table, position, pair), std::cos(angle), 1e-6);
      EXPECT_NEAR(SinAt(table, position, pair), std::sin(angle), 1e-6);
    }
  }
}

TEST(Rope, YarnKeepsFastPairsDividesSlowOnesAndBlendsBetween10And23) {
  const RopeTable table(Released(), 2);
  for (int64_t pair = 0; pair < 32; ++pair) {
    const double plain = PlainFrequency(pair);
    double expected = plain;
    if (pair >= 23) {
      expected = plain / 40;
    } else if (pair > 10) {
      const double share = static_cast<double>(pair - 10) / 13;
      expected = plain / 40 * share + plain * (1 - share);
    }
    EXPECT_NEAR(FrequencyOf(table, pair) / expected, 1.0, 1e-6) << pair;
  }
}

TEST(Rope, FarPositionsAreRightToTheLastFloat) {
  constexpr int64_t kFar = 163839;  // the last one of the released models
  const RopeTable table(Released(), kFar + 1);
  const auto angle = static_cast<double>(kFar);  // pair 0 turns one radian a position
  EXPECT_EQ(CosAt(table, kFar, 0), static_cast<float>(std::cos(angle)));
  EXPECT_EQ(SinAt(table, kFar, 0), static_cast<float>(std::sin(angle)));
}

TEST(Rope, TablesAreScaledByTheQuotientOfBothMscales) {
  struct Case {
    double factor, mscale, all_dim, scale;
  };
  const double log40 = std::log(40.0);
  for (const Case& c :
       {Case{40, 1.0, 1.0, 1.0}, Case{40, 0.707, 0.707, 1.0}, Case{40, 1.0, 0.0, 1 + 0.1 * log40},
        Case{40, 1.0, 0.5, (1 + 0.1 * log40) / (1 + 0.05 * log40)}, Case{1, 1.0, 0.0, 1.0},
        Case{0.5, 1.0, 0.5, 1.0}}) {
    ModelConfig config = Released();
    config.yarn.factor = c.factor;
    config.yarn.mscale = c.mscale;
    config.yarn.mscale_all_dim = c.all_dim;
    const RopeTable table(config, 8);
    for (int64_t pair : {0, 15, 31}) {
      EXPECT_NEAR(std::hypot(CosAt(table, 7, pair), SinAt(table, 7, pair)), c.scale, 1e-6);
    }
  }
}

TEST(Rope, ABlendOfNoWidthIsAStepAndNotADivisionByZero) {
  ModelConfig config = Released();
  // Turns in the original context of the (real) pair index: low = floor(10.5), high = ceil(9.5).
  const auto turns = [](double pair) {
    return 4096 / (2 * std::numbers::pi * std::pow(10000.0, pair / 32));
  };
  config.yarn.beta_fast = turns(10.5);
  config.yarn.beta_slow = turns(9.5);
  const RopeTable table(config, 2);
  for (int64_t pair = 0; pair < 32; ++pair) {
    const double ratio = FrequencyOf(table, pair) / PlainFrequency(pair);
    EXPECT_NEAR(ratio, pair <= 10 ? 1.0 : 1.0 / 40, 1e-6) << pair;
  }
}

TEST(SoftmaxScale, IsThatOfTheReleasedModels) {
  EXPECT_NEAR(SoftmaxScale(Released()), 1.8738 / std::sqrt(192.0), 1e-5);
  EXPECT_FLOAT_EQ(SoftmaxScale(Plain()), static_cast<float>(1 / std::sqrt(192.0)));
}

TEST(SoftmaxScale, FollowsMscaleAllDimAlone) {
  ModelConfig config = Released();
  config.yarn.mscale_all_dim = 0.707;
  config.yarn.mscale = 123;
  const double m = 0.0707 * std::log(40.0) + 1;
  EXPECT_NEAR(SoftmaxScale(config), m * m / std::sqrt(192.0), 1e-6);
  config.yarn.mscale_all_dim = 0.0;
  EXPECT_FLOAT_EQ(SoftmaxScale(config), static_cast<float>(1 / std::sqrt(192.0)));
}

}  // namespace
}  // namespace causeway
