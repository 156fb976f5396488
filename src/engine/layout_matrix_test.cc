// The first promise over all kinds of parallelism at once.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/layout_matrix.h"

namespace causeway {
namespace {

constexpr uint64_t kSeed = 7;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSample = 12;
#else
constexpr int64_t kSample = 60;
#endif

struct Case {
  const char* fixture;
  DType dtype;
  bool int8_index = false;
  bool int8_kv = false;
};

class LayoutMatrix : public testing::TestWithParam<Case> {};

TEST_P(LayoutMatrix, EveryProductOfLayoutsGivesTheBytesOfOneRank) {
  HostOptions options;
  options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam().fixture);
  options.dtype = GetParam().dtype;
  options.int8_index = GetParam().int8_index;
  options.int8_kv = GetParam().int8_kv;
  options.context_length = 256;
  options.max_total_tokens = 2048;
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  const auto prompts = MatrixPrompts((*host)->config().vocab_size);
  const auto expected = MatrixLogits(**host, {}, prompts);
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  const auto all = LayoutCases((*host)->config(), GetParam().dtype, 8, 1);
  const auto cases = SampleCases(all, kSample, kSeed);
  for (const LayoutCase& one : cases) {
    const auto found = MatrixLogits(**host, one, prompts);
    ASSERT_TRUE(found.ok()) << one.ToString() << ": " << found.status().message();
    ASSERT_EQ(found->size(), expected->size());
    ASSERT_EQ(std::memcmp(found->data(), expected->data(), found->size() * sizeof(float)), 0)
        << one.ToString() << " differs from one rank (seed " << kSeed << ")";
  }
  std::printf("layout matrix %-16s %-8s %zu of %zu combinations, all equal\n", GetParam().fixture,
              NameOf(GetParam().dtype), cases.size(), all.size());
}

// Copies of the hottest experts change who computes a token's, and no bit.
TEST_P(LayoutMatrix, LayoutsWithRedundantExpertsGiveTheBytesOfOneRankToo) {
  HostOptions options;
  options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam().fixture);
  options.dtype = GetParam().dtype;
  options.int8_index = GetParam().int8_index;
  options.int8_kv = GetParam().int8_kv;
  options.context_length = 256;
  options.max_total_tokens = 2048;
  options.ranks.layout.cp = options.ranks.layout.ep = 2;
  options.redundant.per_layer = 2;
  const auto config = ModelConfig::Load(options.model_path);
  ASSERT_TRUE(config.ok()) << config.status().message();
  std::mt19937 random(kSeed);
  for (int64_t layer = 0; layer < config->num_hidden_layers; ++layer) {
    auto& counts = options.redundant.counts.emplace_back();
    for (int64_t e = 0; config->IsMoe(layer) && e < config->n_routed_experts; ++e) {
      counts.push_back(random() % 100);
    }
  }
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  const auto prompts = MatrixPrompts(config->vocab_size);
  const auto expected = MatrixLogits(**host, {}, prompts);  // one rank: no copies
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  auto all = LayoutCases(*config, GetParam().dtype, 8, 1);
  std::erase_if(all,
                [](const LayoutCase& one) { return one.layout.ep != 2 && one.layout.ep != 4; });
  for (const LayoutCase& one : SampleCases(all, kSample / 2, kSeed)) {
    const auto found = MatrixLogits(**host, one, prompts);
    ASSERT_TRUE(found.ok()) << one.ToString() << ": " << found.status().message();
    ASSERT_EQ(found->size(), expected->size());
    ASSERT_EQ(std::memcmp(found->data(), expected->data(), found->size() * sizeof(float)), 0)
        << one.ToString() << " differs from one rank (seed " << kSeed << ")";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, LayoutMatrix,
    testing::Values(Case{"v3-tiny-bf16", DType::kBf16}, Case{"v3-tiny-int8", DType::kBf16},
                    Case{"v32-tiny-bf16", DType::kBf16}, Case{"v32-tiny-fp8", DType::kF32},
                    Case{"v32-tiny-bf16", DType::kBf16, true},
                    Case{"v3-tiny-int8", DType::kBf16, false, true},
                    Case{"v32-tiny-bf16", DType::kBf16, true, true}),
    [](const testing::TestParamInfo<Case>& info) {
      std::string name =
          Text(info.param.fixture, "_", NameOf(info.param.dtype),
               info.param.int8_index ? "_int8_index" : "", info.param.int8_kv ? "_int8_kv" : "");
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace causeway
