#include "model/scratch.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

constexpr int64_t kPrompt = 65536;
constexpr int64_t kChunk = 8192;
constexpr int64_t kMega = 1'000'000;

// The dimensions of DeepSeek V3, and of V3.2 with its indexer.
ModelConfig V3() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.first_k_dense_replace = 3;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  return c;
}

ModelConfig V32() {
  ModelConfig c = V3();
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.index_topk = 2048;
  return c;
}

// bench-mini-v3 and bench-mini-v32.
ModelConfig Mini(ModelConfig c) {
  c.vocab_size = 4096;
  c.hidden_size = 1024;
  c.intermediate_size = 2816;
  c.moe_intermediate_size = 512;
  c.num_hidden_layers = 4;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 16;
  c.q_lora_rank = 384;
  c.n_routed_experts = 32;
  if (c.index_n_heads > 0) c.index_n_heads = 16;
  return c;
}

int64_t Bound(const ModelConfig& config, const Layout& layout, int64_t chunk) {
  return PrefillScratchBound(config, layout, DType::kBf16, /*int8_index=*/false, kPrompt, chunk)
      .total();
}

TEST(Scratch, APromptOf64KOfTheRealModelsStaysBelow300MegabytesARankAtCp8) {
  EXPECT_LT(Bound(V32(), {.cp = 8}, kChunk), 300 * kMega);
  EXPECT_LT(Bound(V3(), {.cp = 8}, kChunk), 300 * kMega);
  EXPECT_LT(Bound(V3(), {.cp = 8, .threads_per_rank = 8}, kChunk), 330 * kMega);
}

TEST(Scratch, TheBenchmarkModelsStayBelow300MegabytesForEveryChunkSizeAndLayoutOfOneHost) {
  for (const ModelConfig& config : {Mini(V3()), Mini(V32())}) {
    for (int64_t chunk : {int64_t{512}, kChunk}) {
      for (const Layout& layout :
           {Layout{}, Layout{.cp = 2}, Layout{.tp = 2}, Layout{.cp = 2, .threads_per_rank = 2}}) {
        EXPECT_LT(Bound(config, layout, chunk), 300 * kMega) << layout.ToString() << " " << chunk;
      }
    }
    // The whole prompt at once: beside the residual stream of half of it.
    EXPECT_LT(Bound(config, {.cp = 2}, -1), 300 * kMega + kPrompt / 2 * config.hidden_size * 4);
  }
}

TEST(Scratch, OnlyTheResidualStreamGrowsWithTheRowsOfALongStep) {
  for (const ModelConfig& c : {V3(), V32(), Mini(V3()), Mini(V32())}) {
    for (DType type : {DType::kF32, DType::kBf16}) {
      const StepSize size{.rows = 16384, .most_rows = 16384, .keys = 32768, .logit_rows = 1};
      StepSize longer = size;
      longer.rows = longer.most_rows = 32768;
      EXPECT_EQ(ScratchBound(c, {.cp = 2}, type, longer).total() -
                    ScratchBound(c, {.cp = 2}, type, size).total(),
                16384 * c.hidden_size * 4);
    }
  }
}

TEST(Scratch, LongContextsAddOneHeadOfADenseModelAndNothingOfASparseOne) {
  const auto with_keys = [](const ModelConfig& c, int64_t keys) {
    return ScratchBound(c, {.cp = 8}, DType::kBf16,
                        {.rows = 1024, .most_rows = 1024, .keys = keys, .logit_rows = 1})
        .total();
  };
  EXPECT_EQ(with_keys(V32(), 1'000'000), with_keys(V32(), 7000));
  EXPECT_EQ(with_keys(V3(), 65536), with_keys(V3(), 2048));
  EXPECT_LT(with_keys(V3(), 1'000'000) - with_keys(V3(), 65536),
            1'000'000 * (192 + 128) * 2);  // keys and values of one head
}

TEST(Scratch, APassHasRowsOfEveryModelHoweverWideItIs) {
  ModelConfig wide = V32();
  wide.hidden_size = 1 << 20;
  wide.num_attention_heads = 1 << 14;
  const PassRows pass = PassRows::Of(wide, {.ep = 512, .hosts = 512}, DType::kF32);
  EXPECT_GE(pass.materialised, 1);
  EXPECT_GE(pass.absorb, 1);
  EXPECT_GE(pass.home, 1);
  EXPECT_GE(pass.travel, 1);
  EXPECT_EQ(PassRows::Of(Mini(V32()), {}, DType::kBf16).absorb, 256);
}

TEST(Scratch, AnEmptyStepNeedsLittleAndMoreOfAnythingNeverNeedsLess) {
  const ModelConfig c = V32();
  EXPECT_LT(ScratchBound(c, {}, DType::kBf16, {}).total(), 8 * kMega);
  int64_t last = 0;
  for (int64_t rows : {1, 2, 63, 64, 65, 511, 512, 513, 1000, 5000}) {
    const int64_t bytes =
        ScratchBound(c, {}, DType::kBf16, {.rows = rows, .most_rows = rows, .keys = rows}).total();
    EXPECT_GT(bytes, last) << rows;
    last = bytes;
  }
}

}  // namespace
}  // namespace causeway
