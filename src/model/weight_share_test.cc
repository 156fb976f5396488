// Which part of a model a host holds, over all layouts of small worlds.
#include <gtest/gtest.h>

#include "model/weights.h"

namespace causeway {
namespace {

// Shapes with odd numbers where they are free.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 600;
  config.hidden_size = 160;
  config.intermediate_size = 256;
  config.moe_intermediate_size = 24;
  config.num_hidden_layers = 3;
  config.first_k_dense_replace = 1;
  config.num_attention_heads = 8;
  config.q_lora_rank = 96;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 24;
  config.n_routed_experts = 13;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 4;
  return config;
}

std::vector<Layout> LayoutsOf(const ModelConfig& config, int most) {
  std::vector<Layout> out;
  for (int world = 1; world <= most; ++world) {
    for (int cp = 1; cp <= world; ++cp) {
      for (int dp = 1; cp * dp <= world; ++dp) {
        for (int ep = 1; ep <= world; ++ep) {
          for (int hosts = 1; hosts <= world; ++hosts) {
            const auto layout =
                Layout::Make({.world = world, .cp = cp, .dp = dp, .ep = ep, .hosts = hosts});
            if (layout.ok() && CheckLayout(config, DType::kBf16, *layout).ok()) {
              out.push_back(*layout);
            }
          }
        }
      }
    }
  }
  return out;
}

// How often each of `total` items is in one of the ranges.
std::vector<int> Counts(int64_t total, const std::vector<Range>& ranges) {
  std::vector<int> counts(static_cast<size_t>(total), 0);
  for (const Range& range : ranges) {
    EXPECT_TRUE(0 <= range.begin && range.begin <= range.end && range.end <= total);
    for (int64_t i = range.begin; i < range.end; ++i) ++counts[static_cast<size_t>(i)];
  }
  return counts;
}

TEST(WeightShare, OneHostHoldsEverything) {
  const ModelConfig config = SmallConfig();
  for (const Layout& layout : LayoutsOf(config, 12)) {
    if (layout.hosts > 1) continue;
    const WeightShare share = WeightShare::Of(config, layout, 0);
    EXPECT_EQ(share.heads, (Range{0, 8}));
    EXPECT_EQ(share.inner, (Range{0, 256}));
    EXPECT_EQ(share.head_panels, (Range{0, (600 + kPanel - 1) / kPanel}));
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      EXPECT_EQ(share.experts[static_cast<size_t>(layer)],
                std::vector<bool>(config.IsMoe(layer) ? 13 : 0, true));
    }
  }
}

TEST(WeightShare, TheHostsOfATpGroupHoldEveryHeadAndColumnOnce) {
  const ModelConfig config = SmallConfig();
  for (const Layout& layout : LayoutsOf(config, 16)) {
    const int hosts_of_group = std::max(1, layout.tp / layout.ranks_per_host());
    for (int first = 0; first < layout.hosts; first += hosts_of_group) {
      std::vector<Range> heads;
      std::vector<Range> inner;
      for (int host = first; host < first + hosts_of_group; ++host) {
        const WeightShare share = WeightShare::Of(config, layout, host);
        heads.push_back(share.heads);
        inner.push_back(share.inner);
      }
      ASSERT_EQ(Counts(8, heads), std::vector<int>(8, 1)) << layout.ToString();
      ASSERT_EQ(Counts(256, inner), std::vector<int>(256, 1)) << layout.ToString();
    }
  }
}

TEST(WeightShare, AllHostsTogetherHoldTheHeadOfTheVocabularyOnce) {
  const ModelConfig config = SmallConfig();
  const int64_t panels = (config.vocab_size + kPanel - 1) / kPanel;
  for (const Layout& layout : LayoutsOf(config, 16)) {
    std::vector<Range> shares;
    for (int host = 0; host < layout.hosts; ++host) {
      shares.push_back(WeightShare::Of(config, layout, host).head_panels);
    }
    ASSERT_EQ(Counts(panels, shares), std::vector<int>(static_cast<size_t>(panels), 1))
        << layout.ToString();
  }
}

TEST(WeightShare, AHostHoldsWhatItsRanksNeedAndNoMore) {
  const ModelConfig config = SmallConfig();
  for (const Layout& layout : LayoutsOf(config, 16)) {
    std::vector<WeightShare> shares;
    std::vector<std::vector<std::vector<bool>>> experts;  // by host, from what each rank holds
    for (int host = 0; host < layout.hosts; ++host) {
      shares.push_back(WeightShare::Of(config, layout, host));
      experts.emplace_back(shares.back().experts.size());
    }
    for (int rank = 0; rank < layout.world(); ++rank) {
      const auto host = static_cast<size_t>(layout.HostOf(rank));
      const WeightShare mine = WeightShare::OfRank(config, layout, rank);
      const auto within = [](const Range& inner, const Range& outer) {
        return outer.begin <= inner.begin && inner.end <= outer.end;
      };
      ASSERT_TRUE(within(mine.heads, shares[host].heads)) << layout.ToString();
      ASSERT_TRUE(within(mine.inner, shares[host].inner)) << layout.ToString();
      ASSERT_TRUE(within(mine.head_panels, shares[host].head_panels)) << layout.ToString();
      for (size_t layer = 0; layer < mine.experts.size(); ++layer) {
        std::vector<bool>& held = experts[host][layer];
        held.resize(mine.experts[layer].size());
        for (size_t e = 0; e < held.size(); ++e) held[e] = held[e] || mine.experts[layer][e];
      }
    }
    for (size_t host = 0; host < shares.size(); ++host) {
      ASSERT_EQ(shares[host].experts, experts[host]) << layout.ToString() << ", host " << host;
    }
  }
}

TEST(WeightShare, EveryExpertIsHeldByAsManyRanksAsTheLayoutSays) {
  const ModelConfig config = SmallConfig();
  for (const Layout& layout : LayoutsOf(config, 16)) {
    std::vector<Range> parts;
    for (int rank = 0; rank < layout.world(); ++rank) {
      parts.push_back(ShareOf(13, layout.ExpertPartOf(rank), layout.ep));
    }
    ASSERT_EQ(Counts(13, parts), std::vector<int>(13, layout.expert_copies())) << layout.ToString();
  }
}

Layout TensorParallel(int tp) {
  Layout layout;
  layout.tp = tp;
  return layout;
}

// The sizes after "legal...: " of an error.
std::string LegalSizesOf(const Status& status) {
  const size_t at = status.message().rfind(": ");
  return at == std::string::npos ? "" : status.message().substr(at + 2);
}

TEST(CheckLayout, NamesTheHeadsThatAttentionTpMustDivide) {
  ModelConfig config = SmallConfig();
  config.num_attention_heads = 12;
  EXPECT_TRUE(CheckLayout(config, DType::kBf16, TensorParallel(4)).ok());
  const Status status = CheckLayout(config, DType::kBf16, TensorParallel(8));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.message(),
            "attention TP is 8 and num_attention_heads 12: it must divide them evenly; legal: "
            "1, 2, 4");
}

TEST(CheckLayout, TheSizesThatAnErrorCallsLegalAreAndNoOthers) {
  for (int64_t heads : {1, 3, 4, 6, 8, 16, 24, 32, 128}) {
    for (int64_t inner : {64, 96, 200, 256, 1000, 2048, 18432}) {
      for (DType mode : {DType::kF32, DType::kBf16, DType::kI8}) {
        ModelConfig config = SmallConfig();
        if (mode == DType::kI8) {  // int8 weights run in bf16 mode
          mode = DType::kBf16;
          config.quant_method = QuantMethod::kInt8;
        }
        config.num_attention_heads = heads;
        config.intermediate_size = inner;
        std::string legal;
        std::vector<Status> errors;
        for (int tp = 1; tp <= 32; tp *= 2) {
          const Status status = CheckLayout(config, mode, TensorParallel(tp));
          if (status.ok()) {
            legal += Text(legal.empty() ? "" : ", ", tp);
          } else {
            errors.push_back(status);
          }
        }
        EXPECT_EQ(legal[0], '1') << "one rank is always legal";
        // An error knows the rule that was broken first, so that its list may only be too long.
        for (const Status& error : errors) {
          EXPECT_TRUE(LegalSizesOf(error).starts_with(legal)) << error.message() << "; " << legal;
        }
      }
    }
  }
}

TEST(CheckLayout, OnlyInt8WeightsAreCutInGroupsOfFour) {
  ModelConfig config = SmallConfig();
  config.intermediate_size = 200;
  EXPECT_TRUE(CheckLayout(config, DType::kBf16, TensorParallel(4)).ok());
  config.quant_method = QuantMethod::kInt8;
  EXPECT_FALSE(CheckLayout(config, DType::kBf16, TensorParallel(4)).ok());
  EXPECT_TRUE(CheckLayout(config, DType::kBf16, TensorParallel(2)).ok());
  EXPECT_TRUE(CheckLayout(config, DType::kF32, TensorParallel(4)).ok());  // dequantised
}

TEST(CheckLayout, AModelWithoutDenseLayersMayHaveAnyIntermediateSize) {
  ModelConfig config = SmallConfig();
  config.intermediate_size = 251;
  config.first_k_dense_replace = 0;
  EXPECT_TRUE(CheckLayout(config, DType::kBf16, TensorParallel(8)).ok());
  config.first_k_dense_replace = 1;
  const Status status = CheckLayout(config, DType::kBf16, TensorParallel(8));
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("251 inner columns of the dense layers' down_proj"),
            std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace causeway
