// What crosses hosts in a step, counted by their communicators, against what theory says of the
// layout. Hosts are threads of this process, each with its own weights, cache and ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "checkpoint/safetensors.h"
#include "engine/layout_matrix.h"
#include "engine/step_broadcast.h"
#include "kernels/cpu/isa.h"
#include "model/volume.h"

namespace causeway {
namespace {

// Layouts of a fixture and a number of hosts. Under the thread sanitizer each takes seconds.
#if defined(__SANITIZE_THREAD__)
constexpr int64_t kSample = 3;
#else
constexpr int64_t kSample = 12;
#endif

constexpr int64_t kContext = 256;
constexpr int64_t kPagesOfAPrompt = kContext / kPage;

struct Case {
  const char* fixture;
  DType dtype;
  int64_t redundant = 0;
  bool int8_cache = false;  // latents and index keys
};

// All hosts of a layout. Host 0 is the caller's, the others follow it until the end.
class World {
 public:
  World(const Case& one, const Layout& layout, const RedundantExperts& redundant, int64_t pages)
      : network_(MakeThreadsCommunicators(layout.hosts, /*timeout_ms=*/60'000)) {
    const std::string path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", one.fixture);
    const ModelConfig config = ModelConfig::Load(path).value();
    for (int host = 0; host < layout.hosts; ++host) {
      auto& mine = hosts_.emplace_back();
      mine.weights = Weights::Load(Checkpoint::Open(path).value(), config, one.dtype,
                                   WeightShare::Of(config, layout, host, redundant), 1, {})
                         .value();
      mine.cache = std::make_unique<KvCache>(KvShape{.layers = config.num_hidden_layers,
                                                     .latent_dim = config.latent_dim(),
                                                     .index_dim = config.index_head_dim,
                                                     .type = one.dtype,
                                                     .int8_index = one.int8_cache,
                                                     .int8_kv = one.int8_cache},
                                             pages);
      mine.rope = std::make_unique<RopeTable>(config, kContext);
      RankGroupOptions options;
      options.layout = layout;
      options.ops = ChooseTable("auto").value();
      options.pin_threads = false;
      options.host = host;
      options.hosts = layout.hosts > 1 ? network_[static_cast<size_t>(host)].get() : nullptr;
      mine.ranks = std::make_unique<RankGroup>(*mine.weights, *mine.cache, *mine.rope, options);
    }
    for (size_t host = 1; host < hosts_.size(); ++host) {
      followers_.emplace_back([this, host] {
        const Status status = hosts_[host].ranks->Follow();
        EXPECT_TRUE(status.ok()) << status.message();
      });
    }
  }
  ~World() {
    hosts_[0].ranks.reset();  // tells the others to end
    for (std::thread& follower : followers_) follower.join();
  }

  RankGroup& ranks() { return *hosts_[0].ranks; }
  const Weights& weights() const { return *hosts_[0].weights; }
  const KvCache& cache() const { return *hosts_[0].cache; }
  const ModelConfig& config() const { return weights().config(); }

 private:
  struct Host {
    std::unique_ptr<Weights> weights;
    std::unique_ptr<KvCache> cache;
    std::unique_ptr<RopeTable> rope;
    std::unique_ptr<RankGroup> ranks;
  };
  std::vector<std::unique_ptr<Communicator>> network_;  // outlives the ranks
  std::vector<Host> hosts_;
  std::vector<std::thread> followers_;
};

// The first or the second half of each prompt; the prompts' data-parallel groups take turns.
Batch HalfOf(const std::vector<std::vector<int32_t>>& prompts, int dp, bool second) {
  Batch batch;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<int64_t>(prompts[i].size());
    const int64_t begin = second ? length - length / 2 : 0;
    const int64_t end = second ? length : length - length / 2;
    if (begin == end) continue;
    std::vector<int32_t> pages;
    for (int64_t p = 0; p < kPagesOfAPrompt; ++p) {
      pages.push_back(static_cast<int32_t>(static_cast<int64_t>(i) * kPagesOfAPrompt + p));
    }
    batch.extends.push_back({.tokens = {prompts[i].begin() + begin, prompts[i].begin() + end},
                             .begin = begin,
                             .decode = second && end - begin == 1,
                             .pages = pages,
                             .logits = LogitsWanted(i % 3),
                             .dp = static_cast<int32_t>(i) % dp});
  }
  return batch;
}

// What a step said and chose, on one rank.
struct Expected {
  std::vector<float> logits;
  std::vector<std::vector<int32_t>> choices;
  ExpertCounts experts;
};

std::vector<float> LogitsOf(const StepOutput& output) {
  return {output.logits().data(), output.logits().data() + output.logits().size()};
}

ExpertCounts SumOf(const std::vector<HostCounts>& hosts) {
  ExpertCounts sum;
  for (const HostCounts& host : hosts) {
    for (const ExpertCounts& rank : host.experts) {
      if (sum.empty()) sum.resize(rank.size());
      for (size_t layer = 0; layer < rank.size(); ++layer) {
        sum[layer].resize(rank[layer].size(), 0);
        for (size_t e = 0; e < rank[layer].size(); ++e) sum[layer][e] += rank[layer][e];
      }
    }
  }
  return sum;
}

class HostVolumes : public testing::TestWithParam<Case> {};

TEST_P(HostVolumes, AreWhatTheLayoutAndTheChosenExpertsPredictAndExpertCountsAreThoseOfOneRank) {
  const Case& one = GetParam();
  const ModelConfig config =
      ModelConfig::Load(Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", one.fixture)).value();
  const auto prompts = MatrixPrompts(config.vocab_size);
  const int64_t pages = static_cast<int64_t>(prompts.size()) * kPagesOfAPrompt;
  std::vector<Expected> expected;
  {
    World alone(one, Layout(), {}, pages);
    for (const bool second : {false, true}) {
      const Batch batch = HalfOf(prompts, 1, second);
      Capture capture(config, batch.tokens());
      StepOutput output(config, one.dtype, batch, &capture);
      ASSERT_TRUE(alone.ranks().ClearTraces().ok());
      const Status status = alone.ranks().RunStep(batch, output);
      ASSERT_TRUE(status.ok()) << status.message();
      const auto counts = alone.ranks().Counts();
      ASSERT_TRUE(counts.ok()) << counts.status().message();
      EXPECT_TRUE(counts.value()[0].sent.empty());
      expected.push_back({LogitsOf(output), capture.router_indices, SumOf(*counts)});
    }
  }
  const RedundantExperts redundant{.per_layer = one.redundant, .counts = {}};
  std::map<std::string, int> seen;  // operations
  for (const int hosts : {2, 4}) {
    const auto all = LayoutCases(config, one.dtype, 8, hosts);
    auto cases = SampleCases(all, kSample, /*seed=*/7);
    const auto widest = std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
      return a.layout.tp < b.layout.tp;
    });
    cases.push_back(*widest);  // a TP group over all hosts
    for (const LayoutCase& each : cases) {
      SCOPED_TRACE(each.ToString());
      const Layout& layout = each.layout;
      if (!redundant.Check(config, layout).ok()) continue;
      World world(one, layout, redundant, pages);
      const ExpertPlacement placement(config, layout, redundant);
      for (const bool second : {false, true}) {
        const Batch batch = HalfOf(prompts, layout.dp, second);
        StepOutput output(config, one.dtype, batch, nullptr);
        ASSERT_TRUE(world.ranks().ClearTraces().ok());
        const Status status = world.ranks().RunStep(batch, output);
        ASSERT_TRUE(status.ok()) << status.message();
        const auto counts = world.ranks().Counts();
        ASSERT_TRUE(counts.ok()) << counts.status().message();
        ASSERT_EQ(counts->size(), static_cast<size_t>(hosts));
        std::map<std::string, double> counted;
        int64_t control = 0;
        for (const HostCounts& host : *counts) {
          for (const Traffic& sent : host.sent) {
            if (IsControl(sent.operation)) {
              control += sent.bytes;
            } else if (sent.bytes > 0) {
              counted[sent.operation] += static_cast<double>(sent.bytes);
            }
          }
        }
        const Expected& alone = expected[second ? 1 : 0];
        std::map<std::string, double> predicted;
        for (const Volume& volume : PredictHostVolumes(
                 config, VolumeTypes::Of(world.weights(), world.cache().shape()), layout, placement,
                 batch, world.ranks().last_partition(), &alone.choices)) {
          predicted[volume.operation] = volume.bytes;
          ++seen[volume.operation];
        }
        EXPECT_EQ(counted, predicted);
        EXPECT_GE(control, (hosts - 1) * static_cast<int64_t>(EncodeBatch(batch).size()));
        EXPECT_EQ(SumOf(*counts), alone.experts);
        EXPECT_EQ(LogitsOf(output), alone.logits);
      }
    }
  }
  if (kSample < 12) return;  // too few to see all
  for (const char* operation : {"kv_exchange", "o_proj", "moe_rows", "expert_dispatch",
                                "expert_combine", "hidden_exchange", "logits_exchange"}) {
    EXPECT_GT(seen[operation], 0) << operation << " crossed hosts in no layout";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, HostVolumes,
    testing::Values(Case{"v3-tiny-bf16", DType::kBf16}, Case{"v3-tiny-int8", DType::kBf16, 3},
                    Case{"v32-tiny-bf16", DType::kBf16}, Case{"v32-tiny-fp8", DType::kF32, 12},
                    Case{"v32-tiny-bf16", DType::kBf16, 0, true}),
    [](const testing::TestParamInfo<Case>& info) {
      std::string name = Text(info.param.fixture, "_", NameOf(info.param.dtype),
                              info.param.int8_cache ? "_int8_cache" : "");
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// By hand, one sequence of 64 tokens.
TEST(HostVolumeTheory, KeysAnAllReduceAndTokensForExpertsAreTheTextbooksOnes) {
  ModelConfig config;
  config.num_hidden_layers = 3;
  config.first_k_dense_replace = 1;
  config.hidden_size = 7168;
  config.kv_lora_rank = 512;
  config.qk_rope_head_dim = 64;
  config.index_n_heads = 64;
  config.index_head_dim = 128;
  config.index_topk = 2048;
  config.n_routed_experts = 256;
  config.num_experts_per_tok = 8;
  config.topk_method = GateMethod::kGreedy;
  Batch batch;
  batch.extends.push_back(
      {.tokens = std::vector<int32_t>(64, 1), .pages = {}, .logits = LogitsWanted::kNone});
  const auto bytes = [&](const Layout& layout, const std::string& operation) {
    const StepSlices slices = SlicesOf(batch, layout, {});
    for (const Volume& volume :
         PredictHostVolumes(config, {}, layout, {config, layout, {}}, batch, slices, nullptr)) {
      if (volume.operation == operation) return volume.bytes;
    }
    return 0.0;
  };
  ASSERT_TRUE(config.sparse());
  Layout layout;
  layout.cp = layout.hosts = layout.ep = 4;
  EXPECT_EQ(bytes(layout, "kv_exchange"), 3.0 * 64 * (576 + 128) * 2 * 3);
  EXPECT_EQ(bytes(layout, "o_proj"), 0.0);
  // Every token's row and choices go to the 3 other hosts of the 2 MoE layers, and of its 8 slots
  // 6 are elsewhere on average.
  EXPECT_EQ(bytes(layout, "expert_dispatch"), 2.0 * 64 * 3 * (7168 * 2 + 8 * 4));
  EXPECT_DOUBLE_EQ(bytes(layout, "expert_combine"), 2.0 * 64 * 6 * 7168 * 4);
  layout.moe_a2a = MoeA2a::kAllToAll;
  double none = 1;  // of its experts in a given quarter of 256
  for (int k = 0; k < 8; ++k) none *= (192.0 - k) / (256.0 - k);
  EXPECT_NEAR(bytes(layout, "expert_dispatch"), 2.0 * 64 * 3 * ((1 - none) * 7168 * 2 + 8 * 4),
              1e-3);
  layout.cp = layout.ep = 1;
  layout.tp = 4;
  EXPECT_EQ(bytes(layout, "kv_exchange"), 0.0) << "hosts of a TP group compute all keys themselves";
  EXPECT_EQ(bytes(layout, "o_proj"), 3.0 * 64 * 4 * (2 * 7168 * 4 * 3 / 4));
  EXPECT_EQ(bytes(layout, "moe_rows"), 2.0 * 64 * 7168 * 4 * 3);
  layout.tp = 8;  // two ranks a host: the same
  EXPECT_EQ(bytes(layout, "o_proj"), 3.0 * 64 * 4 * (2 * 7168 * 4 * 3 / 4));
}

TEST(HostCounts, ComeThroughTheWireAsTheyAreAndBrokenBytesAreAnError) {
  HostCounts counts;
  counts.reads = {{{"latent_keys", 3, 4000}, {"o_proj", 1, 7}}, {}};
  counts.experts = {{{}, {1, 2, 3}}, {{}, {4, 5, 6}}};
  counts.sent = {{"kv_exchange", 2, int64_t{1} << 40}};
  counts.times = {{"kv_exchange", 123456789}};
  const std::string bytes = EncodeCounts(counts);
  const auto decoded = DecodeCounts(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(*decoded, counts);
  for (size_t end = 0; end < bytes.size(); ++end) {
    EXPECT_FALSE(DecodeCounts(bytes.substr(0, end)).ok()) << end;
  }
  EXPECT_FALSE(DecodeCounts(bytes + "x").ok());
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    std::string huge = bytes;
    huge.replace(at, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f");
    (void)DecodeCounts(huge).ok();  // whatever it says, it makes no more than came
  }
}

}  // namespace
}  // namespace causeway
