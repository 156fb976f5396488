// Pure functions of a batch: every rank and every host computes the same from it.
#include "model/batch.h"

namespace causeway {

int64_t Batch::tokens() const {
  int64_t total = 0;
  for (const Extend& extend : extends) total += extend.end() - extend.begin;
  return total;
}

std::vector<ExtendRange> Batch::RangesOf(int dp) const {
  std::vector<ExtendRange> ranges;
  for (const Extend& extend : extends) {
    // Other groups' extends stay as empty ranges, so that indices of extends mean the same
    // everywhere.
    ranges.push_back({extend.begin, extend.dp == dp ? extend.end() : extend.begin});
  }
  return ranges;
}

StepSlices SlicesOf(const Batch& batch, const Layout& layout, const TokenCost& cost) {
  StepSlices slices(static_cast<size_t>(layout.world()));
  for (int dp = 0; dp < layout.dp; ++dp) {
    // All tp ranks of a cp rank have its slices: they share the work within each token.
    const auto of_group = Partition(layout.partition, layout.cp, cost, batch.RangesOf(dp));
    for (int cp = 0; cp < layout.cp; ++cp) {
      for (int tp = 0; tp < layout.tp; ++tp) {
        slices[static_cast<size_t>(layout.RankAt({dp, cp, tp}))] =
            of_group[static_cast<size_t>(cp)];
      }
    }
  }
  return slices;
}

bool WorkTogether(const Layout& layout, const Batch& batch, const std::vector<Slice>& slices) {
  if (!layout.tp_shares_memory()) return false;
  int64_t rows = 0;
  for (const Slice& slice : slices) {
    if (!batch.extends[static_cast<size_t>(slice.extend)].decode) return false;
    rows += slice.end - slice.begin;
  }
  return rows > 0 && rows <= kTogetherRows;
}

Capture::Capture(const ModelConfig& config, int64_t tokens) {
  const auto sized = [&](int64_t width) { return static_cast<size_t>(tokens * width); };
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  hidden.assign(layers + 1, std::vector<float>(sized(config.hidden_size)));
  router_indices.resize(layers);
  router_weights.resize(layers);
  topk_indices.resize(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    if (config.IsMoe(static_cast<int64_t>(layer))) {
      router_indices[layer].resize(sized(config.num_experts_per_tok));
      router_weights[layer].resize(sized(config.num_experts_per_tok));
    }
    // -1 stands for "no key", where a token has fewer keys than index_topk.
    if (config.sparse()) topk_indices[layer].assign(sized(config.index_topk), -1);
  }
}

StepOutput::StepOutput(const ModelConfig& config, DType hidden_type, const Batch& batch,
                       Capture* capture)
    : capture_(capture) {
  int64_t rows = 0;
  int64_t tokens = 0;
  for (const Extend& extend : batch.extends) {
    const int64_t length = extend.end() - extend.begin;
    first_row_.push_back(rows);
    first_token_.push_back(tokens);
    // Rows of logits are given out in the order of the extends: none, one, or one a token.
    tokens += length;
    if (extend.logits == LogitsWanted::kAll) rows += length;
    if (extend.logits == LogitsWanted::kLast && length > 0) rows += 1;
  }
  hidden_memory_ = Buffer(rows * config.hidden_size * SizeOf(hidden_type));
  logits_memory_ = Buffer(rows * config.vocab_size * 4);
  hidden_ = Rows::Dense(hidden_memory_.data(), hidden_type, rows, config.hidden_size);
  logits_ = View<float, 2>(logits_memory_.as<float>(), {rows, config.vocab_size});
}

int64_t StepOutput::RowOf(const Batch& batch, int32_t extend, int64_t position) const {
  const Extend& e = batch.extends[static_cast<size_t>(extend)];
  const int64_t first = first_row_[static_cast<size_t>(extend)];
  if (e.logits == LogitsWanted::kAll) return first + position - e.begin;
  if (e.logits == LogitsWanted::kLast && position + 1 == e.end()) return first;
  return -1;
}

int64_t StepOutput::TokenOf(const Batch& batch, int32_t extend, int64_t position) const {
  return first_token_[static_cast<size_t>(extend)] + position -
         batch.extends[static_cast<size_t>(extend)].begin;
}

}  // namespace causeway
