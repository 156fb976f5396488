#include "checkpoint/quant_format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/bf16.h"
#include "base/fp8.h"
#include "checkpoint/encode.h"
#include "checkpoint/temporary_directory.h"
#include "checkpoint/tensor_names.h"
#include "checkpoint/writer.h"

namespace causeway {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct TestTensor {
  std::string name;
  StoredType type;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};

template <typename T>
TestTensor Tensor(const std::string& name, StoredType type, std::vector<int64_t> shape,
                  const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {name, type, std::move(shape), {bytes, bytes + values.size() * sizeof(T)}};
}

// A checkpoint of a few tensors, and what FindMatrix makes of the module "m" in it.
class Fixture {
 public:
  explicit Fixture(const std::vector<TestTensor>& tensors) {
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (const auto& t : tensors) declarations.push_back({t.name, t.type, t.shape});
    auto writer = SafetensorsWriter::Create(directory_.File("model.safetensors"), declarations);
    CHECK(writer.ok(), writer.status().message());
    for (const auto& t : tensors) {
      const Status status =
          writer->Write(t.name, t.bytes.data(), static_cast<int64_t>(t.bytes.size()));
      CHECK(status.ok(), status.message());
    }
    const Status finished = writer->Finish();
    CHECK(finished.ok(), finished.message());
    checkpoint_ = *Checkpoint::Open(directory_.path());
  }

  StatusOr<StoredMatrix> Find(int64_t n, int64_t k, int64_t block = 128) const {
    ModelConfig config;
    config.quant_block = block;
    return FindMatrix(*checkpoint_, config, "m", n, k);
  }
  // The error without the path of the file.
  std::string Error(int64_t n, int64_t k, int64_t block = 128) const {
    const std::string message = Find(n, k, block).status().message();
    const std::string path = directory_.File("model.safetensors") + ": ";
    return message.starts_with(path) ? message.substr(path.size()) : message;
  }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

std::vector<float> Rows(const StoredMatrix& matrix, int64_t begin, int64_t end) {
  std::vector<float> out(static_cast<size_t>((end - begin) * matrix.k));
  DequantizeRows(matrix, begin, end, out.data());
  return out;
}

TEST(QuantFormat, PlainMatricesComeOutAsTheyAre) {
  const Fixture f32({Tensor<float>("m.weight", StoredType::kF32, {2, 2}, {1.5f, 2, 3, -4e-30f})});
  ASSERT_EQ(f32.Find(2, 2)->format, MatrixFormat::kPlain);
  EXPECT_EQ(Rows(*f32.Find(2, 2), 0, 2), (std::vector<float>{1.5f, 2, 3, -4e-30f}));
  EXPECT_EQ(Rows(*f32.Find(2, 2), 1, 2), (std::vector<float>{3, -4e-30f}));
  EXPECT_TRUE(Rows(*f32.Find(2, 2), 1, 1).empty());
  const Fixture bf16({Tensor<Bf16>("m.weight", StoredType::kBf16, {1, 2}, {0x3f80, 0xc000})});
  EXPECT_EQ(Rows(*bf16.Find(1, 2), 0, 1), (std::vector<float>{1, -2}));
  const Fixture f16({Tensor<uint16_t>("m.weight", StoredType::kF16, {1, 2}, {0x3c00, 0x0001})});
  EXPECT_EQ(Rows(*f16.Find(1, 2), 0, 1), (std::vector<float>{1, 0x1p-24f}));
}

// Every cut of the last blocks in both directions, and every first row of a part.
TEST(QuantFormat, Fp8BlocksAreMultipliedByTheirScaleAlsoWhereTheEdgeCutsThem) {
  std::mt19937 random(7);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{4, 8}, {5, 7}, {3, 9}, {1, 1}, {9, 4}}) {
    constexpr int64_t kBlock = 4;
    const int64_t block_rows = (n + 3) / 4;
    const int64_t block_columns = (k + 3) / 4;
    std::vector<E4m3> codes(static_cast<size_t>(n * k));
    for (E4m3& code : codes) code = static_cast<E4m3>(random() % 0x7f + (random() % 2) * 0x80);
    std::vector<float> scales(static_cast<size_t>(block_rows * block_columns));
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.3f + static_cast<float>(i);
    const Fixture fixture(
        {Tensor("m.weight", StoredType::kF8E4m3, {n, k}, codes),
         Tensor("m.weight_scale_inv", StoredType::kF32, {block_rows, block_columns}, scales)});
    const auto matrix = fixture.Find(n, k, kBlock);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    ASSERT_EQ(matrix->format, MatrixFormat::kFp8Block);
    for (int64_t begin = 0; begin < n; ++begin) {
      const std::vector<float> rows = Rows(*matrix, begin, n);
      for (int64_t row = begin; row < n; ++row) {
        for (int64_t i = 0; i < k; ++i) {
          const float scale = scales[static_cast<size_t>(row / 4 * block_columns + i / 4)];
          ASSERT_EQ(rows[static_cast<size_t>((row - begin) * k + i)],
                    FromE4m3(codes[static_cast<size_t>(row * k + i)]) * scale)
              << n << "x" << k << " at " << row << ", " << i;
        }
      }
    }
  }
}

TEST(QuantFormat, Int8RowsAreMultipliedByTheirScaleInEveryFormOfIt) {
  const std::vector<int8_t> values = {-128, 127, 0, 1, 2, -3};
  const auto weight = Tensor("m.weight", StoredType::kI8, {2, 3}, values);
  const std::vector<float> expected = {-64, 63.5f, 0, 3, 6, -9};
  const std::vector<float> scales = {0.5f, 3};
  const std::vector<Bf16> short_scales = {ToBf16(0.5f), ToBf16(3)};
  for (const TestTensor& scale :
       {Tensor("m.weight_scale", StoredType::kF32, {2, 1}, scales),
        Tensor("m.weight_scale", StoredType::kF32, {2}, scales),
        Tensor("m.weight_scale", StoredType::kBf16, {2, 1}, short_scales)}) {
    const Fixture fixture(
        {weight, scale, Tensor<float>("m.weight_offset", StoredType::kF32, {2, 1}, {0, -0.0f})});
    const auto matrix = fixture.Find(2, 3);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    ASSERT_EQ(matrix->format, MatrixFormat::kInt8Channel);
    EXPECT_EQ(matrix->scales, scales);
    EXPECT_EQ(matrix->Int8Row(1)[2], -3);
    EXPECT_EQ(Rows(*matrix, 0, 2), expected);
    EXPECT_EQ(Rows(*matrix, 1, 2), (std::vector<float>{3, 6, -9}));
  }
}

TEST(QuantFormat, Fp8ScalesThatAreNotPositiveAndFiniteAreRefused) {
  for (const float bad : {0.0f, -1.0f, kNan, kInfinity}) {
    const Fixture fixture(
        {Tensor("m.weight", StoredType::kF8E4m3, {2, 3}, std::vector<E4m3>(6)),
         Tensor<float>("m.weight_scale_inv", StoredType::kF32, {1, 2}, {1, bad})});
    EXPECT_EQ(fixture.Error(2, 3, 2), Text("tensor \"m.weight_scale_inv\" has ", bad,
                                           " at [0, 1], expected a positive finite scale"));
  }
}

TEST(QuantFormat, Int8ScalesThatAreNotPositiveAndFiniteAreRefusedButZeroForARowOfZeros) {
  for (const float bad : {0.0f, -1.0f, kNan, kInfinity}) {
    const Fixture fixture({Tensor<int8_t>("m.weight", StoredType::kI8, {2, 2}, {1, 2, 0, 1}),
                           Tensor<float>("m.weight_scale", StoredType::kF32, {2}, {1, bad})});
    EXPECT_EQ(fixture.Error(2, 2), Text("tensor \"m.weight_scale\" has ", bad,
                                        " for row 1, expected a positive finite scale"));
  }
  const Fixture zeros({Tensor<int8_t>("m.weight", StoredType::kI8, {2, 2}, {1, 2, 0, 0}),
                       Tensor<float>("m.weight_scale", StoredType::kF32, {2}, {1, 0})});
  ASSERT_EQ(zeros.Error(2, 2), "");
  EXPECT_EQ(Rows(*zeros.Find(2, 2), 0, 2), (std::vector<float>{1, 2, 0, 0}));
}

TEST(QuantFormat, WhatCannotBeIgnoredIsRefusedByName) {
  const auto weight = Tensor<int8_t>("m.weight", StoredType::kI8, {1, 2}, {1, 2});
  const auto scale = Tensor<float>("m.weight_scale", StoredType::kF32, {1}, {1});
  const auto error = [&](const TestTensor& extra) {
    return Fixture({weight, scale, extra}).Error(1, 2);
  };
  for (const char* name : {"m.input_scale", "m.input_offset", "m.input_zero_point", "m.deq_scale"})
    EXPECT_EQ(error(Tensor<float>(name, StoredType::kF32, {1}, {1})),
              Text("tensor \"", name,
                   "\" is there, expected dynamic activation scales (static ones are not "
                   "supported)"));
  EXPECT_EQ(error(Tensor<float>("m.weight_offset", StoredType::kF32, {1}, {2})),
            "tensor \"m.weight_offset\" is not all zero, expected symmetric weights (zero points "
            "are not supported)");
  EXPECT_EQ(error(Tensor<int32_t>("m.weight_zero_point", StoredType::kI32, {1, 1}, {3})),
            "tensor \"m.weight_zero_point\" is not all zero, expected symmetric weights (zero "
            "points are not supported)");
  EXPECT_EQ(error(Tensor<int32_t>("m.weight_zero_point", StoredType::kI32, {1, 1}, {0})), "");
  EXPECT_EQ(error(Tensor<float>("m.bias", StoredType::kF32, {1}, {0})),
            "tensor \"m.bias\" is there, expected a matrix without bias");
}

TEST(QuantFormat, WrongShapesTypesAndMissingScalesAreNamed) {
  const auto fp8 = Tensor("m.weight", StoredType::kF8E4m3, {2, 4}, std::vector<E4m3>(8));
  const auto int8 = Tensor("m.weight", StoredType::kI8, {2, 4}, std::vector<int8_t>(8));
  EXPECT_EQ(Fixture({fp8}).Error(2, 5), "tensor \"m.weight\" has shape [2, 4], expected [2, 5]");
  EXPECT_NE(Fixture({fp8}).Error(2, 4).find("no tensor \"m.weight_scale_inv\""), std::string::npos);
  EXPECT_NE(Fixture({int8}).Error(2, 4).find("no tensor \"m.weight_scale\""), std::string::npos);
  EXPECT_EQ(Fixture({fp8, Tensor<float>("m.weight_scale_inv", StoredType::kF32, {1, 1}, {1})})
                .Error(2, 4, 2),
            "tensor \"m.weight_scale_inv\" has shape [1, 1], expected [1, 2]");
  EXPECT_EQ(
      Fixture({int8, Tensor<float>("m.weight_scale", StoredType::kF32, {1}, {1})}).Error(2, 4),
      "tensor \"m.weight_scale\" has shape [1], expected [2, 1] or [2], one value a row");
  EXPECT_EQ(Fixture({int8, Tensor<uint16_t>("m.weight_scale", StoredType::kF16, {2}, {1, 1})})
                .Error(2, 4),
            "tensor \"m.weight_scale\" is F16, expected scales in F32 or BF16");
  EXPECT_EQ(Fixture({Tensor<int32_t>("m.weight", StoredType::kI32, {1, 1}, {1})}).Error(1, 1),
            "tensor \"m.weight\" is I32, expected F32, F16, BF16, F8_E4M3 or I8");
}

TEST(QuantFormat, EveryMatrixOfTheGoldenModelsIsFound) {
  struct Golden {
    const char* name;
    MatrixFormat format;
  };
  for (const Golden& golden : {Golden{"v2-tiny-f32", MatrixFormat::kPlain},
                               Golden{"v3-tiny-int8", MatrixFormat::kInt8Channel},
                               Golden{"v32-tiny-fp8", MatrixFormat::kFp8Block}}) {
    const std::string path = Text(CAUSEWAY_SOURCE_DIR, "/testdata/golden/", golden.name);
    const auto config = ModelConfig::Load(path);
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(config.ok() && checkpoint.ok()) << path;
    for (const TensorSpec& spec : RequiredTensors(*config)) {
      if (spec.shape.size() != 2) continue;
      const auto found =
          FindMatrix(**checkpoint, *config, spec.Module(), spec.shape[0], spec.shape[1]);
      ASSERT_TRUE(found.ok()) << found.status().message();
      EXPECT_EQ(found->format,
                spec.role == TensorRole::kMatrix ? golden.format : MatrixFormat::kPlain)
          << spec.name;
    }
  }
}

TEST(Encode, Fp8AndInt8AreWithinHalfAStepAndUseTheWholeRange) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  constexpr int64_t kRows = 3;
  constexpr int64_t kColumns = 200;  // a whole block of 128 and a cut one
  std::vector<float> values(kRows * kColumns);
  for (float& value : values) value = normal(random);
  for (const bool power_of_two : {false, true}) {
    std::vector<E4m3> codes(values.size());
    float scales[2];
    EncodeFp8Blocks(values.data(), kRows, kColumns, 128, power_of_two, codes.data(), scales);
    float largest = 0.0f;
    for (size_t i = 0; i < values.size(); ++i) {
      const float scale = scales[i % kColumns / 128];
      const float decoded = FromE4m3(codes[i]) * scale;
      largest = std::max(largest, std::fabs(FromE4m3(codes[i])));
      // 3 mantissa bits: half a step is 1/16 of the value, or half of the subnormal step 2^-9.
      ASSERT_LE(std::fabs(decoded - values[i]),
                std::max(std::fabs(values[i]) / 16, scale * 0x1p-10f) * 1.0001f);
    }
    if (power_of_two) {
      int exponent = 0;
      EXPECT_EQ(std::frexp(scales[0], &exponent), 0.5f);
      EXPECT_GE(largest, 208.0f);
    } else {
      EXPECT_EQ(largest, 448.0f);
    }
  }
  std::vector<int8_t> row(kColumns);
  const float scale = EncodeInt8Row(values.data(), kColumns, row.data());
  int largest = 0;
  for (int64_t i = 0; i < kColumns; ++i) {
    largest = std::max(largest, std::abs(int{row[static_cast<size_t>(i)]}));
    EXPECT_LE(std::fabs(static_cast<float>(row[static_cast<size_t>(i)]) * scale -
                        values[static_cast<size_t>(i)]),
              scale * 0.5001f);
  }
  EXPECT_EQ(largest, 127);
}

TEST(Encode, ZerosGetTheScaleOne) {
  const float zeros[4] = {};
  E4m3 codes[4];
  float scale = 0.0f;
  EncodeFp8Blocks(zeros, 2, 2, 2, /*power_of_two=*/true, codes, &scale);
  EXPECT_EQ(scale, 1.0f);
  EXPECT_EQ(codes[3], 0);
  int8_t row[4];
  EXPECT_EQ(EncodeInt8Row(zeros, 4, row), 1.0f);
  EXPECT_EQ(row[3], 0);
}

}  // namespace
}  // namespace causeway
