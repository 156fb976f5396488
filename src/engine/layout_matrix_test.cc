// The first promise over all kinds of parallelism at once.
#include <gtest/gtest.h>

#include <cstring>

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
};

class LayoutMatrix : public testing::TestWithParam<Case> {};

TEST_P(LayoutMatrix, EveryProductOfLayoutsGivesTheBytesOfOneRank) {
  HostOptions options;
  options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam().fixture);
  options.dtype = GetParam().dtype;
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

INSTANTIATE_TEST_SUITE_P(
    Models, LayoutMatrix,
    testing::Values(Case{"v3-tiny-bf16", DType::kBf16}, Case{"v3-tiny-int8", DType::kBf16},
                    Case{"v32-tiny-bf16", DType::kBf16}, Case{"v32-tiny-fp8", DType::kF32}),
    [](const testing::TestParamInfo<Case>& info) {
      std::string name = Text(info.param.fixture, "_", NameOf(info.param.dtype));
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace causeway
