// fp8 weights kept in one byte against the same weights in bf16: the same bits, half the memory.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/bf16.h"
#include "checkpoint/quant_format.h"
#include "checkpoint/random_model.h"
#include "checkpoint/temporary_directory.h"
#include "checkpoint/writer.h"
#include "engine/model_host.h"
#include "kernels/cpu/isa.h"

namespace causeway {
namespace {

constexpr int64_t kPrompt = 150;
constexpr int kDecoded = 3;

// Writes `model` anew with every fp8 matrix as bf16(e4m3 * scale), and without quantization_config.
void WidenTo(const std::string& directory, const std::string& model) {
  const auto config = ModelConfig::Load(model);
  ASSERT_TRUE(config.ok()) << config.status().message();
  ASSERT_EQ(config->quant_method, QuantMethod::kFp8Block);
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  std::filesystem::create_directory(directory);
  nlohmann::json json = nlohmann::json::parse(std::ifstream(model + "/config.json"));
  json.erase("quantization_config");
  std::ofstream(directory + "/config.json") << json.dump();
  std::vector<SafetensorsWriter::Declaration> declarations;
  for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
    if (name.ends_with("_scale_inv")) continue;
    const bool fp8 = tensor.type == StoredType::kF8E4m3;
    declarations.push_back({name, fp8 ? StoredType::kBf16 : tensor.type, tensor.shape});
  }
  auto writer = SafetensorsWriter::Create(directory + "/model.safetensors", declarations);
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const SafetensorsWriter::Declaration& declared : declarations) {
    const StoredTensor tensor = *(*checkpoint)->Find(declared.name);
    if (tensor.type == declared.type) {
      ASSERT_TRUE(writer->Write(declared.name, tensor.data, tensor.bytes).ok());
      continue;
    }
    const std::string module = declared.name.substr(0, declared.name.rfind(".weight"));
    const auto matrix = FindMatrix(**checkpoint, *config, module, tensor.shape[0], tensor.shape[1]);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    DequantizeRows(*matrix, 0, matrix->n, values.data());
    std::vector<Bf16> rounded;
    for (const float value : values) rounded.push_back(ToBf16(value));
    ASSERT_TRUE(writer->Write(declared.name, rounded.data(), tensor.elements() * 2).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
}

// Logits of every prompt token, in chunks, and of some decoded ones.
std::vector<float> Logits(const std::string& model, const Layout& layout, const std::string& isa,
                          int64_t* packed_bytes) {
  HostOptions options;
  options.model_path = model;
  options.isa = isa;
  options.context_length = kPrompt + kDecoded;
  options.ranks.layout = layout;
  const auto host = ModelHost::Load(options);
  EXPECT_TRUE(host.ok()) << host.status().message();
  *packed_bytes = (*host)->weights().packed_bytes();
  std::mt19937 random(20260712);
  std::vector<int32_t> prompt;
  const auto vocabulary = static_cast<uint32_t>((*host)->config().vocab_size);
  for (int64_t i = 0; i < kPrompt; ++i) {
    prompt.push_back(static_cast<int32_t>(random() % vocabulary));
  }
  const auto run = SequenceRun::Make(**host, kPrompt + kDecoded);
  EXPECT_TRUE(run.ok()) << run.status().message();
  std::vector<float> logits;
  EXPECT_TRUE((*run)->Prefill(prompt, 97, LogitsWanted::kAll, logits).ok());
  for (int i = 0; i < kDecoded; ++i) {
    std::vector<float> row;
    EXPECT_TRUE((*run)->Decode(prompt[static_cast<size_t>(i)], row).ok());
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

// Bytes of the wide model over those of the other.
double SameBits(const std::string& model) {
  const TemporaryDirectory files;
  const std::string wide_model = files.File("wide");
  WidenTo(wide_model, model);
  if (testing::Test::HasFatalFailure()) return 0;
  double ratio = 0;
  Layout split;
  split.tp = 2;
  split.threads_per_rank = 2;
  for (const Layout& layout : {Layout(), split}) {
    for (const OpTable* table : SupportedTables()) {
      if (table == &kReferenceOps) continue;
      int64_t bytes = 0;
      int64_t wide_bytes = 0;
      const std::vector<float> fp8 = Logits(model, layout, table->name, &bytes);
      const std::vector<float> wide = Logits(wide_model, layout, table->name, &wide_bytes);
      EXPECT_EQ(fp8.size(), wide.size());
      EXPECT_EQ(std::memcmp(fp8.data(), wide.data(), fp8.size() * sizeof(float)), 0)
          << layout.ToString() << " " << table->name;
      ratio = static_cast<double>(wide_bytes) / static_cast<double>(bytes);
    }
  }
  return ratio;
}

// Its experts' gate and up share panels, and so they are kept in bf16.
TEST(Fp8Weights, GiveTheBitsOfTheSameWeightsInBf16) {
  EXPECT_GT(SameBits(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-fp8"), 1.1);
}

TEST(Fp8Weights, OfAModelWhoseMatricesAllFitTakeNearlyHalfTheMemory) {
  const TemporaryDirectory files;
  auto config = PresetConfig("tiny-v32");
  ASSERT_TRUE(config.ok());
  // As V3, whose scales are no powers of two.
  nlohmann::json json = nlohmann::json::parse(*config);
  json["model_type"] = "deepseek_v3";
  json["architectures"] = {"DeepseekV3ForCausalLM"};
  json["vocab_size"] = 256;
  for (const char* sparse : {"index_n_heads", "index_head_dim", "index_topk"}) json.erase(sparse);
  const std::string model = files.File("model");
  const Status written =
      WriteRandomModel(json.dump(), model, 1, *ParseRandomFormat("fp8"), nullptr);
  ASSERT_TRUE(written.ok()) << written.message();
  EXPECT_GT(SameBits(model), 1.8);
}

}  // namespace
}  // namespace causeway
