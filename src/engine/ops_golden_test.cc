// Single operations against values computed in float64 by an independent implementation
// (testdata/ops/README.md), on every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/bf16.h"
#include "base/fp8.h"
#include "base/thread_team.h"
#include "checkpoint/quant_format.h"
#include "checkpoint/safetensors.h"
#include "kernels/cpu/isa.h"
#include "kernels/op_set.h"
#include "model/rope.h"
#include "model/router.h"

namespace causeway {
namespace {

class OpsGolden : public testing::Test {
 protected:
  void SetUp() override {
    auto golden = Checkpoint::OpenFile(CAUSEWAY_SOURCE_DIR "/testdata/ops/golden.safetensors");
    ASSERT_TRUE(golden.ok()) << golden.status().message();
    golden_ = std::move(*golden);
  }

  StoredTensor Find(const std::string& name) const {
    const auto tensor = golden_->Find(name);
    if (!tensor.ok()) ADD_FAILURE() << tensor.status().message();
    return tensor.ok() ? *tensor : StoredTensor{};
  }
  std::vector<float> Floats(const std::string& name) const {
    const StoredTensor tensor = Find(name);
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    CopyToF32(tensor, 0, tensor.elements(), values.data());
    return values;
  }
  // Elements as they are stored.
  template <typename T>
  std::vector<T> Stored(const std::string& name) const {
    const StoredTensor tensor = Find(name);
    EXPECT_EQ(tensor.bytes, tensor.elements() * static_cast<int64_t>(sizeof(T))) << name;
    std::vector<T> values(static_cast<size_t>(tensor.elements()));
    std::memcpy(values.data(), tensor.data, static_cast<size_t>(tensor.bytes));
    return values;
  }

  std::unique_ptr<Checkpoint> golden_;
  ThreadTeam team_{1};
  Arena arena_;
  const ScopedFlushDenormals flush_;
};

// |found - expected| <= tolerance * scale for each of rows x cols values, `scale` being the row's
// largest magnitude, at least `least`.
void ExpectClose(const float* found, const std::vector<float>& expected, int64_t rows, int64_t cols,
                 double tolerance, double least) {
  ASSERT_EQ(static_cast<int64_t>(expected.size()), rows * cols);
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = expected.data() + i * cols;
    double scale = least;
    for (int64_t j = 0; j < cols; ++j) scale = std::max<double>(scale, std::fabs(row[j]));
    for (int64_t j = 0; j < cols; ++j) {
      ASSERT_NEAR(found[i * cols + j], row[j], tolerance * scale) << "[" << i << "," << j << "]";
    }
  }
}

void ForEachTable(const std::function<void(const OpTable&)>& body) {
  for (const OpTable* table : SupportedTables()) {
    SCOPED_TRACE(table->name);
    body(*table);
  }
}

TEST_F(OpsGolden, E4m3CodesAndValues) {
  const std::vector<float> in = Floats("e4m3.in");
  const auto codes = Stored<E4m3>("e4m3.code");
  const std::vector<float> values = Floats("e4m3.value");
  ASSERT_EQ(in.size(), codes.size());
  for (size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(ToE4m3(in[i]), codes[i]) << in[i];
    EXPECT_EQ(FromE4m3(codes[i]), values[i]) << in[i];
  }
}

TEST_F(OpsGolden, Bf16Rounding) {
  const std::vector<float> in = Floats("bf16.in");
  const auto expected = Stored<Bf16>("bf16.out");
  const auto count = static_cast<int64_t>(in.size());
  for (size_t i = 0; i < in.size(); ++i) EXPECT_EQ(ToBf16(in[i]), expected[i]) << in[i];
  ForEachTable([&](const OpTable& table) {
    std::vector<Bf16> out(in.size());
    table.convert({.x = in.data(),
                   .x_stride = count,
                   .m = 1,
                   .n = count,
                   .out = out.data(),
                   .out_stride = count});
    EXPECT_EQ(out, expected);
  });
}

TEST_F(OpsGolden, ProductWithFp8BlockWeights) {
  std::vector<float> x = Floats("act.in");
  ModelConfig config;
  config.quant_method = QuantMethod::kFp8Block;
  const auto matrix = FindMatrix(*golden_, config, "gemm", 200, 300);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  std::vector<float> rows(200 * 300);
  DequantizeRows(*matrix, 0, 200, rows.data());
  for (const int32_t segments : {1, 4}) {
    Weight weight(DType::kF32, 200, 300, segments);
    weight.PackRows(0, 200, rows.data());
    ForEachTable([&](const OpTable& table) {
      const OpSet ops(table, team_);
      const View<float, 2> out = arena_.Floats(9, 200);
      ops.Linear({Rows::Dense(x.data(), DType::kF32, 9, 300)}, weight, Rows::Of(out));
      ExpectClose(out.data(), Floats("gemm.out.w8a16"), 9, 200, 2e-5, 0.0);
    });
  }
}

TEST_F(OpsGolden, Int8QuantisationAndProduct) {
  std::vector<float> x = Floats("act.in");
  ModelConfig config;
  config.quant_method = QuantMethod::kInt8;
  const auto matrix = FindMatrix(*golden_, config, "int8", 70, 300);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  ASSERT_EQ(matrix->format, MatrixFormat::kInt8Channel);
  Weight weight(DType::kI8, 70, 300);
  for (int64_t j = 0; j < 70; ++j) {
    weight.PackRows(j, 1, matrix->Int8Row(j), &matrix->scales[static_cast<size_t>(j)]);
  }
  const auto codes = Stored<int8_t>("int8.act_code");
  const std::vector<float> scales = Floats("int8.act_scale");
  ForEachTable([&](const OpTable& table) {
    const OpSet ops(table, team_);
    const Activation a =
        ops.Prepare(Rows::Dense(x.data(), DType::kF32, 9, 300), DType::kI8, arena_);
    EXPECT_EQ(std::memcmp(a.quantized.data, codes.data(), codes.size()), 0);
    for (size_t i = 0; i < scales.size(); ++i) EXPECT_EQ(a.scale[i], scales[i]) << "row " << i;
    const View<float, 2> out = arena_.Floats(9, 70);
    ops.Linear(a, weight, Rows::Of(out));
    // The sums are exact; two multiplications round.
    ExpectClose(out.data(), Floats("int8.out"), 9, 70, 2e-7, 0.0);
  });
}

TEST_F(OpsGolden, Norms) {
  const std::vector<float> x = Floats("norm.in");
  const std::vector<float> weight = Floats("norm.weight");
  const std::vector<float> bias = Floats("norm.bias");
  const View<const float, 2> rows(x.data(), {7, 100});
  ForEachTable([&](const OpTable& table) {
    const OpSet ops(table, team_);
    const View<float, 2> out = arena_.Floats(7, 100);
    ops.RmsNorm(rows, weight.data(), 1e-6f, Rows::Of(out));
    ExpectClose(out.data(), Floats("norm.rms_out"), 7, 100, 2e-6, 1.0);
    ops.LayerNorm(rows, weight.data(), bias.data(), 1e-6f, Rows::Of(out));
    ExpectClose(out.data(), Floats("norm.layernorm_out"), 7, 100, 2e-6, 1.0);
  });
}

// The configurations behind the tags of rope.TAG.*.
std::vector<std::pair<std::string, ModelConfig>> RopeConfigs() {
  ModelConfig official;
  official.qk_nope_head_dim = 128;
  official.qk_rope_head_dim = 64;
  official.rope_theta = 1e4;
  official.yarn = {.enabled = true,
                   .factor = 40,
                   .original_max_position_embeddings = 4096,
                   .mscale = 1.0,
                   .mscale_all_dim = 1.0};
  ModelConfig tiny = official;
  tiny.qk_rope_head_dim = 16;
  tiny.yarn.original_max_position_embeddings = 64;
  ModelConfig mscale = tiny;
  mscale.rope_theta = 5e4;
  mscale.yarn.factor = 8;
  mscale.yarn.mscale_all_dim = 0.8;
  ModelConfig plain = official;
  plain.yarn = {};
  return {{"official", official}, {"tiny", tiny}, {"mscale", mscale}, {"plain", plain}};
}

TEST_F(OpsGolden, RotaryTablesAndRotation) {
  const auto positions = Stored<int32_t>("rope.positions");
  const int64_t longest = *std::max_element(positions.begin(), positions.end());
  const auto rows = static_cast<int64_t>(positions.size());
  for (const auto& [tag, config] : RopeConfigs()) {
    SCOPED_TRACE(tag);
    const std::string prefix = "rope." + tag;
    const int64_t dim = config.qk_rope_head_dim;
    const int64_t heads = 3;
    const RopeTable rope(config, longest + 1);
    const std::vector<float> cos = Floats(prefix + ".cos");
    const std::vector<float> sin = Floats(prefix + ".sin");
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i * dim / 2);
      const int64_t row = positions[static_cast<size_t>(i)] * dim / 2;
      ExpectClose(rope.view().cos + row, {&cos[at], &cos[at] + dim / 2}, 1, dim / 2, 1e-6, 1.0);
      ExpectClose(rope.view().sin + row, {&sin[at], &sin[at] + dim / 2}, 1, dim / 2, 1e-6, 1.0);
    }
    const double factor =
        SoftmaxScale(config) * std::sqrt(static_cast<double>(config.qk_head_dim()));
    EXPECT_NEAR(factor, Floats(prefix + ".softmax_factor")[0], 1e-6);

    const std::vector<float> x = Floats(prefix + ".in");
    const View<const float, 2> in(x.data(), {rows, heads * dim});
    ForEachTable([&](const OpTable& table) {
      const OpSet ops(table, team_);
      const View<float, 2> out = arena_.Floats(rows, heads * dim);
      for (const bool interleaved : {true, false}) {
        ops.Rotate(in, heads, 0, interleaved, rope.view(), positions.data(), Rows::Of(out));
        ExpectClose(out.data(), Floats(prefix + (interleaved ? ".interleaved" : ".halves")), rows,
                    heads * dim, 1e-6, 1.0);
      }
    });
  }
}

TEST_F(OpsGolden, Router) {
  ModelConfig config;
  config.n_routed_experts = 256;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  config.scoring_func = Scoring::kSigmoid;
  config.topk_method = GateMethod::kNoAuxTc;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5;
  for (const std::string tag : {"v3", "negative"}) {
    const std::string prefix = "router." + tag;
    const std::vector<float> logits = Floats(prefix + ".logits");
    const std::vector<float> bias = Floats(prefix + ".bias");
    const auto expected = Stored<int32_t>(prefix + ".indices");
    const std::vector<float> weights = Floats(prefix + ".weights");
    for (size_t token = 0; token < 32; ++token) {
      int32_t chosen[8];
      float weight[8];
      float scratch[512];
      Route(config, &logits[token * 256], bias.data(), chosen, weight, scratch);
      for (size_t slot = 0; slot < 8; ++slot) {
        EXPECT_EQ(chosen[slot], expected[token * 8 + slot]) << tag << " token " << token;
        EXPECT_NEAR(weight[slot], weights[token * 8 + slot], 1e-6) << tag << " token " << token;
      }
    }
  }
}

TEST_F(OpsGolden, IndexerScores) {
  constexpr int64_t kTokens = 40;
  constexpr int64_t kHeads = 4;
  constexpr int64_t kDim = 128;
  const std::vector<float> q = Floats("indexer.q");
  const std::vector<float> weight = Floats("indexer.w");
  Weight keys(DType::kF32, kPage, kDim);  // the page's other keys stay zero
  keys.PackRows(0, kTokens, Floats("indexer.k").data());
  const void* pages[] = {keys.packed()};
  const Buffer scratch(kScratchBytes);
  ForEachTable([&](const OpTable& table) {
    std::vector<float> scores(kTokens * kPage);
    table.index_scores({.type = DType::kF32,
                        .q = q.data(),
                        .q_stride = kHeads * kDim,
                        .weight = weight.data(),
                        .weight_stride = kHeads,
                        .m = kTokens,
                        .heads = kHeads,
                        .dim = kDim,
                        .key_pages = pages,
                        .page_begin = 0,
                        .page_end = 1,
                        .scores = scores.data(),
                        .scores_stride = kPage,
                        .scratch = scratch.data()});
    std::vector<float> present;  // without the absent keys
    for (int64_t t = 0; t < kTokens; ++t) {
      present.insert(present.end(), &scores[static_cast<size_t>(t * kPage)],
                     &scores[static_cast<size_t>(t * kPage + kTokens)]);
    }
    ExpectClose(present.data(), Floats("indexer.score"), kTokens, kTokens, 1e-6, 0.0);
  });
}

}  // namespace
}  // namespace causeway
