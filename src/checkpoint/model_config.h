// config.json of the DeepSeek V2 / V3 / V3.2 family, validated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

enum class Scoring { kSigmoid, kSoftmax };
enum class GateMethod { kNoAuxTc, kGreedy, kGroupLimitedGreedy };
enum class QuantMethod { kNone, kFp8Block, kInt8 };

// YaRN; `enabled` is false for plain RoPE. Fields as in rope_scaling of config.json.
struct YarnConfig {
  bool enabled = false;
  double factor = 1.0;
  double original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;

  bool operator==(const YarnConfig&) const = default;
};

// Names and meaning as in config.json; see the table of defaults in docs/checkpoints.md.
struct ModelConfig {
  std::string model_type;  // deepseek_v2, deepseek_v3, deepseek_v32
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  // Inner widths: of the MLP of a dense layer, and of one expert.
  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  // The first layers are dense; of the others every moe_layer_freq-th has experts (IsMoe).
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: plain q_proj
  int64_t kv_lora_rank = 0;
  // Of one head: queries and keys without position, their rotated part, and values.
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t n_routed_experts = 0;  // 0: no MoE layer
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  Scoring scoring_func = Scoring::kSigmoid;
  GateMethod topk_method = GateMethod::kNoAuxTc;
  // Whether the weights of the chosen experts are made to sum to 1, before the scaling factor.
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  YarnConfig yarn;
  // In tokens.
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  // Layers for multi-token prediction, beside the num_hidden_layers; files may lack them.
  int64_t num_nextn_predict_layers = 0;
  int64_t index_n_heads = 0;  // 0: dense attention; these three are set together
  int64_t index_head_dim = 0;
  int64_t index_topk = 0;
  bool indexer_rope_interleave = false;
  QuantMethod quant_method = QuantMethod::kNone;
  int64_t quant_block = 128;  // fp8: rows and columns of a weight block
  int64_t bos_token_id = 0;
  std::vector<int64_t> eos_token_ids = {1};
  // What the file says, perhaps nothing; the tensors themselves say how they are stored.
  std::string torch_dtype;

  bool sparse() const { return index_topk > 0; }
  bool IsMoe(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  // Values per token and layer of the latent KV.
  int64_t latent_dim() const { return kv_lora_rank + qk_rope_head_dim; }

  // Parses and validates. Errors name the key, what was found and what was expected; `source` is
  // the file's name in them.
  static StatusOr<ModelConfig> Parse(const std::string& json, const std::string& source);
  // Reads DIR/config.json (and eos ids of generation_config.json where present).
  static StatusOr<ModelConfig> Load(const std::string& directory);
};

}  // namespace causeway
