#include "kernels/packed_weight.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "base/bf16.h"
#include "kernels/op_data.h"

namespace causeway {
namespace {

// Where GemmArgs puts W[j, k], written from its text.
int64_t ExpectedIndex(DType type, int64_t n, int64_t depth, int64_t j, int64_t k) {
  const int64_t g = type == DType::kF32 ? 1 : type == DType::kBf16 ? 2 : 4;
  const int64_t rounded = (depth + g - 1) / g * g;
  const int64_t panel = j / 64;
  const bool last = panel == n / 64;
  const int64_t width = last ? (n % 64 + 15) / 16 * 16 : 64;
  return panel * 64 * rounded + k / g * width * g + j % 64 * g + k % g;
}

TEST(Weight, PacksEveryElementWhereTheFormatSaysAndZerosElsewhere) {
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8}) {
    for (const int64_t n : {1, 16, 17, 64, 70, 128, 150}) {
      for (const int64_t k : {2, 6, 64}) {
        std::vector<float> rows;
        for (int64_t i = 0; i < n * k; ++i) rows.push_back(static_cast<float>(i % 120 + 1));
        std::vector<int8_t> codes(rows.begin(), rows.end());
        const std::vector<float> scale(static_cast<size_t>(n), 0.5f);
        Weight weight(type, n, k);
        // In two parts, the later one first.
        const int64_t split = n / 2;
        for (const auto& [begin, count] : {std::pair{split, n - split}, {int64_t{0}, split}}) {
          if (type == DType::kI8) {
            weight.PackRows(begin, count, codes.data() + begin * k, scale.data());
          } else {
            weight.PackRows(begin, count, rows.data() + begin * k);
          }
        }
        std::vector<float> expected(static_cast<size_t>(PackedBytes(type, n, k) / SizeOf(type)));
        for (int64_t j = 0; j < n; ++j) {
          for (int64_t i = 0; i < k; ++i) {
            const float value = rows[static_cast<size_t>(j * k + i)];
            expected[static_cast<size_t>(ExpectedIndex(type, n, k, j, i))] = value;
            ASSERT_EQ(weight.At(j, i), value) << NameOf(type) << " [" << j << "," << i << "]";
          }
        }
        OpResult packed;
        packed.Append(type, weight.packed(), static_cast<int64_t>(expected.size()));
        EXPECT_EQ(packed.values, expected) << NameOf(type) << " " << n << "x" << k;
      }
    }
  }
}

TEST(Weight, RoundsToBf16ToNearestEven) {
  Weight weight(DType::kBf16, 1, 2);
  const float row[] = {1.00390625f, 1.01171875f};
  weight.PackRows(0, 1, row);
  EXPECT_EQ(weight.At(0, 0), 1.0f);
  EXPECT_EQ(weight.At(0, 1), 1.015625f);
}

TEST(Weight, KeepsScalesAndSumsOfInt8Rows) {
  Weight weight(DType::kI8, 2, 5);
  const int8_t rows[] = {1, -2, 3, 127, -127, -127, -127, -127, -127, -127};
  const float scale[] = {0.25f, 3.0f};
  weight.PackRows(0, 2, rows, scale);
  EXPECT_EQ(weight.scale()[0], 0.25f);
  EXPECT_EQ(weight.scale()[1], 3.0f);
  EXPECT_EQ(weight.sum()[0], 2);
  EXPECT_EQ(weight.sum()[1], -635);
  EXPECT_EQ(weight.At(1, 4), -127.0f);
  EXPECT_EQ(weight.bytes(), PackedBytes(DType::kI8, 2, 5) + 16);
}

TEST(Weight, PacksFp8CodesInPairsWithAScaleForEachPanelAndBlock) {
  constexpr int64_t kN = 80;
  constexpr int64_t kK = 16;
  std::vector<E4m3> codes(kN * kK);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<E4m3>(i * 7);
  codes[0] = 0x7f;
  codes[1] = 0xff;
  codes[2] = 0x80;
  codes[3] = 0xfe;
  // Blocks of 8 columns, of which the first has begun 4 columns before: [0, 4), [4, 12), [12, 16).
  Weight weight(DType::kF8, kN, kK, 1, {.columns = 8, .offset = 4});
  ASSERT_EQ(weight.blocks(), 3);
  const float scale[] = {0.3f, 3e37f, 0.7f, 1.0f, 2.0f, 3.0f};
  weight.PackRows(64, 16, codes.data() + 64 * kK, kK, scale + 3);
  weight.PackRows(0, 64, codes.data(), kK, scale);
  for (int64_t j = 0; j < kN; ++j) {
    for (int64_t i = 0; i < kK; ++i) {
      // From the text of GemmArgs.
      const int64_t width = j < 64 ? 64 : 16;
      const int64_t at = j / 64 * 64 * kK + i / 4 * width * 4 + j % 64 / 4 * 16 + i % 4 / 2 * 8 +
                         j % 4 * 2 + i % 2;
      const E4m3 code = codes[static_cast<size_t>(j * kK + i)];
      const auto packed = static_cast<const E4m3*>(weight.packed())[at];
      EXPECT_EQ(packed, code == 0xff ? 0x7f : code) << j << " " << i;
      const float expected = FromBf16(ToBf16(FromE4m3(code) * scale[j / 64 * 3 + (i + 4) / 8]));
      const float found = weight.At(j, i);
      EXPECT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << j << " " << i;
    }
  }
  EXPECT_TRUE(std::isnan(weight.At(0, 0)) && std::isnan(weight.At(0, 1)));
  EXPECT_TRUE(std::signbit(weight.At(0, 2)));
  EXPECT_EQ(weight.bytes(), PackedBytes(DType::kF8, kN, kK) + 6 * 4);
  EXPECT_EQ(PackedBytes(DType::kF8, kN, kK) * 2, PackedBytes(DType::kBf16, kN, kK));
}

TEST(Weight, TakesAsMuchMemoryAsItsPaddedPanels) {
  EXPECT_EQ(PackedBytes(DType::kF32, 64, 3), 64 * 3 * 4);
  EXPECT_EQ(PackedBytes(DType::kBf16, 70, 5), 80 * 6 * 2);  // the example of GemmArgs
  EXPECT_EQ(PackedBytes(DType::kI8, 1, 1), 16 * 4);
  EXPECT_TRUE(Weight().empty());
}

TEST(SegmentsFor, IsTheLargestPowerOfTwoUpTo32Or16ThatCutsKEvenly) {
  EXPECT_EQ(SegmentsFor(DType::kF32, 4096), 32);
  EXPECT_EQ(SegmentsFor(DType::kBf16, 18432), 32);
  EXPECT_EQ(SegmentsFor(DType::kF32, 4095), 1);
  EXPECT_EQ(SegmentsFor(DType::kF32, 2048), 16);  // no runs shorter than 128
  EXPECT_EQ(SegmentsFor(DType::kF32, 48), 16);
  EXPECT_EQ(SegmentsFor(DType::kF32, 7), 1);
  EXPECT_EQ(SegmentsFor(DType::kBf16, 32), 16);  // runs of two
  EXPECT_EQ(SegmentsFor(DType::kBf16, 2), 1);
  EXPECT_EQ(SegmentsFor(DType::kI8, 4096), 1);  // exact in any order
  EXPECT_EQ(SegmentsFor(DType::kF8, 96), SegmentsFor(DType::kBf16, 96));
}

TEST(WeightDeathTest, RefusesDepthsThatItsTypeOrSegmentsCannotCut) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(Weight(DType::kBf16, 4, 5), "even k, not 5");
  EXPECT_DEATH(Weight(DType::kBf16, 4, 6, 2), "6 in 2 segments");
  EXPECT_DEATH(Weight(DType::kF8, 4, 24, 4), "multiple of 4 .* not 24 in 4");
  EXPECT_DEATH(Weight(DType::kF8, 4, 40000, 4), "up to 8192 columns, not 40000 in 4");
  EXPECT_DEATH(Weight(DType::kF8, 4, 8, 1, {.columns = 8, .offset = 8}), "blocks of 8 from 8");
  EXPECT_DEATH(Weight(DType::kF32, 4, 6, 4), "6 in 4 segments");
  EXPECT_DEATH(Weight(DType::kF32, 4, 6, 3), "3");
  Weight weight(DType::kF32, 4, 6);
  const float rows[12] = {};
  EXPECT_DEATH(weight.PackRows(3, 2, rows), "3 \\+ 2");
}

}  // namespace
}  // namespace causeway
