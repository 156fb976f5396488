#include "model/batch.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 11;
  config.hidden_size = 8;
  config.num_hidden_layers = 3;
  config.first_k_dense_replace = 1;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.index_topk = 5;
  return config;
}

Extend MakeExtend(int64_t begin, int64_t tokens, LogitsWanted logits) {
  Extend extend;
  extend.begin = begin;
  extend.tokens.assign(static_cast<size_t>(tokens), 7);
  extend.logits = logits;
  return extend;
}

Batch MixedBatch() {
  Batch batch;
  batch.extends = {MakeExtend(0, 3, LogitsWanted::kNone), MakeExtend(10, 2, LogitsWanted::kAll),
                   MakeExtend(64, 4, LogitsWanted::kLast), MakeExtend(5, 0, LogitsWanted::kLast),
                   MakeExtend(99, 1, LogitsWanted::kLast)};
  return batch;
}

TEST(Batch, CountsItsTokensAndKnowsItsRanges) {
  const Batch batch = MixedBatch();
  EXPECT_EQ(batch.tokens(), 10);
  EXPECT_EQ(Batch().tokens(), 0);
  const std::vector<ExtendRange> ranges = batch.RangesOf(0);
  ASSERT_EQ(ranges.size(), 5u);
  EXPECT_EQ(ranges[2].begin, 64);
  EXPECT_EQ(ranges[2].end, 68);
  EXPECT_EQ(ranges[3].end, 5);
}

TEST(StepOutput, GivesARowToEachWantedPositionAndToNoOther) {
  const Batch batch = MixedBatch();
  const StepOutput output(Config(), DType::kBf16, batch, nullptr);
  EXPECT_EQ(output.rows(), 4);
  EXPECT_EQ(output.logits().dim(1), 11);
  EXPECT_EQ(output.hidden().rows, 4);
  EXPECT_EQ(output.hidden().cols, 8);
  EXPECT_EQ(output.hidden().type, DType::kBf16);
  struct Case {
    int32_t extend;
    int64_t position, row;
  };
  for (const Case& c : {Case{0, 0, -1}, Case{0, 2, -1}, Case{1, 10, 0}, Case{1, 11, 1},
                        Case{2, 64, -1}, Case{2, 66, -1}, Case{2, 67, 2}, Case{4, 99, 3}}) {
    EXPECT_EQ(output.RowOf(batch, c.extend, c.position), c.row) << c.extend << " " << c.position;
  }
}

TEST(StepOutput, NumbersTheTokensOfTheBatchExtendAfterExtend) {
  const Batch batch = MixedBatch();
  const StepOutput output(Config(), DType::kF32, batch, nullptr);
  int64_t next = 0;
  for (size_t i = 0; i < batch.extends.size(); ++i) {
    for (int64_t p = batch.extends[i].begin; p < batch.extends[i].end(); ++p) {
      EXPECT_EQ(output.TokenOf(batch, static_cast<int32_t>(i), p), next++);
    }
  }
  EXPECT_EQ(next, batch.tokens());
}

TEST(StepOutput, ABatchThatWantsNothingHasNoRows) {
  Batch batch;
  batch.extends = {MakeExtend(0, 3, LogitsWanted::kNone)};
  EXPECT_EQ(StepOutput(Config(), DType::kF32, batch, nullptr).rows(), 0);
  EXPECT_EQ(StepOutput(Config(), DType::kF32, Batch(), nullptr).rows(), 0);
}

TEST(Capture, HasRoomForEveryTokenOfEveryLayerThatChooses) {
  const Capture capture(Config(), 6);
  ASSERT_EQ(capture.hidden.size(), 4u);
  for (const auto& hidden : capture.hidden) EXPECT_EQ(hidden.size(), 6u * 8);
  EXPECT_TRUE(capture.router_indices[0].empty());  // a dense layer
  EXPECT_EQ(capture.router_indices[1].size(), 6u * 2);
  EXPECT_EQ(capture.router_weights[2].size(), 6u * 2);
  EXPECT_EQ(capture.topk_indices[0], std::vector<int32_t>(6 * 5, -1));
}

}  // namespace
}  // namespace causeway
