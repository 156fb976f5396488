#include "model/cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace causeway {
namespace {

ModelConfig Dense() {
  ModelConfig c;
  c.vocab_size = 1000;
  c.hidden_size = 96;
  c.intermediate_size = 200;
  c.moe_intermediate_size = 40;
  c.num_hidden_layers = 5;
  c.first_k_dense_replace = 2;
  c.num_attention_heads = 6;
  c.q_lora_rank = 48;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 12;
  c.n_routed_experts = 10;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 3;
  return c;
}

ModelConfig Sparse() {
  ModelConfig c = Dense();
  c.index_n_heads = 2;
  c.index_head_dim = 24;
  c.index_topk = 30;
  return c;
}

ModelConfig PlainQueries() {
  ModelConfig c = Dense();
  c.q_lora_rank = 0;
  c.n_routed_experts = 0;
  return c;
}

// y = x W^T for one row.
double Linear(int64_t in, int64_t out) {
  return 2.0 * static_cast<double>(in) * static_cast<double>(out);
}

// One query over `keys` keys: scores of width `key` and a weighted sum of width `value`, each head.
double Attend(const ModelConfig& c, int64_t keys, int64_t key, int64_t value) {
  return static_cast<double>(c.num_attention_heads) * (Linear(keys, key) + Linear(keys, value));
}

// Matrix by matrix as in the table of tensors, layer by layer, token by token.
FlopCounts Count(const ModelConfig& c, int64_t begin, int64_t end, int64_t logit_rows,
                 bool as_computed) {
  FlopCounts out;
  const int64_t materialised_end = MaterialisedEnd(c);
  const int64_t heads = c.num_attention_heads;
  const int64_t query = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
      if (c.q_lora_rank > 0) {
        out.projections += Linear(c.hidden_size, c.q_lora_rank) + Linear(c.q_lora_rank, query);
      } else {
        out.projections += Linear(c.hidden_size, query);
      }
      out.projections += Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim);
      out.projections += Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim));
      out.projections += Linear(heads * c.v_head_dim, c.hidden_size);
      const double materialised =
          Attend(c, p + 1, c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim);
      if (c.index_topk > 0) {
        const double absorbed = Attend(c, std::min(p + 1, c.index_topk),
                                       c.kv_lora_rank + c.qk_rope_head_dim, c.kv_lora_rank);
        const double computed = p < materialised_end ? materialised : absorbed;
        out.attention += as_computed ? computed : std::min(materialised, absorbed);
        out.indexer += Linear(c.q_lora_rank, c.index_n_heads * c.index_head_dim) +
                       Linear(c.hidden_size, c.index_head_dim) +
                       Linear(c.hidden_size, c.index_n_heads);
        if (p + 1 > c.index_topk) {  // else all keys are chosen anyway
          out.indexer += Linear(p + 1, c.index_n_heads * c.index_head_dim);
        }
      } else {
        out.attention += materialised;
      }
      if (layer < c.first_k_dense_replace || c.n_routed_experts == 0) {
        out.feed_forward += 3 * Linear(c.hidden_size, c.intermediate_size);
      } else {
        out.feed_forward += Linear(c.hidden_size, c.n_routed_experts);
        for (int64_t e = 0; e < c.num_experts_per_tok + c.n_shared_experts; ++e) {
          out.feed_forward += 3 * Linear(c.hidden_size, c.moe_intermediate_size);
        }
      }
    }
  }
  for (int64_t row = 0; row < logit_rows; ++row) out.head += Linear(c.hidden_size, c.vocab_size);
  return out;
}

// Around index_topk = 30 and where the absorbed form of 30 keys becomes the cheaper one.
constexpr std::pair<int64_t, int64_t> kRanges[] = {{0, 0},   {0, 1},   {0, 29},    {29, 31},
                                                   {30, 31}, {5, 100}, {100, 101}, {90, 400}};

TEST(NecessaryFlops, EqualACountMatrixByMatrixAndKeyByKey) {
  for (const ModelConfig& config : {Dense(), Sparse(), PlainQueries()}) {
    for (const auto& [begin, end] : kRanges) {
      const FlopCounts found = NecessaryFlops(config, begin, end, 3);
      const FlopCounts expected = Count(config, begin, end, 3, /*as_computed=*/false);
      SCOPED_TRACE(Text("[", begin, ", ", end, "), top-k ", config.index_topk));
      EXPECT_DOUBLE_EQ(found.projections, expected.projections);
      EXPECT_DOUBLE_EQ(found.attention, expected.attention);
      EXPECT_DOUBLE_EQ(found.indexer, expected.indexer);
      EXPECT_DOUBLE_EQ(found.feed_forward, expected.feed_forward);
      EXPECT_DOUBLE_EQ(found.head, expected.head);
      EXPECT_DOUBLE_EQ(found.total(), expected.total());
    }
  }
}

TEST(NecessaryFlops, AddUpOverTheChunksOfAPrompt) {
  for (const ModelConfig& config : {Dense(), Sparse()}) {
    const double whole = NecessaryFlops(config, 0, 500, 1).total();
    const double chunks = NecessaryFlops(config, 0, 64, 0).total() +
                          NecessaryFlops(config, 64, 499, 0).total() +
                          NecessaryFlops(config, 499, 500, 1).total();
    EXPECT_NEAR(chunks / whole, 1.0, 1e-12);
  }
}

TEST(LeastSeconds, ProductsInInt8TakeItsPeakAndNoOthers) {
  const ModelConfig c = Sparse();
  const FlopCounts flops = NecessaryFlops(c, 0, 100, 1);
  const double layers = static_cast<double>(c.num_hidden_layers);
  // Rows 30 .. 99 score all their keys: 31 + ... + 100.
  const double scores = layers * 4585 * 2.0 * static_cast<double>(c.index_n_heads) *
                        static_cast<double>(c.index_head_dim);
  const double kv_b =
      layers * 100 *
      Linear(c.kv_lora_rank, c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim));
  const PeakFlops peak{.real = 2.0, .int8 = 8.0};
  const auto least = [&](bool weights, bool index) {
    return LeastSeconds(flops, peak, weights, index);
  };
  EXPECT_DOUBLE_EQ(least(false, false), flops.total() / 2);
  EXPECT_NEAR(least(false, true) / (flops.total() / 2 - scores * (1.0 / 2 - 1.0 / 8)), 1, 1e-12);
  const double weights = flops.projections + flops.feed_forward - kv_b;
  EXPECT_NEAR(least(true, true) / (flops.total() / 2 - (scores + weights) * (1.0 / 2 - 1.0 / 8)), 1,
              1e-12);
}

TEST(MaterialisedEnd, IsTheFirstPageBorderFromWhichOnAbsorbedHeadsAreCheaper) {
  EXPECT_EQ(MaterialisedEnd(Dense()), std::numeric_limits<int64_t>::max());
  ModelConfig c = Sparse();
  for (const int64_t topk : {64, 500, 2048}) {
    c.index_topk = topk;
    const int64_t end = MaterialisedEnd(c);
    EXPECT_EQ(end % 64, 0);
    const auto materialised = [&](int64_t p) { return Attend(c, p + 1, 16 + 8, 12); };
    const double absorbed = Attend(c, topk, 32 + 8, 32);
    EXPECT_LT(materialised(end - 65), absorbed) << topk;
    EXPECT_GE(materialised(end - 1), absorbed) << topk;
  }
}

TEST(PartitionCost, IsTheWeightedCountOfWhatTheEngineComputes) {
  ModelConfig int8 = Sparse();
  int8.quant_method = QuantMethod::kInt8;
  for (const ModelConfig& config : {Dense(), Sparse(), PlainQueries(), int8}) {
    const bool int8_index = config.quant_method == QuantMethod::kInt8;
    const double linear_weight = int8_index ? kInt8Weight : 1.0;
    const double index_weight = kIndexWeight * linear_weight;
    const TokenCost cost = PartitionCost(config, {.cp = 2, .hosts = 2}, int8_index);
    const int64_t form_end = MaterialisedEnd(config);
    for (const auto& [begin, end] : kRanges) {
      const FlopCounts count = Count(config, begin, end, 0, /*as_computed=*/true);
      double scores = 0;
      for (int64_t p = std::max(begin, config.index_topk); config.sparse() && p < end; ++p) {
        scores += 2.0 * static_cast<double>((p + 1) * config.num_hidden_layers *
                                            config.index_n_heads * config.index_head_dim);
      }
      const int64_t middle = std::clamp(form_end, begin, end);
      const double linear = count.projections + count.indexer - scores + count.feed_forward;
      const double expected =
          count.total() + (index_weight - 1.0) * scores + (linear_weight - 1.0) * linear +
          (kMaterialisedWeight - 1.0) * Count(config, begin, middle, 0, true).attention +
          (kAbsorbedWeight - 1.0) * Count(config, middle, end, 0, true).attention;
      EXPECT_NEAR(cost.Of(begin, end), expected, 1e-9 * expected)
          << "[" << begin << ", " << end << "), top-k " << config.index_topk;
    }
  }
}

}  // namespace
}  // namespace causeway
