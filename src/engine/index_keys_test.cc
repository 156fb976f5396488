// How far int8 index keys change what the indexer selects.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "checkpoint/random_model.h"
#include "checkpoint/temporary_directory.h"
#include "engine/model_host.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261126;

// A way to compute the prompt's selections.
struct Mode {
  DType dtype = DType::kBf16;
  bool int8_index = false;
};

// Capture::topk_indices of a prompt of random ids.
std::vector<std::vector<int32_t>> Selections(const std::string& model, int64_t tokens, Mode mode) {
  HostOptions options;
  options.model_path = model;
  options.dtype = mode.dtype;
  options.int8_index = mode.int8_index;
  options.context_length = tokens;
  const auto host = ModelHost::Load(options);
  EXPECT_TRUE(host.ok()) << host.status().message();
  const ModelConfig& config = (*host)->config();
  EXPECT_LT(config.index_topk, tokens);
  std::mt19937 random(kSeed);
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < tokens; ++i) {
    prompt.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(config.vocab_size)));
  }
  Capture capture(config, tokens);
  std::vector<float> logits;
  const auto run = SequenceRun::Make(**host, tokens);
  EXPECT_TRUE(run.ok()) << run.status().message();
  const Status status = (*run)->Prefill(prompt, -1, LogitsWanted::kLast, logits, &capture);
  EXPECT_TRUE(status.ok()) << status.message();
  return capture.topk_indices;
}

// Per layer: of what the positions select that have more than index_topk keys, the share that both
// modes agree on.
std::vector<double> Overlap(const std::string& model, int64_t tokens, Mode one, Mode other) {
  const auto ours = Selections(model, tokens, one);
  const auto theirs = Selections(model, tokens, other);
  const auto topk = static_cast<std::ptrdiff_t>(ours[0].size()) / tokens;
  std::vector<double> overlap;
  for (size_t layer = 0; layer < ours.size(); ++layer) {
    std::vector<int32_t> both;
    for (int64_t p = topk; p < tokens; ++p) {
      const auto a = ours[layer].begin() + p * topk;
      const auto b = theirs[layer].begin() + p * topk;
      std::set_intersection(a, a + topk, b, b + topk, std::back_inserter(both));
    }
    overlap.push_back(static_cast<double>(both.size()) /
                      static_cast<double>((tokens - topk) * topk));
    std::printf("layer %zu: %.2f %%\n", layer, overlap.back() * 100);
  }
  return overlap;
}

// Only layer 0 compares keys alone: later layers select on hidden states that differ already, which
// random weights (experts chosen by a hair, scores all close to the border) blow up. How much
// they do so is seen from float32 against bfloat16, two modes without int8 keys.
TEST(Int8IndexKeys, SelectNearlyTheSamePositions) {
  const TemporaryDirectory files;
  const auto config = PresetConfig("tiny-v32");
  const auto format = ParseRandomFormat("bf16");
  ASSERT_TRUE(config.ok() && format.ok());
  const std::string model = files.File("model");
  const Status written = WriteRandomModel(*config, model, 1, *format, {});
  ASSERT_TRUE(written.ok()) << written.message();
  std::printf("int8 against bfloat16 keys\n");
  const auto int8 = Overlap(model, 1024, {}, {.int8_index = true});
  EXPECT_GE(int8[0], 0.98);
  EXPECT_LT(int8[0], 1.0) << "int8 keys are not in use";
  std::printf("float32 against bfloat16\n");
  const auto rounding = Overlap(model, 1024, {}, {.dtype = DType::kF32});
  EXPECT_LT(rounding[0], 1.0);
}

// CAUSEWAY_INDEX_MODEL=DIR measures another model: the figures in docs/performance.md.
TEST(Int8IndexKeys, OfAModelOfTheUsersSelectNearlyTheSamePositions) {
  const char* model = std::getenv("CAUSEWAY_INDEX_MODEL");
  if (model == nullptr) GTEST_SKIP() << "CAUSEWAY_INDEX_MODEL is not set";
  std::printf("int8 against bfloat16 keys\n");
  EXPECT_GE(Overlap(model, 8192, {}, {.int8_index = true})[0], 0.98);
}

}  // namespace
}  // namespace causeway
