// Shapes follow from the configuration alone. Matrices are [outputs, inputs], as y = x W^T has
// them.
#include "checkpoint/tensor_names.h"

#include "base/check.h"

namespace causeway {
namespace {

// Appends specs whose names share a prefix.
class SpecList {
 public:
  SpecList(const ModelConfig& config, std::vector<TensorSpec>& out) : c_(config), out_(out) {}

  void Norm(const std::string& module, int64_t size) {
    out_.push_back({module + ".weight", {size}, TensorRole::kNorm});
  }
  void Exact(const std::string& name, int64_t size) {
    out_.push_back({name, {size}, TensorRole::kExactVector});
  }
  void Matrix(const std::string& module, int64_t n, int64_t k,
              TensorRole role = TensorRole::kMatrix) {
    out_.push_back({module + ".weight", {n, k}, role});
  }
  void FloatMatrix(const std::string& module, int64_t n, int64_t k) {
    Matrix(module, n, k, TensorRole::kFloatMatrix);
  }

  void Attention(const std::string& prefix) {
    const int64_t q_rows = c_.num_attention_heads * c_.qk_head_dim();
    if (c_.q_lora_rank > 0) {
      Matrix(prefix + "q_a_proj", c_.q_lora_rank, c_.hidden_size);
      Norm(prefix + "q_a_layernorm", c_.q_lora_rank);
      Matrix(prefix + "q_b_proj", q_rows, c_.q_lora_rank);
    } else {
      Matrix(prefix + "q_proj", q_rows, c_.hidden_size);
    }
    Matrix(prefix + "kv_a_proj_with_mqa", c_.latent_dim(), c_.hidden_size);
    Norm(prefix + "kv_a_layernorm", c_.kv_lora_rank);
    Matrix(prefix + "kv_b_proj", c_.num_attention_heads * (c_.qk_nope_head_dim + c_.v_head_dim),
           c_.kv_lora_rank);
    Matrix(prefix + "o_proj", c_.hidden_size, c_.num_attention_heads * c_.v_head_dim);
    if (!c_.sparse()) return;
    // Sparse attention. The indexer reads the query latent and the hidden state, and has one key
    // for all of its heads.
    Matrix(prefix + "indexer.wq_b", c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank);
    Matrix(prefix + "indexer.wk", c_.index_head_dim, c_.hidden_size);
    Exact(prefix + "indexer.k_norm.weight", c_.index_head_dim);
    Exact(prefix + "indexer.k_norm.bias", c_.index_head_dim);
    FloatMatrix(prefix + "indexer.weights_proj", c_.index_n_heads, c_.hidden_size);
  }

  void Mlp(const std::string& prefix, int64_t inner) {
    Matrix(prefix + "gate_proj", inner, c_.hidden_size);
    Matrix(prefix + "up_proj", inner, c_.hidden_size);
    Matrix(prefix + "down_proj", c_.hidden_size, inner);
  }

  void Moe(const std::string& prefix) {
    FloatMatrix(prefix + "gate", c_.n_routed_experts, c_.hidden_size);
    if (c_.topk_method == GateMethod::kNoAuxTc)
      Exact(prefix + "gate.e_score_correction_bias", c_.n_routed_experts);
    for (int64_t e = 0; e < c_.n_routed_experts; ++e)
      Mlp(Text(prefix, "experts.", e, "."), c_.moe_intermediate_size);
    // Several shared experts are stored as one that is wider.
    if (c_.n_shared_experts > 0)
      Mlp(prefix + "shared_experts.", c_.moe_intermediate_size * c_.n_shared_experts);
  }

  void Layer(const std::string& prefix, bool moe) {
    Norm(prefix + "input_layernorm", c_.hidden_size);
    Attention(prefix + "self_attn.");
    Norm(prefix + "post_attention_layernorm", c_.hidden_size);
    if (moe) {
      Moe(prefix + "mlp.");
    } else {
      Mlp(prefix + "mlp.", c_.intermediate_size);
    }
  }

 private:
  const ModelConfig& c_;
  std::vector<TensorSpec>& out_;
};

}  // namespace

std::string TensorSpec::Module() const {
  constexpr size_t kSuffix = sizeof(".weight") - 1;
  CHECK(name.ends_with(".weight"), name);
  return name.substr(0, name.size() - kSuffix);
}

std::vector<TensorSpec> RequiredTensors(const ModelConfig& config) {
  std::vector<TensorSpec> out;
  SpecList list(config, out);
  list.FloatMatrix("model.embed_tokens", config.vocab_size, config.hidden_size);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    list.Layer(Text("model.layers.", i, "."), config.IsMoe(i));
  list.Norm("model.norm", config.hidden_size);
  if (!config.tie_word_embeddings)
    list.FloatMatrix("lm_head", config.vocab_size, config.hidden_size);
  return out;
}

std::vector<TensorSpec> MtpTensors(const ModelConfig& config) {
  std::vector<TensorSpec> out;
  SpecList list(config, out);
  for (int64_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    // MTP layers are numbered on from the main ones, with copies of embedding and head of their
    // own.
    const std::string prefix = Text("model.layers.", config.num_hidden_layers + i, ".");
    list.FloatMatrix(prefix + "embed_tokens", config.vocab_size, config.hidden_size);
    list.Norm(prefix + "enorm", config.hidden_size);
    list.Norm(prefix + "hnorm", config.hidden_size);
    list.FloatMatrix(prefix + "eh_proj", config.hidden_size, 2 * config.hidden_size);
    list.Layer(prefix, /*moe=*/true);
    list.Norm(prefix + "shared_head.norm", config.hidden_size);
    list.FloatMatrix(prefix + "shared_head.head", config.vocab_size, config.hidden_size);
  }
  return out;
}

}  // namespace causeway
