// What ranks read of each other, counted while they do, against what theory says of the layout.
#include "model/volume.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>

#include "engine/layout_matrix.h"

namespace causeway {
namespace {

struct Case {
  const char* fixture;
  DType dtype;
  int64_t redundant = 0;
  bool int8_index = false;
  bool int8_kv = false;
};

class Volumes : public testing::TestWithParam<Case> {};

// Tokens [begin(i), end(i)) of each prompt in one step; the prompts' groups take turns.
template <typename Bound>
Batch BatchOf(const std::vector<std::vector<int32_t>>& prompts,
              const std::vector<std::unique_ptr<SequenceRun>>& runs, int dp, bool second,
              Bound middle) {
  Batch batch;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<int64_t>(prompts[i].size());
    const int64_t begin = second ? middle(length) : 0;
    const int64_t end = second ? length : middle(length);
    if (begin == end) continue;
    batch.extends.push_back({.tokens = {prompts[i].begin() + begin, prompts[i].begin() + end},
                             .begin = begin,
                             .decode = second && end - begin == 1,
                             .pages = runs[i]->pages(),
                             .logits = LogitsWanted(i % 3),
                             .dp = static_cast<int32_t>(i) % dp});
  }
  return batch;
}

TEST_P(Volumes, AreWhatTheLayoutAndTheChosenExpertsPredict) {
  HostOptions options;
  options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam().fixture);
  options.dtype = GetParam().dtype;
  options.int8_index = GetParam().int8_index;
  options.int8_kv = GetParam().int8_kv;
  options.context_length = 256;
  options.max_total_tokens = 2048;
  options.redundant.per_layer = GetParam().redundant;
  options.ranks.layout.cp = options.ranks.layout.ep = 2;
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  const ModelConfig& config = (*host)->config();
  const VolumeTypes types = VolumeTypes::Of((*host)->weights(), (*host)->cache().shape());
  EXPECT_EQ(types.int8, config.quant_method == QuantMethod::kInt8);
  const auto prompts = MatrixPrompts(config.vocab_size);
  std::vector<std::unique_ptr<SequenceRun>> runs;
  for (const auto& prompt : prompts) {
    auto run = SequenceRun::Make(**host, static_cast<int64_t>(prompt.size()));
    ASSERT_TRUE(run.ok()) << run.status().message();
    runs.push_back(std::move(run).value());
  }
  const auto cases = SampleCases(LayoutCases(config, GetParam().dtype, 8, 1), 24, /*seed=*/11);
  double bytes = 0;
  for (const LayoutCase& one : cases) {
    SCOPED_TRACE(one.ToString());
    (*host)->SetLayout(one.layout);
    const ExpertPlacement placement(config, one.layout, options.redundant);
    for (const bool second : {false, true}) {
      const Batch batch = BatchOf(prompts, runs, one.layout.dp, second,
                                  [](int64_t length) { return length - length / 2; });
      Capture capture(config, batch.tokens());
      StepOutput output(config, GetParam().dtype, batch, &capture);
      ASSERT_TRUE((*host)->ranks().ClearTraces().ok());
      const Status status = (*host)->ranks().RunStep(batch, output);
      ASSERT_TRUE(status.ok()) << status.message();
      std::map<std::string, double> counted;
      for (const ReadCounts* rank : (*host)->ranks().reads()) {
        for (const ReadCounts::Sum& sum : rank->sums()) {
          counted[sum.operation] += static_cast<double>(sum.bytes);
        }
      }
      std::erase_if(counted, [](const auto& entry) { return entry.second == 0; });
      std::map<std::string, double> predicted;
      for (const Volume& volume :
           PredictVolumes(config, types, one.layout, placement, batch,
                          (*host)->ranks().last_partition(), &capture.router_indices)) {
        predicted[volume.operation] = volume.bytes;
        bytes += volume.bytes;
      }
      EXPECT_EQ(counted, predicted);
    }
  }
  EXPECT_GT(bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Volumes,
    testing::Values(Case{"v3-tiny-bf16", DType::kBf16}, Case{"v3-tiny-int8", DType::kBf16, 3},
                    Case{"v32-tiny-bf16", DType::kBf16}, Case{"v32-tiny-fp8", DType::kF32, 12},
                    Case{"v32-tiny-bf16", DType::kBf16, 0, true},
                    Case{"v32-tiny-bf16", DType::kBf16, 0, false, true}),
    [](const testing::TestParamInfo<Case>& info) {
      std::string name =
          Text(info.param.fixture, "_", NameOf(info.param.dtype),
               info.param.int8_index ? "_int8_index" : "", info.param.int8_kv ? "_int8_kv" : "");
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// Every choice that a gate of 12 experts can make, one by one.
TEST(VolumeTheory, TheChanceOfNoExpertInARangeIsThatOfAllChoicesCounted) {
  for (const int64_t groups : {1, 2, 3, 4}) {
    for (int64_t chosen = 1; chosen <= groups; ++chosen) {
      ModelConfig config;
      config.n_routed_experts = 12;
      config.num_experts_per_tok = 3;
      config.n_group = groups;
      config.topk_group = chosen;
      config.topk_method = GateMethod::kNoAuxTc;
      const uint32_t group_size = static_cast<uint32_t>(12 / groups);
      for (const Range range : {Range{0, 12}, {0, 6}, {3, 6}, {5, 11}, {4, 4}, {11, 12}}) {
        std::vector<bool> in_range(12);
        std::fill(in_range.begin() + range.begin, in_range.begin() + range.end, true);
        int64_t all = 0;
        int64_t none = 0;
        for (uint32_t of_groups = 0; of_groups < 1u << groups; ++of_groups) {
          if (std::popcount(of_groups) != chosen) continue;
          for (uint32_t experts = 0; experts < 1u << 12; ++experts) {
            if (std::popcount(experts) != 3) continue;
            bool legal = true;
            bool inside = false;
            for (uint32_t e = 0; e < 12; ++e) {
              if ((experts >> e & 1) == 0) continue;
              legal = legal && (of_groups >> (e / group_size) & 1) != 0;
              inside = inside || range.Contains(e);
            }
            if (!legal) continue;
            ++all;
            if (!inside) ++none;
          }
        }
        EXPECT_NEAR(ChanceOfNone(config, in_range),
                    static_cast<double>(none) / static_cast<double>(all), 1e-12)
            << groups << " groups, " << chosen << " chosen, [" << range.begin << ", " << range.end
            << ")";
      }
    }
  }
}

// The textbook formulas, by hand: one sequence of 64 tokens over 4 ranks.
TEST(VolumeTheory, AnAllReduceAndAKeyExchangeAreTheTextbooksOnes) {
  ModelConfig config;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 2;
  config.hidden_size = 7168;
  config.kv_lora_rank = 512;
  config.qk_rope_head_dim = 64;
  config.qk_nope_head_dim = 128;
  config.v_head_dim = 128;
  config.num_attention_heads = 8;
  Batch batch;
  batch.extends.push_back(
      {.tokens = std::vector<int32_t>(64, 1), .pages = {}, .logits = LogitsWanted::kNone});
  VolumeTypes types;
  const auto bytes = [&](const Layout& layout, const std::string& operation) {
    const StepSlices slices = SlicesOf(batch, layout, {});
    for (const Volume& volume :
         PredictVolumes(config, types, layout, {config, layout, {}}, batch, slices, nullptr)) {
      if (volume.operation == operation) return volume.bytes;
    }
    return 0.0;
  };
  Layout cp4;
  cp4.cp = 4;
  EXPECT_EQ(bytes(cp4, "latent_keys"), 2.0 * 64 * 576 * 2 * 3);
  types.int8_kv = true;
  EXPECT_EQ(bytes(cp4, "latent_keys"), 2.0 * 64 * (576 + 8) * 3);
  EXPECT_EQ(bytes(cp4, "o_proj"), 0.0);
  // 16 tokens a rank, all in one page: what three others have expanded of it, two heads each.
  EXPECT_EQ(bytes(cp4, "head_keys"), 2.0 * 4 * 3 * 2 * 64 * (192 + 128) * 2);
  Layout tp4;
  tp4.tp = 4;
  EXPECT_EQ(bytes(tp4, "o_proj"), 2.0 * 64 * 4 * (2 * 7168 * 4 * 3 / 4));
  EXPECT_EQ(bytes(tp4, "dense_mlp"), bytes(tp4, "o_proj"));
}

}  // namespace
}  // namespace causeway
