// ReceivedTokens: which tokens of which layers of a room have come.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "parallel/layout.h"

namespace causeway {

// One bit for each token of [tokens) in each layer.
class ReceivedTokens {
 public:
  ReceivedTokens() = default;
  ReceivedTokens(int64_t layers, Range tokens)
      : tokens_(tokens),
        layers_(layers),
        bits_(static_cast<size_t>(layers * std::max<int64_t>(tokens.size(), 0))) {}

  int64_t total() const { return static_cast<int64_t>(bits_.size()); }
  int64_t received() const { return received_; }
  bool complete() const { return received_ == total(); }
  bool Has(int64_t layer, int64_t token) const { return bits_[At(layer, token)]; }
  bool Fits(int64_t layer, Range run) const {
    return layer < layers_ && tokens_.begin <= run.begin && run.begin < run.end &&
           run.end <= tokens_.end;
  }

  // Notes a run that Fits; the first token that had come already, if one had.
  std::optional<int64_t> Add(int64_t layer, Range run) {
    CHECK(Fits(layer, run), layer, " ", run.begin, " ", run.end);
    for (int64_t t = run.begin; t < run.end; ++t) {
      if (bits_[At(layer, t)]) return t;
      bits_[At(layer, t)] = true;
      ++received_;
    }
    return std::nullopt;
  }
  // The first layer and token that is missing; there is one.
  std::pair<int64_t, int64_t> FirstMissing() const {
    int64_t i = 0;
    while (i < total() && bits_[static_cast<size_t>(i)]) ++i;
    CHECK(i < total(), i);
    return {i / tokens_.size(), tokens_.begin + i % tokens_.size()};
  }

 private:
  size_t At(int64_t layer, int64_t token) const {
    return static_cast<size_t>(layer * tokens_.size() + token - tokens_.begin);
  }

  Range tokens_;
  int64_t layers_ = 0;
  std::vector<bool> bits_;
  int64_t received_ = 0;
};

}  // namespace causeway
