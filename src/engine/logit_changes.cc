#include "engine/logit_changes.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace causeway {
namespace {

// A penalty must not make a finite logit infinite, which would be an error of the model.
float Finite(double value) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kMost, kMost));
}

float Repeated(float logit, double penalty) {
  if (std::isinf(logit)) return logit;
  const double value = logit;
  return Finite(value > 0.0 ? value / penalty : value * penalty);
}

}  // namespace

LogitChanges::LogitChanges(const SamplingParams& sampling, const std::vector<int32_t>& prompt,
                           const std::vector<int32_t>& eos)
    : sampling_(sampling), stops_(sampling.stop_token_ids) {
  if (!sampling.ignore_eos) stops_.insert(stops_.end(), eos.begin(), eos.end());
  if (sampling.repetition_penalty != 1.0) {
    prompt_ = prompt;
    std::sort(prompt_.begin(), prompt_.end());
    prompt_.erase(std::unique(prompt_.begin(), prompt_.end()), prompt_.end());
  }
}

void LogitChanges::Take(int32_t token) {
  ++produced_;
  ++answer_[token];
}

bool LogitChanges::Ends(int32_t token) const {
  return std::find(stops_.begin(), stops_.end(), token) != stops_.end();
}

const float* LogitChanges::Apply(const float* logits, int64_t vocab,
                                 std::vector<float>& memory) const {
  const bool repetition = sampling_.repetition_penalty != 1.0;
  const bool counted = sampling_.frequency_penalty != 0.0 || sampling_.presence_penalty != 0.0;
  const bool unended = produced_ < sampling_.min_new_tokens && !stops_.empty();
  if (!repetition && !counted && !unended && sampling_.logit_bias.empty()) return logits;
  memory.assign(logits, logits + vocab);
  // Each token is changed by itself: the order in which they come is of no account.
  const auto change = [&](int32_t token, auto how) {
    if (token < 0 || token >= vocab) return;
    float& logit = memory[static_cast<size_t>(token)];
    if (!std::isinf(logit)) logit = how(logit);
  };
  if (repetition) {
    const auto penalise = [&](float logit) {
      return Repeated(logit, sampling_.repetition_penalty);
    };
    for (const int32_t token : prompt_) change(token, penalise);
    for (const auto& [token, count] : answer_) {
      if (!std::binary_search(prompt_.begin(), prompt_.end(), token)) change(token, penalise);
    }
  }
  if (counted) {
    for (const auto& [token, count] : answer_) {
      change(token, [&, times = static_cast<double>(count)](float logit) {
        return Finite(logit - sampling_.frequency_penalty * times - sampling_.presence_penalty);
      });
    }
  }
  for (const LogitBias& one : sampling_.logit_bias) {
    change(one.token, [&](float logit) { return Finite(logit + one.bias); });
  }
  if (unended) {
    for (const int32_t token : stops_) {
      if (token >= 0 && token < vocab) memory[static_cast<size_t>(token)] = -INFINITY;
    }
  }
  return memory.data();
}

}  // namespace causeway
