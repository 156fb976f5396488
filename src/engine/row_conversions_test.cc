// Keys on their way from a bf16 to an int8 cache.
#include "engine/row_conversions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/bf16.h"
#include "kernels/cpu/isa.h"

namespace causeway {
namespace {

// Every value comes back to within half a step of its part's scale, and the largest exactly.
void ExpectQuantised(const RowConversion& convert, const std::vector<int64_t>& parts) {
  int64_t dim = 0;
  for (const int64_t part : parts) dim += part;
  constexpr int64_t kRows = 5;
  std::mt19937 random(7);
  std::vector<Bf16> from(static_cast<size_t>(kRows * dim));
  for (Bf16& value : from) {
    value = ToBf16(static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 37.0f);
  }
  const int64_t row_bytes = dim + 4 * static_cast<int64_t>(parts.size());
  // One byte beyond the rows, which must stay as it is.
  std::vector<int8_t> to(static_cast<size_t>(kRows * row_bytes) + 1, 77);
  convert(from.data(), kRows, to.data());
  EXPECT_EQ(to.back(), 77);
  for (int64_t row = 0; row < kRows; ++row) {
    const int8_t* const values = to.data() + row * row_bytes;
    int64_t begin = 0;
    for (size_t part = 0; part < parts.size(); ++part) {
      float scale = 0;
      std::memcpy(&scale, values + dim + 4 * static_cast<int64_t>(part), sizeof(scale));
      float largest = 0;
      for (int64_t i = begin; i < begin + parts[part]; ++i) {
        const float wanted = FromBf16(from[static_cast<size_t>(row * dim + i)]);
        largest = std::max(largest, std::abs(wanted));
        EXPECT_NEAR(static_cast<float>(values[i]) * scale, wanted, 0.5f * scale * 1.001f);
      }
      EXPECT_FLOAT_EQ(scale * 127, largest);
      begin += parts[part];
    }
  }
}

TEST(RowConversions, EveryPartOfARowHasItsOwnScale) {
  ModelConfig config;
  config.kv_lora_rank = 62;
  config.qk_rope_head_dim = 17;
  config.index_head_dim = 32;
  config.index_topk = 64;
  config.index_n_heads = 4;
  const auto table = ChooseTable("auto");
  ASSERT_TRUE(table.ok());
  const RowConversions conversions = ToInt8(**table, config);
  ExpectQuantised(conversions.latents, {62, 17});
  ASSERT_TRUE(config.sparse());
  ExpectQuantised(conversions.index_keys, {32});
}

}  // namespace
}  // namespace causeway
