// Sizes without loading: from shapes and stored types alone, by the loader's own rules, for
// `inspect` and for planning. Padding of panels, scales and norms are left out.
#include "model/weight_sizes.h"

#include <algorithm>

#include "checkpoint/quant_format.h"

namespace causeway {
namespace {

// Finds the type that a matrix is packed in; as WeightLoader decides it.
class PackedTypes {
 public:
  PackedTypes(const Checkpoint& checkpoint, const ModelConfig& config, DType mode)
      : checkpoint_(checkpoint), config_(config), mode_(mode) {}

  struct Module {
    std::string name;
    int64_t n;
    int64_t k;
  };
  // Bytes of an element of these matrices, which are packed together: one byte if all of them are
  // stored as int8 and the mode keeps it.
  StatusOr<int64_t> ElementBytes(const std::vector<Module>& modules) const {
    // float32 keeps nothing as int8.
    bool int8 = mode_ == DType::kBf16;
    for (const Module& m : modules) {
      CAUSEWAY_ASSIGN_OR_RETURN(const StoredMatrix stored,
                                FindMatrix(checkpoint_, config_, m.name, m.n, m.k));
      int8 = int8 && stored.format == MatrixFormat::kInt8Channel;
    }
    return int8 ? 1 : SizeOf(mode_);
  }
  // Adds bytes of a matrix of its own to `to`.
  Status Add(const Module& m, int64_t& to) const {
    CAUSEWAY_ASSIGN_OR_RETURN(const int64_t bytes, ElementBytes({m}));
    to += m.n * m.k * bytes;
    return Status();
  }
  // The same for gate, up and down of an MLP.
  Status AddMlp(const std::string& prefix, int64_t inner, int64_t& to) const {
    const int64_t hidden = config_.hidden_size;
    CAUSEWAY_ASSIGN_OR_RETURN(
        const int64_t in,
        ElementBytes({{prefix + "gate_proj", inner, hidden}, {prefix + "up_proj", inner, hidden}}));
    to += 2 * inner * hidden * in;
    return Add({prefix + "down_proj", hidden, inner}, to);
  }

 private:
  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const DType mode_;
};

// Of one layer, `whole` what every rank uses and `heads` what all heads take together.
Status AddAttention(const PackedTypes& types, const ModelConfig& c, DType mode,
                    const std::string& prefix, int64_t& whole, int64_t& heads) {
  const int64_t q_rows = c.num_attention_heads * c.qk_head_dim();
  if (c.q_lora_rank > 0) {
    CAUSEWAY_RETURN_IF_ERROR(types.Add({prefix + "q_a_proj", c.q_lora_rank, c.hidden_size}, whole));
    CAUSEWAY_RETURN_IF_ERROR(types.Add({prefix + "q_b_proj", q_rows, c.q_lora_rank}, heads));
  } else {
    CAUSEWAY_RETURN_IF_ERROR(types.Add({prefix + "q_proj", q_rows, c.hidden_size}, heads));
  }
  CAUSEWAY_RETURN_IF_ERROR(
      types.Add({prefix + "kv_a_proj_with_mqa", c.latent_dim(), c.hidden_size}, whole));
  // kv_b_proj is never int8, and kept for both forms of attention.
  heads += c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank *
           SizeOf(mode) * 2;
  CAUSEWAY_RETURN_IF_ERROR(
      types.Add({prefix + "o_proj", c.hidden_size, c.num_attention_heads * c.v_head_dim}, heads));
  if (!c.sparse()) return Status();
  const std::string indexer = prefix + "indexer.";
  CAUSEWAY_RETURN_IF_ERROR(
      types.Add({indexer + "wq_b", c.index_n_heads * c.index_head_dim, c.q_lora_rank}, whole));
  CAUSEWAY_RETURN_IF_ERROR(types.Add({indexer + "wk", c.index_head_dim, c.hidden_size}, whole));
  whole += c.index_n_heads * c.hidden_size * 4;  // weights_proj stays f32
  return Status();
}

}  // namespace

StatusOr<WeightSizes> WeightSizes::Of(const Checkpoint& checkpoint, const ModelConfig& config,
                                      DType mode) {
  const ModelConfig& c = config;
  const PackedTypes types(checkpoint, config, mode);
  WeightSizes out;
  out.expert_.assign(static_cast<size_t>(c.num_hidden_layers), 0);
  out.vocab_ = c.vocab_size;
  out.id_ = c.hidden_size * SizeOf(mode);  // never int8
  CAUSEWAY_ASSIGN_OR_RETURN(
      const StoredTensor embedding,
      checkpoint.Find("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}));
  out.embedding_ = embedding.bytes;

  int64_t heads = 0;
  int64_t dense = 0;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::string prefix = Text("model.layers.", layer, ".");
    CAUSEWAY_RETURN_IF_ERROR(
        AddAttention(types, c, mode, prefix + "self_attn.", out.attention_, heads));
    const std::string mlp = prefix + "mlp.";
    if (!c.IsMoe(layer)) {
      CAUSEWAY_RETURN_IF_ERROR(types.AddMlp(mlp, c.intermediate_size, dense));
      continue;
    }
    out.shared_ += c.n_routed_experts * c.hidden_size * 4;  // the gate stays f32
    if (c.n_shared_experts > 0) {
      CAUSEWAY_RETURN_IF_ERROR(types.AddMlp(
          mlp + "shared_experts.", c.moe_intermediate_size * c.n_shared_experts, out.shared_));
    }
    // The routed experts of a layer keep int8 together or not at all.
    std::vector<PackedTypes::Module> matrices;
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      const std::string expert = Text(mlp, "experts.", e, ".");
      matrices.push_back({expert + "gate_proj", c.moe_intermediate_size, c.hidden_size});
      matrices.push_back({expert + "up_proj", c.moe_intermediate_size, c.hidden_size});
      matrices.push_back({expert + "down_proj", c.hidden_size, c.moe_intermediate_size});
    }
    CAUSEWAY_ASSIGN_OR_RETURN(const int64_t bytes, types.ElementBytes(matrices));
    out.expert_[static_cast<size_t>(layer)] = 3 * c.moe_intermediate_size * c.hidden_size * bytes;
  }
  // By division, exact: every head, and every inner column, takes the same.
  out.head_ = heads / c.num_attention_heads;
  out.inner_ = dense / c.intermediate_size;
  return out;
}

WeightBytes WeightSizes::BytesOf(const WeightShare& share) const {
  WeightBytes out;
  out.attention = attention_ + share.heads.size() * head_;
  out.dense = share.inner.size() * inner_;
  out.shared = shared_;
  for (size_t layer = 0; layer < expert_.size(); ++layer) {
    const std::vector<bool>& held = share.experts[layer];
    out.experts += std::count(held.begin(), held.end(), true) * expert_[layer];
  }
  // Whole panels: the last one may reach beyond the vocabulary.
  const Range ids = {std::min(vocab_, share.head_panels.begin * kPanel),
                     std::min(vocab_, share.head_panels.end * kPanel)};
  out.vocabulary = ids.size() * id_;
  return out;
}

}  // namespace causeway
