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

// Of a prompt's positions that have more keys than index_topk: the share of the selected positions
// that two runs agree on, per layer.
using Overlap = std::vector<double>;

std::vector<std::vector<int32_t>> Selections(const std::string& model, int64_t tokens,
                                             bool int8_index) {
  HostOptions options;
  options.model_path = model;
  options.int8_index = int8_index;
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

Overlap OverlapOfInt8Keys(const std::string& model, int64_t tokens) {
  const auto exact = Selections(model, tokens, /*int8_index=*/false);
  const auto int8 = Selections(model, tokens, /*int8_index=*/true);
  const auto topk = static_cast<std::ptrdiff_t>(exact[0].size()) / tokens;
  Overlap overlap;
  for (size_t layer = 0; layer < exact.size(); ++layer) {
    std::vector<int32_t> both;
    for (int64_t p = topk; p < tokens; ++p) {
      const auto a = exact[layer].begin() + p * topk;
      const auto b = int8[layer].begin() + p * topk;
      std::set_intersection(a, a + topk, b, b + topk, std::back_inserter(both));
    }
    overlap.push_back(static_cast<double>(both.size()) /
                      static_cast<double>((tokens - topk) * topk));
    std::printf("%s, %lld tokens, layer %zu: %.2f %% of the selected positions are the same\n",
                model.c_str(), static_cast<long long>(tokens), layer, overlap.back() * 100);
  }
  return overlap;
}

// Random weights select by noise, which is harder than a trained model's choice: many scores lie
// close to the border. Layers after the first see hidden states that already differ.
TEST(Int8IndexKeys, SelectNearlyTheSamePositions) {
  const TemporaryDirectory files;
  const auto config = PresetConfig("tiny-v32");
  const auto format = ParseRandomFormat("bf16");
  ASSERT_TRUE(config.ok() && format.ok());
  const Status written = WriteRandomModel(*config, files.File("model"), 1, *format, {});
  ASSERT_TRUE(written.ok()) << written.message();
  const Overlap overlap = OverlapOfInt8Keys(files.File("model"), 1024);
  EXPECT_GE(overlap[0], 0.95);
  EXPECT_LT(overlap[0], 1.0) << "int8 keys are not in use";
  for (double of_layer : overlap) EXPECT_GE(of_layer, 0.9);
}

// CAUSEWAY_INDEX_MODEL=DIR measures another model: the figure in docs/performance.md.
TEST(Int8IndexKeys, OfAModelOfTheUsersSelectNearlyTheSamePositions) {
  const char* model = std::getenv("CAUSEWAY_INDEX_MODEL");
  if (model == nullptr) GTEST_SKIP() << "CAUSEWAY_INDEX_MODEL is not set";
  EXPECT_GE(OverlapOfInt8Keys(model, 8192)[0], 0.9);
}

}  // namespace
}  // namespace causeway
