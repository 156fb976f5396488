// YaRN as in DeepSeek's modelling code: frequencies between a plain and a stretched form by a
// linear ramp over the pairs, and a factor on the softmax scale. Tables are made in double and
// rounded once.
#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace causeway {
namespace {

// How much attention's logits grow with the context (YaRN, 0.1 ln s + 1).
double YarnMscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// Angle per position of each pair.
std::vector<double> InverseFrequencies(const ModelConfig& config) {
  const auto dim = static_cast<double>(config.qk_rope_head_dim);
  const YarnConfig& yarn = config.yarn;
  std::vector<double> frequencies;
  // The (real) pair index whose wave makes `turns` turns in the original context.
  const auto pair_of = [&](double turns) {
    return dim * std::log(yarn.original_max_position_embeddings / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(pair_of(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_of(yarn.beta_slow)), dim - 1);
  // Without it the ramp would divide by zero.
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < config.qk_rope_head_dim / 2; ++i) {
    const auto pair = static_cast<double>(i);
    const double plain = std::pow(config.rope_theta, -2.0 * pair / dim);
    if (!yarn.enabled) {
      frequencies.push_back(plain);
      continue;
    }
    // 0 for pairs that turn fast and keep their frequency, 1 for those that are stretched.
    const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
    frequencies.push_back(plain / yarn.factor * ramp + plain * (1.0 - ramp));
  }
  return frequencies;
}

}  // namespace

RopeTable::RopeTable(const ModelConfig& config, int64_t positions)
    : rope_dim_(config.qk_rope_head_dim),
      positions_(positions),
      cos_(positions * config.qk_rope_head_dim / 2 * 4),
      sin_(positions * config.qk_rope_head_dim / 2 * 4) {
  const std::vector<double> frequencies = InverseFrequencies(config);
  const YarnConfig& yarn = config.yarn;
  const double factor = yarn.enabled ? YarnMscale(yarn.factor, yarn.mscale) /
                                           YarnMscale(yarn.factor, yarn.mscale_all_dim)
                                     : 1.0;
  auto* cos = cos_.as<float>();
  auto* sin = sin_.as<float>();
  // [positions, rope_dim / 2] each, position by position.
  for (int64_t p = 0; p < positions; ++p) {
    for (double frequency : frequencies) {
      const double angle = static_cast<double>(p) * frequency;
      *cos++ = static_cast<float>(std::cos(angle) * factor);
      *sin++ = static_cast<float>(std::sin(angle) * factor);
    }
  }
}

float SoftmaxScale(const ModelConfig& config) {
  double scale = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  // Squared, since it is on queries and on keys.
  if (config.yarn.enabled && config.yarn.mscale_all_dim != 0.0) {
    const double mscale = YarnMscale(config.yarn.factor, config.yarn.mscale_all_dim);
    scale *= mscale * mscale;
  }
  return static_cast<float>(scale);
}

}  // namespace causeway
