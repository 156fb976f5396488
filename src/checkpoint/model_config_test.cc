#include "checkpoint/model_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/temporary_directory.h"

namespace causeway {
namespace {

using nlohmann::json;

// The demanded keys only, of a V3 model.
const json kSmall = {{"model_type", "deepseek_v3"},
                     {"vocab_size", 512},
                     {"hidden_size", 64},
                     {"intermediate_size", 96},
                     {"moe_intermediate_size", 32},
                     {"num_hidden_layers", 3},
                     {"num_attention_heads", 4},
                     {"n_routed_experts", 16},
                     {"n_shared_experts", 1},
                     {"num_experts_per_tok", 4},
                     {"max_position_embeddings", 4096}};

const json kYarn = {
    {"type", "yarn"},       {"factor", 40},   {"original_max_position_embeddings", 4096},
    {"beta_fast", 32},      {"beta_slow", 1}, {"mscale", 1.0},
    {"mscale_all_dim", 1.0}};

const json kChannelInt8 = {{"quant_method", "compressed-tensors"},
                           {"format", "int-quantized"},
                           {"ignore", {"lm_head"}},
                           {"config_groups",
                            {{"group_0",
                              {{"targets", {"Linear"}},
                               {"weights",
                                {{"num_bits", 8},
                                 {"type", "int"},
                                 {"strategy", "channel"},
                                 {"symmetric", true},
                                 {"dynamic", false},
                                 {"group_size", nullptr}}},
                               {"input_activations",
                                {{"num_bits", 8},
                                 {"type", "int"},
                                 {"strategy", "token"},
                                 {"symmetric", true},
                                 {"dynamic", true}}},
                               {"output_activations", nullptr}}}}}};

// kSmall changed by a merge patch; null values are set (a patch would remove the key).
json With(const json& changes) {
  json config = kSmall;
  for (const auto& [key, value] : changes.items()) config[key] = value;
  return config;
}

// A copy with the value at a JSON pointer replaced.
json Put(json document, const std::string& pointer, const json& value) {
  document[json::json_pointer(pointer)] = value;
  return document;
}

ModelConfig Good(const json& config) {
  StatusOr<ModelConfig> parsed = ModelConfig::Parse(config.dump(), "config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.ok() ? *parsed : ModelConfig();
}

TEST(ModelConfig, TheDemandedKeysAreEnoughAndTheRestHasTheDefaultsOfV3) {
  const ModelConfig c = Good(kSmall);
  EXPECT_EQ(c.model_type, "deepseek_v3");
  EXPECT_EQ(c.first_k_dense_replace, 0);
  EXPECT_EQ(c.moe_layer_freq, 1);
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_EQ(c.kv_lora_rank, 512);
  EXPECT_EQ(c.qk_head_dim(), 192);
  EXPECT_EQ(c.latent_dim(), 576);
  EXPECT_EQ(c.v_head_dim, 128);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.topk_group, 1);
  EXPECT_EQ(c.scoring_func, Scoring::kSigmoid);
  EXPECT_EQ(c.topk_method, GateMethod::kNoAuxTc);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1.0);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_FALSE(c.yarn.enabled);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_FALSE(c.sparse());
  EXPECT_EQ(c.quant_method, QuantMethod::kNone);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{1});
}

TEST(ModelConfig, V2HasItsOwnDefaultsForTheRouter) {
  const ModelConfig c = Good(With({{"model_type", "deepseek_v2"}}));
  EXPECT_EQ(c.scoring_func, Scoring::kSoftmax);
  EXPECT_EQ(c.topk_method, GateMethod::kGreedy);
  EXPECT_FALSE(c.norm_topk_prob);
}

TEST(ModelConfig, EveryDemandedKeyIsDemanded) {
  for (const auto& [key, value] : kSmall.items()) {
    json config = kSmall;
    config.erase(key);
    const auto parsed = ModelConfig::Parse(config.dump(), "config.json");
    ASSERT_FALSE(parsed.ok()) << key;
    EXPECT_NE(parsed.status().message().find(key + ": found nothing, expected"), std::string::npos)
        << parsed.status().message();
  }
}

TEST(ModelConfig, EveryFieldOfAFullFileIsRead) {
  const ModelConfig c = Good(With({{"model_type", "deepseek_v32"},
                                   {"architectures", {"DeepseekV32ForCausalLM"}},
                                   {"first_k_dense_replace", 1},
                                   {"moe_layer_freq", 2},
                                   {"q_lora_rank", 24},
                                   {"kv_lora_rank", 32},
                                   {"qk_nope_head_dim", 12},
                                   {"qk_rope_head_dim", 8},
                                   {"v_head_dim", 14},
                                   {"n_group", 4},
                                   {"topk_group", 2},
                                   {"scoring_func", "softmax"},
                                   {"topk_method", "group_limited_greedy"},
                                   {"norm_topk_prob", false},
                                   {"routed_scaling_factor", 16},
                                   {"rms_norm_eps", 1e-5},
                                   {"rope_theta", 50000},
                                   {"rope_scaling", Put(kYarn, "/mscale", 0.707)},
                                   {"tie_word_embeddings", true},
                                   {"num_nextn_predict_layers", 1},
                                   {"index_n_heads", 2},
                                   {"index_head_dim", 16},
                                   {"index_topk", 32},
                                   {"indexer_rope_interleave", true},
                                   {"bos_token_id", 7},
                                   {"eos_token_id", {8, 9}},
                                   {"torch_dtype", "bfloat16"},
                                   {"some_unknown_key", {{"a", 1}}}}));
  EXPECT_EQ(c.first_k_dense_replace, 1);
  EXPECT_TRUE(c.IsMoe(2));
  EXPECT_FALSE(c.IsMoe(1));
  EXPECT_EQ(c.q_lora_rank, 24);
  EXPECT_EQ(c.kv_lora_rank, 32);
  EXPECT_EQ(c.qk_nope_head_dim, 12);
  EXPECT_EQ(c.qk_rope_head_dim, 8);
  EXPECT_EQ(c.v_head_dim, 14);
  EXPECT_EQ(c.n_group, 4);
  EXPECT_EQ(c.topk_group, 2);
  EXPECT_EQ(c.scoring_func, Scoring::kSoftmax);
  EXPECT_EQ(c.topk_method, GateMethod::kGroupLimitedGreedy);
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 16.0);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.rope_theta, 50000.0);
  EXPECT_TRUE(c.yarn.enabled);
  EXPECT_EQ(c.yarn.factor, 40.0);
  EXPECT_EQ(c.yarn.mscale, 0.707);
  EXPECT_EQ(c.yarn.mscale_all_dim, 1.0);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.index_n_heads, 2);
  EXPECT_EQ(c.index_head_dim, 16);
  EXPECT_EQ(c.index_topk, 32);
  EXPECT_TRUE(c.indexer_rope_interleave);
  EXPECT_EQ(c.bos_token_id, 7);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int64_t>{8, 9}));
  EXPECT_EQ(c.torch_dtype, "bfloat16");
}

TEST(ModelConfig, TheArchitectureStandsInForAMissingModelType) {
  json config = With({{"architectures", {"DeepseekV2ForCausalLM"}}});
  config.erase("model_type");
  EXPECT_EQ(Good(config).model_type, "deepseek_v2");
}

TEST(ModelConfig, NullMeansAbsent) {
  const ModelConfig c = Good(With({{"q_lora_rank", nullptr},
                                   {"rope_scaling", nullptr},
                                   {"n_group", nullptr},
                                   {"n_shared_experts", nullptr},
                                   {"quantization_config", nullptr},
                                   {"eos_token_id", nullptr}}));
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_FALSE(c.yarn.enabled);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.n_shared_experts, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{1});
}

TEST(ModelConfig, AModelWithoutExpertsNeedsNoKeysOfExperts) {
  json config = With({{"n_routed_experts", nullptr}});
  for (const char* key : {"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok"})
    config.erase(key);
  const ModelConfig c = Good(config);
  EXPECT_EQ(c.n_routed_experts, 0);
  EXPECT_FALSE(c.IsMoe(2));
}

TEST(ModelConfig, YarnIsReadFromEveryPlaceThatFilesPutItIn) {
  const YarnConfig expected = Good(With({{"rope_scaling", kYarn}})).yarn;
  EXPECT_TRUE(expected.enabled);
  json renamed = kYarn;
  renamed.erase("type");
  renamed["rope_type"] = "yarn";
  EXPECT_EQ(Good(With({{"rope_scaling", renamed}})).yarn, expected);
  renamed["rope_theta"] = 12345;
  const ModelConfig newer = Good(With({{"rope_parameters", renamed}}));
  EXPECT_EQ(newer.yarn, expected);
  EXPECT_EQ(newer.rope_theta, 12345.0);
  EXPECT_EQ(Good(With({{"rope_parameters", renamed}, {"rope_scaling", kYarn}})).yarn, expected);
  const json plain = {{"rope_type", "default"}, {"rope_theta", 777}};
  EXPECT_EQ(Good(With({{"rope_parameters", plain}})).rope_theta, 777.0);
  EXPECT_FALSE(Good(With({{"rope_parameters", plain}})).yarn.enabled);
}

TEST(ModelConfig, TheSupportedQuantisationsAreTold) {
  const auto quantised = [](const json& quant) {
    return Good(With({{"quantization_config", quant}}));
  };
  const ModelConfig fp8 = quantised({{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {64, 64}},
                                     {"scale_fmt", "ue8m0"}});
  EXPECT_EQ(fp8.quant_method, QuantMethod::kFp8Block);
  EXPECT_EQ(fp8.quant_block, 64);
  EXPECT_EQ(quantised(kChannelInt8).quant_method, QuantMethod::kInt8);
  EXPECT_EQ(quantised({{"quant_method", "w8a8_int8"}, {"is_dynamic", true}}).quant_method,
            QuantMethod::kInt8);
}

struct BadConfig {
  const char* what;
  json config;
  const char* message;  // part of it
};

class BadConfigs : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigs, AreRefusedWithTheKeyWhatWasFoundAndWhatWasExpected) {
  const auto parsed = ModelConfig::Parse(GetParam().config.dump(), "dir/config.json");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(parsed.status().message().starts_with("dir/config.json: "));
  EXPECT_NE(parsed.status().message().find(GetParam().message), std::string::npos)
      << parsed.status().message();
}

json Rope(const std::string& pointer, const json& value) {
  return With({{"rope_scaling", Put(kYarn, pointer, value)}});
}
json Quant(const json& quant) { return With({{"quantization_config", quant}}); }
json Int8(const std::string& pointer, const json& value) {
  return Quant(Put(kChannelInt8, "/config_groups/group_0" + pointer, value));
}
json Fp8(const std::string& key, const json& value) {
  json quant = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  quant[key] = value;
  return Quant(quant);
}

INSTANTIATE_TEST_SUITE_P(
    Family, BadConfigs,
    testing::Values(
        BadConfig{"Type", With({{"model_type", "llama"}}),
                  "model_type: found \"llama\", expected deepseek_v2, deepseek_v3 or deepseek_v32"},
        BadConfig{"TypeNotText", With({{"model_type", 3}}),
                  "model_type: found 3, expected a string"},
        BadConfig{"Architecture", With({{"architectures", {"LlamaForCausalLM"}}}),
                  "architectures: found [\"LlamaForCausalLM\"], expected "
                  "[\"DeepseekV3ForCausalLM\"] for model_type deepseek_v3"},
        BadConfig{"OnlyArchitecture", With({{"model_type", nullptr}, {"architectures", {"Other"}}}),
                  "architectures: found [\"Other\"], expected DeepseekV2ForCausalLM, "},
        BadConfig{"TwoArchitectures",
                  With({{"architectures", {"DeepseekV3ForCausalLM", "DeepseekV3ForCausalLM"}}}),
                  "expected a list of one name"},
        BadConfig{"NotAnObject", json::array({1}), "found [1], expected an object"}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Sizes, BadConfigs,
    testing::Values(
        BadConfig{"Text", With({{"hidden_size", "64"}}),
                  "hidden_size: found \"64\", expected an integer"},
        BadConfig{"Real", With({{"hidden_size", 64.0}}),
                  "hidden_size: found 64.0, expected an integer"},
        BadConfig{"Truth", With({{"hidden_size", true}}), "hidden_size: found true"},
        BadConfig{"List", With({{"moe_layer_freq", {1}}}), "moe_layer_freq: found [1]"},
        BadConfig{"Zero", With({{"vocab_size", 0}}),
                  "vocab_size: found 0, expected an integer from 1"},
        BadConfig{"Negative", With({{"vocab_size", -5}}), "vocab_size: found -5"},
        BadConfig{"Huge", With({{"hidden_size", uint64_t{1} << 63}}),
                  "hidden_size: found 9223372036854775808"},
        BadConfig{"Odd", With({{"hidden_size", 65}}),
                  "hidden_size: found 65, expected an even number"},
        BadConfig{"OddRope", With({{"qk_rope_head_dim", 7}}), "qk_rope_head_dim: found 7"},
        BadConfig{"NoLayer", With({{"num_hidden_layers", 0}}), "num_hidden_layers: found 0"},
        BadConfig{"Layers", With({{"num_hidden_layers", 10001}}),
                  "num_hidden_layers: found 10001, expected an integer from 1 to 10000"},
        BadConfig{"NullDemanded", With({{"hidden_size", nullptr}}), "hidden_size: found null"},
        BadConfig{"Activation", With({{"hidden_act", "gelu"}}),
                  "hidden_act: found \"gelu\", expected \"silu\""},
        BadConfig{"Bias", With({{"attention_bias", true}}), "attention_bias: found true"},
        BadConfig{"Interleave", With({{"rope_interleave", false}}), "rope_interleave: found false"},
        BadConfig{"Epsilon", With({{"rms_norm_eps", 0}}), "rms_norm_eps: found 0"},
        BadConfig{"Tied", With({{"tie_word_embeddings", 1}}),
                  "tie_word_embeddings: found 1, expected true or false"},
        BadConfig{"Parameters",
                  With({{"hidden_size", 1 << 20},
                        {"intermediate_size", 1 << 20},
                        {"moe_intermediate_size", 1 << 20},
                        {"num_hidden_layers", 1000}}),
                  "parameters, expected at most"}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Experts, BadConfigs,
    testing::Values(
        BadConfig{"Groups", With({{"n_group", 3}}),
                  "n_group: found 3, expected a divisor of n_routed_experts, which is 16"},
        BadConfig{"BestGroups", With({{"n_group", 4}, {"topk_group", 5}}),
                  "topk_group: found 5, expected at most n_group, which is 4"},
        BadConfig{"Active", With({{"n_group", 8}, {"topk_group", 1}}),
                  "num_experts_per_tok: found 4, expected at most 2"},
        BadConfig{"Scoring", With({{"scoring_func", "tanh"}}), "scoring_func: found \"tanh\""},
        BadConfig{"Method", With({{"topk_method", "best"}}), "topk_method: found \"best\""},
        BadConfig{"Scale", With({{"routed_scaling_factor", -1}}),
                  "routed_scaling_factor: found -1"},
        BadConfig{"TooMany", With({{"n_routed_experts", 4096}, {"num_hidden_layers", 100}}),
                  "n_routed_experts: found 4096, expected at most 262144 in all layers"},
        BadConfig{"NextnWithoutExperts",
                  With({{"n_routed_experts", 0}, {"num_nextn_predict_layers", 1}}),
                  "num_nextn_predict_layers: found 1, expected 0"}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Indexer, BadConfigs,
    testing::Values(
        BadConfig{"Some", With({{"q_lora_rank", 24}, {"index_topk", 32}}),
                  "index_n_heads: found nothing, expected an integer: the three"},
        BadConfig{"V32WithoutIt", With({{"model_type", "deepseek_v32"}}),
                  "index_n_heads: found nothing, expected an integer: deepseek_v32 has sparse"},
        BadConfig{"Narrow",
                  With({{"q_lora_rank", 24},
                        {"index_topk", 32},
                        {"index_n_heads", 2},
                        {"index_head_dim", 32}}),
                  "index_head_dim: found 32, expected at least qk_rope_head_dim, which is 64"},
        BadConfig{"NoQueryLatent",
                  With({{"index_topk", 32}, {"index_n_heads", 2}, {"index_head_dim", 64}}),
                  "q_lora_rank: found nothing, expected a rank"}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Rope, BadConfigs,
    testing::Values(
        BadConfig{"Kind", Rope("/type", "linear"),
                  "rope_scaling.type: found \"linear\", expected \"yarn\" or \"default\""},
        BadConfig{"NoKind", With({{"rope_scaling", json::object()}}),
                  "rope_scaling.type: found nothing"},
        BadConfig{"TwoKinds", Rope("/rope_type", "default"), "rope_scaling.type: found \"yarn\""},
        BadConfig{"NotAnObject", With({{"rope_scaling", 40}}),
                  "rope_scaling: found 40, expected an object"},
        BadConfig{"Factor", Rope("/factor", 0.5), "rope_scaling.factor: found 0.5"},
        BadConfig{"FactorMissing", Rope("/factor", nullptr), "rope_scaling.factor: found null"},
        BadConfig{"Original", Rope("/original_max_position_embeddings", 0),
                  "rope_scaling.original_max_position_embeddings: found 0"},
        BadConfig{"Betas", Rope("/beta_slow", 64), "rope_scaling.beta_slow: found 64"},
        BadConfig{"Mscale", Rope("/mscale", "1"), "rope_scaling.mscale: found \"1\""},
        BadConfig{"AttentionFactor", Rope("/attention_factor", 1.2),
                  "rope_scaling.attention_factor: found 1.2"},
        BadConfig{"Theta", With({{"rope_theta", 1}}), "rope_theta: found 1, expected a number"},
        BadConfig{"Thetas",
                  With({{"rope_theta", 20000}, {"rope_parameters", {{"rope_theta", 30000}}}}),
                  "rope_theta: found 20000, expected 30000, as in rope_parameters"},
        BadConfig{"TwoYarns",
                  With({{"rope_scaling", kYarn}, {"rope_parameters", Put(kYarn, "/factor", 4)}}),
                  "rope_parameters: found an object, expected the same values"}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Tokens, BadConfigs,
    testing::Values(
        BadConfig{"Past", With({{"eos_token_id", 512}}),
                  "eos_token_id: found 512, expected an integer from 0 to 511"},
        BadConfig{"PastInList", With({{"eos_token_id", {1, 512}}}), "eos_token_id: found [1,512]"},
        BadConfig{"EmptyList", With({{"eos_token_id", json::array()}}), "eos_token_id: found []"},
        BadConfig{"Text", With({{"bos_token_id", "0"}}), "bos_token_id: found \"0\""}),
    [](const auto& test) { return test.param.what; });

INSTANTIATE_TEST_SUITE_P(
    Quantisation, BadConfigs,
    testing::Values(
        BadConfig{"Awq", Quant({{"quant_method", "awq"}}),
                  "quantization_config.quant_method: found \"awq\", expected \"fp8\""},
        BadConfig{"Gptq", Quant({{"quant_method", "gptq"}}), "found \"gptq\", expected \"fp8\""},
        BadConfig{"NoMethod", Quant(json::object()),
                  "quantization_config.quant_method: found nothing"},
        BadConfig{"NotAnObject", Quant("fp8"), "quantization_config: found \"fp8\""},
        BadConfig{"Fp8Format", Fp8("fmt", "e5m2"), "quantization_config.fmt: found \"e5m2\""},
        BadConfig{"Fp8Static", Fp8("activation_scheme", "static"),
                  "quantization_config.activation_scheme: found \"static\""},
        BadConfig{"Fp8NoBlock", Fp8("weight_block_size", nullptr),
                  "quantization_config.weight_block_size: found null"},
        BadConfig{"Fp8OneSize", Fp8("weight_block_size", {128}), "weight_block_size: found [128]"},
        BadConfig{"Fp8Oblong", Fp8("weight_block_size", {128, 64}),
                  "weight_block_size: found [128,64]"},
        BadConfig{"Fp8Zero", Fp8("weight_block_size", {0, 0}), "weight_block_size: found [0,0]"},
        BadConfig{"Fp8Scale", Fp8("scale_fmt", "e5m3"), "scale_fmt: found \"e5m3\""},
        BadConfig{"Int8Static", Quant({{"quant_method", "w8a8_int8"}, {"is_dynamic", false}}),
                  "quantization_config.is_dynamic: found false, expected true: static"},
        BadConfig{"Int8Scheme",
                  Quant({{"quant_method", "w8a8_int8"}, {"activation_scheme", "static"}}),
                  "quantization_config.activation_scheme: found \"static\", expected \"dynamic\""},
        BadConfig{
            "Int4", Int8("/weights/num_bits", 4),
            "quantization_config.config_groups.group_0.weights.num_bits: found 4, expected 8"},
        BadConfig{"FloatType", Int8("/weights/type", "float"), "weights.type: found \"float\""},
        BadConfig{"PerTensor", Int8("/weights/strategy", "tensor"),
                  "weights.strategy: found \"tensor\""},
        BadConfig{"Groups", Int8("/weights/group_size", 128), "weights.group_size: found 128"},
        BadConfig{"Asymmetric", Int8("/weights/symmetric", false),
                  "weights.symmetric: found false, expected true: zero points"},
        BadConfig{"StaticInputs", Int8("/input_activations/dynamic", false),
                  "input_activations.dynamic: found false, expected true: static"},
        BadConfig{"InputsPerTensor", Int8("/input_activations/strategy", "tensor"),
                  "input_activations.strategy: found \"tensor\""},
        BadConfig{"WeightOnly", Int8("/input_activations", nullptr),
                  "group_0.input_activations: found null"},
        BadConfig{
            "NoGroup", Quant(Put(kChannelInt8, "/config_groups", json::object())),
            "quantization_config.config_groups: found an object, expected at least one group"},
        BadConfig{"Packed", Quant(Put(kChannelInt8, "/format", "pack-quantized")),
                  "quantization_config.format: found \"pack-quantized\""},
        BadConfig{"KvCache", Quant(Put(kChannelInt8, "/kv_cache_scheme", {{"num_bits", 8}})),
                  "quantization_config.kv_cache_scheme: found an object"}),
    [](const auto& test) { return test.param.what; });

TEST(ModelConfig, TextThatIsNoStrictJsonIsRefused) {
  for (const char* text : {"", "{", "nonsense", "{\"a\": 1,}", "[1, 2", "{\"vocab_size\": NaN}",
                           "{\"vocab_size\": 1, \"vocab_size\": 2}"})
    EXPECT_FALSE(ModelConfig::Parse(text, "config.json").ok()) << text;
  const auto twice = ModelConfig::Parse(R"({"vocab_size": 1, "vocab_size": 2})", "config.json");
  EXPECT_EQ(twice.status().message(),
            "config.json: key \"vocab_size\" appears twice in one object");
}

TEST(ModelConfig, LoadAddsTheEndIdsOfTheGenerationConfig) {
  const TemporaryDirectory directory;
  directory.Put("config.json", With({{"eos_token_id", 5}}).dump());
  EXPECT_EQ(ModelConfig::Load(directory.path())->eos_token_ids, std::vector<int64_t>{5});
  directory.Put("generation_config.json", R"({"eos_token_id": [3, 5, 9], "temperature": 1.0})");
  EXPECT_EQ(ModelConfig::Load(directory.path())->eos_token_ids, (std::vector<int64_t>{5, 3, 9}));
  directory.Put("generation_config.json", "{}");
  EXPECT_EQ(ModelConfig::Load(directory.path())->eos_token_ids, std::vector<int64_t>{5});
  directory.Put("generation_config.json", R"({"eos_token_id": 4711})");
  EXPECT_EQ(ModelConfig::Load(directory.path()).status().message(),
            directory.File("generation_config.json") +
                ": eos_token_id: found 4711, expected an integer from 0 to 511, or a list of such");
  directory.Put("generation_config.json", "{");
  EXPECT_FALSE(ModelConfig::Load(directory.path()).ok());
}

TEST(ModelConfig, LoadNamesAMissingFile) {
  const TemporaryDirectory directory;
  const Status status = ModelConfig::Load(directory.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(status.message().starts_with(directory.File("config.json") + ": can't open"))
      << status.message();
}

TEST(ModelConfig, TheGoldenModelsAreRead) {
  struct Golden {
    const char* name;
    const char* model_type;
    QuantMethod quant;
  };
  for (const Golden& golden : {Golden{"v2-tiny-f32", "deepseek_v2", QuantMethod::kNone},
                               Golden{"v3-tiny-int8", "deepseek_v3", QuantMethod::kInt8},
                               Golden{"v32-tiny-fp8", "deepseek_v32", QuantMethod::kFp8Block}}) {
    const auto config =
        ModelConfig::Load(Text(CAUSEWAY_SOURCE_DIR, "/testdata/golden/", golden.name));
    ASSERT_TRUE(config.ok()) << config.status().message();
    EXPECT_EQ(config->model_type, golden.model_type);
    EXPECT_EQ(config->quant_method, golden.quant);
    EXPECT_TRUE(config->yarn.enabled);
    EXPECT_EQ(config->yarn.original_max_position_embeddings, 64.0);
  }
}

}  // namespace
}  // namespace causeway
