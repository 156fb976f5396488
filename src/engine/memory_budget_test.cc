#include "engine/memory_budget.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/engine_client.h"

namespace causeway {
namespace {

constexpr int64_t kGib = 1 << 30;

MemoryBudget Budget(double fraction, int64_t weight_gib) {
  return {.limit = {64 * kGib, "a test"},
          .fraction = fraction,
          .weight_bytes = weight_gib * kGib,
          .page_bytes = 1 << 20};
}

TEST(MemoryBudget, TheKvCacheGetsWhatTheWeightsLeaveOfTheFraction) {
  EXPECT_EQ(PagesWithin(Budget(0.5, 20)).value(), 12 * 1024);
  EXPECT_EQ(PagesWithin(Budget(1.0, 63)).value(), 1024);
}

TEST(MemoryBudget, NoMorePagesThanAreWantedOrFit) {
  EXPECT_EQ(PagesWithin(Budget(0.5, 20), 1000).value(), 1000);
  EXPECT_EQ(PagesWithin(Budget(0.5, 20), 20'000).value(), 12 * 1024);
  EXPECT_FALSE(PagesWithin(Budget(0.5, 32), 1).ok());
}

TEST(MemoryBudget, WithoutFlagsAHostHasOneContext) {
  HostOptions options;
  options.model_path = CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16";
  options.context_length = 250;
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  EXPECT_EQ((*host)->pages().capacity(), 4);
  ASSERT_TRUE((*host)->memory().has_value());
  EXPECT_EQ((*host)->memory()->fraction, kAutomaticMemoryFraction);
}

TEST(MemoryBudget, WeightsThatDoNotFitAreAnErrorWithTheNumbers) {
  for (const int64_t weights : {32, 33, 700}) {
    const Status status = PagesWithin(Budget(0.5, weights)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              Text("--mem-fraction-static 0.5 of 64.000 GiB (a test) is 32.000 GiB; the weights "
                   "need ",
                   weights,
                   ".000 GiB and 64 tokens of KV cache 0.001 GiB: use a larger fraction, more "
                   "memory, or more hosts (--nnodes)"));
  }
}

TEST(MemoryBudget, AKvCacheThatIsAskedForMustFit) {
  EXPECT_TRUE(CheckPagesFit(Budget(0.5, 20), 12 * 1024).ok());
  const Status status = CheckPagesFit(Budget(0.5, 20), 12 * 1024 + 1);
  EXPECT_NE(status.message().find("the weights need 20.000 GiB and --max-total-tokens 786496 "),
            std::string::npos)
      << status.message();
  EXPECT_FALSE(CheckPagesFit(Budget(0.1, 20), 1).ok());
}

TEST(MemoryBudget, AHostFillsTheFractionAndNoMore) {
  HostOptions options;
  options.model_path = CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16";
  options.context_length = 256;
  const int64_t memory = FindMemoryLimit().value().bytes;
  options.mem_fraction_static = 32e6 / static_cast<double>(memory);
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  const int64_t bytes = (*host)->weights().packed_bytes() + (*host)->cache().bytes();
  EXPECT_LE(bytes, 32'000'000);
  EXPECT_GT(bytes, 32'000'000 - 2 * kPage * (*host)->cache().shape().BytesPerToken());
  EXPECT_EQ((*host)->pages().capacity(), (*host)->cache().pages());

  options.mem_fraction_static = 1e3 / static_cast<double>(memory);
  const Status small = ModelHost::Load(options).status();
  EXPECT_NE(small.message().find("the weights need"), std::string::npos) << small.message();
  options.mem_fraction_static = 32e6 / static_cast<double>(memory);
  options.max_total_tokens = 100'000'000;
  const Status large = ModelHost::Load(options).status();
  EXPECT_NE(large.message().find("--max-total-tokens 100000000 "), std::string::npos)
      << large.message();
  options.max_total_tokens = 640;
  EXPECT_EQ(ModelHost::Load(options).value()->pages().capacity(), 10);
}

}  // namespace
}  // namespace causeway
