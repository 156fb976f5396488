#include "model/weight_sizes.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

struct Model {
  std::string path;
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
};

Model Open(const std::string& fixture) {
  Model out;
  out.path = CAUSEWAY_SOURCE_DIR "/testdata/golden/" + fixture;
  auto config = ModelConfig::Load(out.path);
  EXPECT_TRUE(config.ok()) << config.status().message();
  out.config = *config;
  auto checkpoint = Checkpoint::Open(out.path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  out.checkpoint = std::move(*checkpoint);
  return out;
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
