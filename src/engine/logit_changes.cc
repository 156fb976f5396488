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
    : sampling_(sampling), stops_(sampling.stop_token_ids), eos_(eos) {
  if (sampling.grammar != nullptr) cursor_.emplace(sampling.grammar, sampling.grammar_after);
  if (!sampling.ignore_eos || cursor_) stops_.insert(stops_.end(), eos.begin(), eos.end());
  if (sampling.repetition_penalty != 1.0) {
    prompt_ = prompt;
    std::sort(prompt_.begin(), prompt_.end());
    prompt_.erase(std::unique(prompt_.begin(), prompt_.end()), prompt_.end());
  }
}

Status LogitChanges::Take(int32_t token) {
  ++produced_;
  ++answer_[token];
  // An end token is no text of the grammar.
  return cursor_ && !Ends(token) ? cursor_->Take(token) : Status();
}

bool LogitChanges::Ends(int32_t token) const {
  return std::find(stops_.begin(), stops_.end(), token) != stops_.end();
}

StatusOr<const float*> LogitChanges::Apply(const float* logits, int64_t vocab,
                                           std::vector<float>& memory) {
  const bool repetition = sampling_.repetition_penalty != 1.0;
  const bool counted = sampling_.frequency_penalty != 0.0 || sampling_.presence_penalty != 0.0;
  const bool unended = produced_ < sampling_.min_new_tokens && !stops_.empty();
  if (!repetition && !counted && !unended && sampling_.logit_bias.empty() && !cursor_) {
    return logits;
  }
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
  if (cursor_) CAUSEWAY_RETURN_IF_ERROR(cursor_->Mask(eos_, memory));
  if (unended) ForbidEnd(memory);
  return static_cast<const float*>(memory.data());
}

void LogitChanges::ForbidEnd(std::vector<float>& logits) const {
  std::vector<std::pair<size_t, float>> before;
  for (const int32_t token : stops_) {
    const auto at = static_cast<size_t>(token);
    if (token < 0 || at >= logits.size()) continue;
    before.emplace_back(at, logits[at]);
    logits[at] = -INFINITY;
  }
  const bool none =
      std::all_of(logits.begin(), logits.end(), [](float logit) { return logit == -INFINITY; });
  // A token that comes twice in the list got its logit back by its first entry, which is last here.
  if (!none) return;
  for (auto entry = before.rbegin(); entry != before.rend(); ++entry) {
    logits[entry->first] = entry->second;
  }
}

}  // namespace causeway
