// The presets of make-model.
#include <nlohmann/json.hpp>

#include "checkpoint/json_text.h"
#include "checkpoint/random_model.h"

namespace causeway {
namespace {

struct Preset {
  const char* name;
  int64_t layers, hidden, heads;
  int64_t q_lora, kv_lora, nope, rope, value;
  int64_t dense_inner, expert_inner;
  int64_t experts, groups, best_groups, active;
  int64_t index_heads, index_dim, index_topk;  // 0: dense attention
  int64_t vocabulary;
};

// bench-mini has the head sizes of V3 with few of everything else; slice-v32 is the first layers of
// V3.2 in full size.
constexpr Preset kPresets[] = {
    {"tiny-v32", 3, 256, 16, 96, 64, 32, 16, 32, 512, 128, 16, 4, 2, 4, 4, 32, 64, 2048},
    {"bench-mini-v3", 4, 1024, 16, 384, 512, 128, 64, 128, 2816, 512, 32, 4, 2, 8, 0, 0, 0, 4096},
    {"bench-mini-v32", 4, 1024, 16, 384, 512, 128, 64, 128, 2816, 512, 32, 4, 2, 8, 16, 128, 2048,
     4096},
    {"slice-v32", 4, 7168, 128, 1536, 512, 128, 64, 128, 18432, 2048, 256, 8, 4, 8, 64, 128, 2048,
     129280},
};

nlohmann::json Config(const Preset& p) {
  const bool sparse = p.index_topk > 0;
  nlohmann::json config = {
      {"architectures", {sparse ? "DeepseekV32ForCausalLM" : "DeepseekV3ForCausalLM"}},
      {"model_type", sparse ? "deepseek_v32" : "deepseek_v3"},
      {"attention_bias", false},
      {"bos_token_id", 0},
      {"eos_token_id", 1},
      {"first_k_dense_replace", 1},
      {"hidden_act", "silu"},
      {"hidden_size", p.hidden},
      {"intermediate_size", p.dense_inner},
      {"kv_lora_rank", p.kv_lora},
      {"max_position_embeddings", 163840},
      {"moe_intermediate_size", p.expert_inner},
      {"moe_layer_freq", 1},
      {"n_group", p.groups},
      {"n_routed_experts", p.experts},
      {"n_shared_experts", 1},
      {"norm_topk_prob", true},
      {"num_attention_heads", p.heads},
      {"num_experts_per_tok", p.active},
      {"num_hidden_layers", p.layers},
      {"num_key_value_heads", p.heads},
      {"num_nextn_predict_layers", 1},
      {"q_lora_rank", p.q_lora},
      {"qk_nope_head_dim", p.nope},
      {"qk_rope_head_dim", p.rope},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 10000},
      {"routed_scaling_factor", 2.5},
      {"scoring_func", "sigmoid"},
      {"tie_word_embeddings", false},
      {"topk_group", p.best_groups},
      {"topk_method", "noaux_tc"},
      {"torch_dtype", "bfloat16"},
      {"v_head_dim", p.value},
      {"vocab_size", p.vocabulary},
  };
  config["rope_scaling"] = {
      {"type", "yarn"},       {"factor", 40},   {"original_max_position_embeddings", 4096},
      {"beta_fast", 32},      {"beta_slow", 1}, {"mscale", 1.0},
      {"mscale_all_dim", 1.0}};
  if (sparse) {
    config["index_n_heads"] = p.index_heads;
    config["index_head_dim"] = p.index_dim;
    config["index_topk"] = p.index_topk;
  }
  return config;
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

StatusOr<std::string> PresetConfig(const std::string& name) {
  std::string known;
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return Config(preset).dump(2);
    known += known.empty() ? "" : ", ";
    known += preset.name;
  }
  return InvalidArgument(Text("preset: found ", Quoted(name), ", expected one of ", known));
}

}  // namespace causeway
