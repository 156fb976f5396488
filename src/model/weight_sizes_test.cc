#include "model/weight_sizes.h"

#include <gtest/gtest.h>

#include "checkpoint/random_model.h"
#include "checkpoint/temporary_directory.h"
#include "model/cost.h"

namespace causeway {
namespace {

struct Model {
  std::string path;
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
};

Model OpenPath(const std::string& path) {
  Model out;
  out.path = path;
  auto config = ModelConfig::Load(out.path);
  EXPECT_TRUE(config.ok()) << config.status().message();
  out.config = *config;
  auto checkpoint = Checkpoint::Open(out.path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  out.checkpoint = std::move(*checkpoint);
  return out;
}

Model Open(const std::string& fixture) {
  return OpenPath(CAUSEWAY_SOURCE_DIR "/testdata/golden/" + fixture);
}

WeightSizes SizesOf(const Model& model, DType mode) {
  auto sizes = WeightSizes::Of(*model.checkpoint, model.config, mode);
  EXPECT_TRUE(sizes.ok()) << sizes.status().message();
  return *sizes;
}

const char* const kFixtures[] = {"v2-tiny-f32",  "v3-tiny-bf16",  "v3-tiny-int8",
                                 "v32-tiny-fp8", "v32-tiny-bf16", "v2-tiny-group-f32"};

TEST(WeightSizes, AHostPacksAsManyBytesAsIsSaidBeforehand) {
  for (const char* fixture : kFixtures) {
    for (DType mode : {DType::kBf16, DType::kF32}) {
      const Model model = Open(fixture);
      const WeightSizes sizes = SizesOf(model, mode);
      for (const LayoutFlags& flags : {LayoutFlags{}, LayoutFlags{.world = 2, .hosts = 2},
                                       LayoutFlags{.world = 4, .cp = 2, .ep = 4, .hosts = 2}}) {
        const Layout layout = *Layout::Make(flags);
        if (!CheckLayout(model.config, mode, layout).ok()) continue;
        for (int host = 0; host < layout.hosts; ++host) {
          const WeightShare share = WeightShare::Of(model.config, layout, host);
          const auto weights =
              Weights::Load(std::move(*Checkpoint::Open(model.path)), model.config, mode, share,
                            /*threads=*/1, nullptr);
          ASSERT_TRUE(weights.ok()) << weights.status().message();
          EXPECT_EQ(sizes.BytesOf(share).total(), (*weights)->packed_bytes())
              << fixture << ", " << NameOf(mode) << ", " << layout.ToString() << ", host " << host;
        }
      }
    }
  }
}

// Of a model whose matrices are as wide as their panels, so that nothing is padded.
TEST(NecessaryDecodeBytes, AreTheWeightsOfOneTokenAndTheKeysItSees) {
  std::string text = *PresetConfig("tiny-v32");
  const std::string heads = "\"index_n_heads\": 4";
  ASSERT_NE(text.find(heads), std::string::npos);
  text.replace(text.find(heads), heads.size(), "\"index_n_heads\": 16");
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/model";
  const Status made = WriteRandomModel(text, path, 1, RandomFormat::kBf16, nullptr);
  ASSERT_TRUE(made.ok()) << made.message();
  Model model = OpenPath(path);
  const ModelConfig& c = model.config;
  const WeightShare share = WeightShare::Of(c, Layout{}, 0);
  const WeightBytes bytes = SizesOf(model, DType::kBf16).BytesOf(share);
  const auto weights = Weights::Load(std::move(model.checkpoint), c, DType::kBf16, share,
                                     /*threads=*/1, nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  const KvShape shape{
      .layers = c.num_hidden_layers, .latent_dim = c.latent_dim(), .index_dim = c.index_head_dim};
  const auto of = [&](int64_t context, int64_t batch) {
    return NecessaryDecodeBytes(**weights, shape, context, batch);
  };
  const auto d = [](int64_t value) { return static_cast<double>(value); };

  // All but kv_b in its expanding form, and but the experts that are not chosen.
  const double expanding = d(c.num_hidden_layers * c.num_attention_heads *
                             (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank * 2);
  const double chosen = d(bytes.experts * c.num_experts_per_tok) / d(c.n_routed_experts);
  const int64_t far = c.index_topk + 100;
  EXPECT_DOUBLE_EQ(of(far, 1).weights, d(bytes.total() - bytes.experts) - expanding + chosen);
  // Many tokens choose all experts.
  EXPECT_NEAR(of(far, 1000).weights, d(bytes.total()) - expanding, 1e-6);
  EXPECT_DOUBLE_EQ(of(far, 3).keys,
                   d(3 * c.num_hidden_layers *
                     (c.index_topk * shape.latent_bytes() + far * shape.index_bytes())));
  // Few keys need no choice, and none of what makes it.
  EXPECT_DOUBLE_EQ(of(5, 1).keys, d(c.num_hidden_layers * 5 * shape.latent_bytes()));
  EXPECT_DOUBLE_EQ(of(far, 1).weights - of(5, 1).weights,
                   d(c.num_hidden_layers * c.index_n_heads *
                     (c.index_head_dim * c.q_lora_rank * 2 + c.hidden_size * 4)));
}

// What `ranks` use of a part that they cut among themselves adds up to what their host packs.
TEST(WeightSizes, WhatTheRanksOfAHostCutAddsUpToWhatItPacks) {
  for (const char* fixture : kFixtures) {
    const Model model = Open(fixture);
    const WeightSizes sizes = SizesOf(model, DType::kBf16);
    for (const LayoutFlags& flags :
         {LayoutFlags{}, LayoutFlags{.world = 8}, LayoutFlags{.world = 8, .cp = 2, .ep = 8},
          LayoutFlags{.world = 12, .cp = 3, .ep = 4}, LayoutFlags{.world = 8, .cp = 4, .ep = 2}}) {
      const Layout layout = *Layout::Make(flags);
      if (!CheckLayout(model.config, DType::kBf16, layout).ok()) continue;
      const WeightBytes host = sizes.BytesOf(WeightShare::Of(model.config, layout, 0));
      WeightBytes sum;
      for (int rank = 0; rank < layout.world(); ++rank) {
        const WeightBytes one =
            sizes.BytesOf(WeightShare::OfRank(model.config, layout, rank),
                          WeightShare::Of(model.config, layout, layout.HostOf(rank)));
        EXPECT_EQ(one.shared, host.shared);
        EXPECT_LE(one.attention, host.attention);
        sum.attention += one.attention;
        sum.dense += one.dense;
        sum.experts += one.experts;
        sum.vocabulary += one.vocabulary;
      }
      EXPECT_EQ(sum.dense, host.dense * layout.cp * layout.dp) << layout.ToString();
      EXPECT_EQ(sum.experts, host.experts * layout.expert_copies()) << layout.ToString();
      EXPECT_EQ(sum.vocabulary, host.vocabulary) << layout.ToString();
      if (layout.tp == 1) {
        EXPECT_EQ(sum.attention, host.attention * layout.world());
      } else {
        EXPECT_LT(sum.attention, host.attention * layout.world());
      }
    }
  }
}

}  // namespace
}  // namespace causeway
