#include "checkpoint/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "checkpoint/model_config.h"
#include "checkpoint/quant_format.h"
#include "checkpoint/random_values.h"
#include "checkpoint/temporary_directory.h"
#include "checkpoint/tensor_names.h"

namespace causeway {
namespace {

namespace fs = std::filesystem;

const char* const kFormats[] = {"bf16", "f32", "fp8", "int8"};

// V3.2 with everything that a model can have, and widths that cut fp8 blocks.
std::string TinyConfig() {
  const nlohmann::json config = {{"model_type", "deepseek_v32"},
                                 {"vocab_size", 300},
                                 {"hidden_size", 136},
                                 {"intermediate_size", 200},
                                 {"moe_intermediate_size", 24},
                                 {"num_hidden_layers", 2},
                                 {"first_k_dense_replace", 1},
                                 {"num_attention_heads", 2},
                                 {"q_lora_rank", 24},
                                 {"kv_lora_rank", 32},
                                 {"qk_nope_head_dim", 16},
                                 {"qk_rope_head_dim", 8},
                                 {"v_head_dim", 16},
                                 {"n_routed_experts", 4},
                                 {"n_shared_experts", 1},
                                 {"num_experts_per_tok", 2},
                                 {"num_nextn_predict_layers", 1},
                                 {"index_n_heads", 2},
                                 {"index_head_dim", 16},
                                 {"index_topk", 8},
                                 {"max_position_embeddings", 256}};
  return config.dump();
}

Status Write(const std::string& directory, const std::string& format, uint64_t seed = 1,
             int64_t shard_bytes = kShardBytes) {
  return WriteRandomModel(TinyConfig(), directory, seed, *ParseRandomFormat(format), nullptr,
                          shard_bytes);
}

std::string Bytes(const fs::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return std::move(out).str();
}

std::set<std::string> FilesIn(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.insert(entry.path().filename().string());
  return names;
}

std::vector<TensorSpec> AllTensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs = RequiredTensors(config);
  for (TensorSpec& spec : MtpTensors(config)) specs.push_back(std::move(spec));
  return specs;
}

TEST(RandomModel, EveryFormatHasAllTensorsOfItsConfigurationAndNoOthers) {
  for (const char* format : kFormats) {
    const TemporaryDirectory directory;
    const Status written = Write(directory.File("m"), format);
    ASSERT_TRUE(written.ok()) << written.message();
    EXPECT_EQ(FilesIn(directory.File("m")),
              (std::set<std::string>{"config.json", "model.safetensors"}));
    const auto config = ModelConfig::Load(directory.File("m"));
    ASSERT_TRUE(config.ok()) << config.status().message();
    const auto checkpoint = Checkpoint::Open(directory.File("m"));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    size_t tensors = 0;
    for (const TensorSpec& spec : AllTensors(*config)) {
      const auto found = (*checkpoint)->Find(spec.name, spec.shape);
      ASSERT_TRUE(found.ok()) << found.status().message();
      ++tensors;
      if (spec.shape.size() != 2) continue;
      const auto matrix =
          FindMatrix(**checkpoint, *config, spec.Module(), spec.shape[0], spec.shape[1]);
      ASSERT_TRUE(matrix.ok()) << matrix.status().message();
      const bool quantised = matrix->format != MatrixFormat::kPlain;
      EXPECT_EQ(quantised,
                spec.role == TensorRole::kMatrix && config->quant_method != QuantMethod::kNone)
          << spec.name;
      tensors += quantised;
    }
    EXPECT_EQ((*checkpoint)->tensors().size(), tensors);
    const QuantMethod expected = std::string(format) == "fp8"    ? QuantMethod::kFp8Block
                                 : std::string(format) == "int8" ? QuantMethod::kInt8
                                                                 : QuantMethod::kNone;
    EXPECT_EQ(config->quant_method, expected);
  }
}

TEST(RandomModel, QuantisedFormatsApproximateTheSameWeights) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(Write(directory.File("f32"), "f32").ok());
  const std::string module = "model.layers.0.mlp.gate_proj";  // [200, 136]
  const auto rows = [&](const std::string& format) {
    const auto config = ModelConfig::Load(directory.File(format));
    const auto checkpoint = Checkpoint::Open(directory.File(format));
    const auto matrix = FindMatrix(**checkpoint, *config, module, 200, 136);
    CHECK(matrix.ok(), matrix.status().message());
    std::vector<float> out(200 * 136);
    DequantizeRows(*matrix, 0, 200, out.data());
    return out;
  };
  const std::vector<float> exact = rows("f32");
  for (const auto& [format, tolerance] :
       {std::pair{"bf16", 0x1p-9}, {"int8", 0.02}, {"fp8", 0.04}}) {
    ASSERT_TRUE(Write(directory.File(format), format).ok());
    const std::vector<float> rounded = rows(format);
    double error = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(double{rounded[i]} - exact[i], 2);
      size += std::pow(double{exact[i]}, 2);
    }
    EXPECT_LT(std::sqrt(error / size), tolerance) << format;
    EXPECT_GT(error, 0.0) << format;
  }
}

TEST(RandomModel, TheSameSeedGivesTheSameBytesAndAnotherSeedOthers) {
  for (const char* format : kFormats) {
    const TemporaryDirectory directory;
    ASSERT_TRUE(Write(directory.File("a"), format, 5).ok());
    ASSERT_TRUE(Write(directory.File("b"), format, 5).ok());
    ASSERT_TRUE(Write(directory.File("c"), format, 6).ok());
    const auto bytes = [&](const std::string& name) {
      return Bytes(directory.File(name) + "/model.safetensors");
    };
    EXPECT_TRUE(bytes("a") == bytes("b")) << format;
    EXPECT_FALSE(bytes("a") == bytes("c")) << format;
  }
}

// The known answers were computed independently, in Python. They must never change, or benchmarks
// and tests on random models would.
TEST(RandomModel, ValuesAreThoseOfEveryOtherMachine) {
  const auto config = ModelConfig::Parse(TinyConfig(), "config.json");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const TensorSpec spec{"lm_head.weight", {300, 136}, TensorRole::kFloatMatrix};
  const RandomValues values(1, spec, *config);
  std::vector<float> all(300 * 136);
  values.Fill(0, 300 * 136, all.data());
  float part[3];
  values.Fill(1000, 3, part);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(part[i], all[static_cast<size_t>(1000 + i)]);
  double sum = 0.0;
  double square = 0.0;
  for (const float value : all) {
    sum += value;
    square += double{value} * value;
  }
  const double count = 300 * 136;
  EXPECT_NEAR(sum / count, 0.0, 0.005);
  EXPECT_NEAR(std::sqrt(square / count), 2.0 / std::sqrt(136.0), 0.002);
  EXPECT_EQ(all[0], 0x1.65dd38p-4f);
  EXPECT_EQ(all[1], 0x1.b77a2p-3f);
  EXPECT_EQ(all[40799], 0x1.c431bcp-4f);
}

TEST(RandomModel, TheMtpLayerHasCopiesOfEmbeddingAndHead) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(Write(directory.File("m"), "bf16").ok());
  const auto checkpoint = Checkpoint::Open(directory.File("m"));
  const auto bytes = [&](const std::string& name) {
    const StoredTensor tensor = *(*checkpoint)->Find(name);
    return std::string(reinterpret_cast<const char*>(tensor.data),
                       static_cast<size_t>(tensor.bytes));
  };
  EXPECT_TRUE(bytes("model.layers.2.embed_tokens.weight") == bytes("model.embed_tokens.weight"));
  EXPECT_TRUE(bytes("model.layers.2.shared_head.head.weight") == bytes("lm_head.weight"));
  EXPECT_FALSE(bytes("lm_head.weight") == bytes("model.embed_tokens.weight"));
}

TEST(RandomModel, ShardsHoldTheSameTensorsAsOneFile) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(Write(directory.File("one"), "fp8").ok());
  const Status written = Write(directory.File("many"), "fp8", 1, /*shard_bytes=*/50000);
  ASSERT_TRUE(written.ok()) << written.message();
  const std::set<std::string> files = FilesIn(directory.File("many"));
  EXPECT_GT(files.size(), 4u);
  EXPECT_TRUE(files.contains("model.safetensors.index.json"));
  const std::string shards = std::to_string(files.size() - 2);  // without config and index
  const std::string padded = std::string(5 - shards.size(), '0') + shards;
  EXPECT_TRUE(files.contains(Text("model-00001-of-", padded, ".safetensors")));
  EXPECT_TRUE(files.contains(Text("model-", padded, "-of-", padded, ".safetensors")));
  const auto one = Checkpoint::Open(directory.File("one"));
  const auto many = Checkpoint::Open(directory.File("many"));
  ASSERT_TRUE(many.ok()) << many.status().message();
  ASSERT_EQ((*one)->tensors().size(), (*many)->tensors().size());
  for (const auto& [name, tensor] : (*one)->tensors()) {
    const StoredTensor other = *(*many)->Find(name, tensor.shape);
    EXPECT_TRUE(std::equal(tensor.data, tensor.data + tensor.bytes, other.data)) << name;
  }
}

TEST(RandomModel, ADirectoryWithAModelIsLeftAlone) {
  const TemporaryDirectory directory;
  directory.Put("model-00001-of-00002.safetensors", "precious");
  const Status status = Write(directory.path(), "bf16");
  EXPECT_EQ(status.message(),
            directory.path() +
                ": holds model-00001-of-00002.safetensors already; give --output a directory "
                "without a model");
  EXPECT_EQ(FilesIn(directory.path()), std::set<std::string>{"model-00001-of-00002.safetensors"});
}

TEST(RandomModel, AFailureLeavesNoFilesBehind) {
  const TemporaryDirectory directory;
  // The second shard can't be created: a folder has its name.
  const std::string name = "model-00002-of-00002.safetensors";
  ASSERT_TRUE(Write(directory.File("whole"), "bf16").ok());
  const auto bytes =
      static_cast<int64_t>(fs::file_size(directory.File("whole") + "/model.safetensors"));
  fs::create_directories(directory.File("m") + "/blocked");
  int calls = 0;
  const Status status = WriteRandomModel(
      TinyConfig(), directory.File("m"), 1, RandomFormat::kBf16,
      [&](int64_t, int64_t) {
        if (calls++ == 0) fs::create_directories(directory.File("m") + "/" + name);
      },
      bytes * 6 / 10);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  EXPECT_EQ(FilesIn(directory.File("m")), (std::set<std::string>{"blocked", name}));
}

TEST(RandomModel, ProgressRisesToTheTotal) {
  const TemporaryDirectory directory;
  int64_t last = 0;
  int64_t all = 0;
  const Status status = WriteRandomModel(TinyConfig(), directory.File("m"), 1, RandomFormat::kInt8,
                                         [&](int64_t done, int64_t total) {
                                           EXPECT_GT(done, last);
                                           last = done;
                                           all = total;
                                         });
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, (*Checkpoint::Open(directory.File("m")))->bytes());
}

TEST(RandomModel, EveryPresetIsAValidConfigurationOfItsName) {
  EXPECT_EQ(PresetNames(),
            (std::vector<std::string>{"tiny-v32", "bench-mini-v3", "bench-mini-v32", "slice-v32"}));
  for (const std::string& name : PresetNames()) {
    const auto config = ModelConfig::Parse(*PresetConfig(name), name);
    ASSERT_TRUE(config.ok()) << config.status().message();
    EXPECT_EQ(config->sparse(), name.ends_with("v32"));
    EXPECT_TRUE(config->yarn.enabled);
    EXPECT_EQ(config->yarn.factor, 40.0);
    EXPECT_EQ(config->num_nextn_predict_layers, 1);
    EXPECT_FALSE(config->IsMoe(0));
    EXPECT_TRUE(config->IsMoe(1));
  }
  const auto slice = ModelConfig::Parse(*PresetConfig("slice-v32"), "slice-v32");
  EXPECT_EQ(slice->hidden_size, 7168);
  EXPECT_EQ(slice->num_attention_heads * slice->qk_head_dim(), 24576);
  EXPECT_EQ(slice->vocab_size, 129280);
  EXPECT_EQ(PresetConfig("large").status().message(),
            "preset: found \"large\", expected one of tiny-v32, bench-mini-v3, bench-mini-v32, "
            "slice-v32");
}

TEST(RandomModel, UnknownFormatsAndBadConfigurationsAreRefused) {
  EXPECT_EQ(ParseRandomFormat("fp4").status().message(),
            "format: found \"fp4\", expected bf16, f32, fp8 or int8");
  const TemporaryDirectory directory;
  EXPECT_FALSE(WriteRandomModel("{}", directory.File("m"), 1, RandomFormat::kBf16, nullptr).ok());
  EXPECT_FALSE(fs::exists(directory.File("m")));
  const std::string file = directory.Put("file", "x");
  const Status status = WriteRandomModel(TinyConfig(), file, 1, RandomFormat::kBf16, nullptr);
  EXPECT_TRUE(status.message().starts_with(file + ": can't make this directory"))
      << status.message();
}

// A released configuration comes with fp8; the format asked for replaces it.
TEST(RandomModel, TheFormatReplacesAQuantisationOfTheGivenConfiguration) {
  nlohmann::json config = nlohmann::json::parse(TinyConfig());
  config["quantization_config"] = {{"quant_method", "awq"}};
  const TemporaryDirectory directory;
  const Status status =
      WriteRandomModel(config.dump(), directory.File("m"), 1, RandomFormat::kF32, nullptr);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto loaded = ModelConfig::Load(directory.File("m"));
  EXPECT_EQ(loaded->quant_method, QuantMethod::kNone);
  EXPECT_EQ(loaded->torch_dtype, "float32");
}

TEST(RandomModel, V2ModelsWithPlainQueriesAndTiedEmbeddingsAreMadeToo) {
  nlohmann::json config = nlohmann::json::parse(TinyConfig());
  config["model_type"] = "deepseek_v2";
  config["q_lora_rank"] = nullptr;
  config["tie_word_embeddings"] = true;
  config["num_nextn_predict_layers"] = 0;
  for (const char* key : {"index_n_heads", "index_head_dim", "index_topk"}) config.erase(key);
  const TemporaryDirectory directory;
  const Status status =
      WriteRandomModel(config.dump(), directory.File("m"), 1, RandomFormat::kBf16, nullptr);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto checkpoint = Checkpoint::Open(directory.File("m"));
  EXPECT_TRUE((*checkpoint)->Has("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE((*checkpoint)->Has("lm_head.weight"));
  EXPECT_FALSE((*checkpoint)->Has("model.layers.1.mlp.gate.e_score_correction_bias"));
}

}  // namespace
}  // namespace causeway
