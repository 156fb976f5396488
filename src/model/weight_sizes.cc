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
  // Whether all of these matrices, which are packed together, are stored so and the mode, which is
  // not float32, keeps it.
  StatusOr<bool> Keeps(MatrixFormat format, const std::vector<Module>& modules) const {
    bool all = mode_ == DType::kBf16;
    for (const Module& m : modules) {
      CAUSEWAY_ASSIGN_OR_RETURN(const StoredMatrix stored,
                                FindMatrix(checkpoint_, config_, m.name, m.n, m.k));
      all = all && stored.format == format;
    }
    return all;
  }
  // Adds bytes of matrices that are stacked and not cut to `to`.
  Status Add(const std::vector<Module>& modules, int64_t& to) const {
    CAUSEWAY_ASSIGN_OR_RETURN(const bool int8, Keeps(MatrixFormat::kInt8Channel, modules));
    CAUSEWAY_ASSIGN_OR_RETURN(const bool fp8, Keeps(MatrixFormat::kFp8Block, modules));
    AddOne(modules, int8, fp8, to);
    return Status();
  }
  // The same where int8 or fp8 is kept.
  void AddOne(const std::vector<Module>& modules, bool int8, bool fp8, int64_t& to) const {
    int64_t n = 0;
    for (const Module& m : modules) {
      fp8 = fp8 && FitsFp8(config_.quant_block, {.rows = {0, m.n}, .to = n, .columns = {0, m.k}});
      n += m.n;
    }
    to += n * modules.front().k * (int8 || fp8 ? 1 : SizeOf(mode_));
  }
  // The same for matrices that ranks cut; `fp8` is what they take less if they stay fp8.
  Status AddCut(const std::vector<Module>& modules, int64_t& to, int64_t& fp8) const {
    CAUSEWAY_ASSIGN_OR_RETURN(const bool int8, Keeps(MatrixFormat::kInt8Channel, modules));
    CAUSEWAY_ASSIGN_OR_RETURN(const bool is_fp8, Keeps(MatrixFormat::kFp8Block, modules));
    for (const Module& m : modules) {
      to += m.n * m.k * (int8 ? 1 : SizeOf(mode_));
      if (is_fp8) fp8 += m.n * m.k * (SizeOf(mode_) - 1);
    }
    return Status();
  }
  // Gate and up of an MLP, which are stacked, and down.
  std::vector<Module> In(const std::string& prefix, int64_t inner) const {
    return {{prefix + "gate_proj", inner, config_.hidden_size},
            {prefix + "up_proj", inner, config_.hidden_size}};
  }
  std::vector<Module> Down(const std::string& prefix, int64_t inner) const {
    return {{prefix + "down_proj", config_.hidden_size, inner}};
  }

 private:
  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const DType mode_;
};

// Of one layer, `whole` what every rank uses and `heads` what all heads take together.
Status AddAttention(const PackedTypes& types, const ModelConfig& c, DType mode,
                    const std::string& prefix, int64_t& whole, WeightSizes::Cut& heads) {
  const int64_t q_rows = c.num_attention_heads * c.qk_head_dim();
  const bool lora = c.q_lora_rank > 0;
  if (lora) {
    CAUSEWAY_RETURN_IF_ERROR(
        types.Add({{prefix + "q_a_proj", c.q_lora_rank, c.hidden_size}}, whole));
  }
  CAUSEWAY_RETURN_IF_ERROR(types.AddCut(
      {{prefix + (lora ? "q_b_proj" : "q_proj"), q_rows, lora ? c.q_lora_rank : c.hidden_size}},
      heads.bytes, heads.fp8_rows));
  CAUSEWAY_RETURN_IF_ERROR(
      types.Add({{prefix + "kv_a_proj_with_mqa", c.latent_dim(), c.hidden_size}}, whole));
  // kv_b_proj is never int8 or fp8, and kept for both forms of attention.
  heads.bytes += c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank *
                 SizeOf(mode) * 2;
  CAUSEWAY_RETURN_IF_ERROR(
      types.AddCut({{prefix + "o_proj", c.hidden_size, c.num_attention_heads * c.v_head_dim}},
                   heads.bytes, heads.fp8_columns));
  if (!c.sparse()) return Status();
  const std::string indexer = prefix + "indexer.";
  CAUSEWAY_RETURN_IF_ERROR(
      types.Add({{indexer + "wq_b", c.index_n_heads * c.index_head_dim, c.q_lora_rank}}, whole));
  CAUSEWAY_RETURN_IF_ERROR(types.Add({{indexer + "wk", c.index_head_dim, c.hidden_size}}, whole));
  whole += c.index_n_heads * c.hidden_size * 4;  // weights_proj stays f32
  return Status();
}

}  // namespace

StatusOr<WeightSizes> WeightSizes::Of(const Checkpoint& checkpoint, const ModelConfig& config,
                                      DType mode) {
  const ModelConfig& c = config;
  const PackedTypes types(checkpoint, config, mode);
  WeightSizes out;
  out.config_ = c;
  out.expert_.assign(static_cast<size_t>(c.num_hidden_layers), 0);
  out.vocab_ = c.vocab_size;
  out.id_ = c.hidden_size * SizeOf(mode);  // never int8 or fp8
  CAUSEWAY_ASSIGN_OR_RETURN(
      const StoredTensor embedding,
      checkpoint.Find("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}));
  out.embedding_ = embedding.bytes;

  Cut heads;
  Cut dense;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::string prefix = Text("model.layers.", layer, ".");
    CAUSEWAY_RETURN_IF_ERROR(
        AddAttention(types, c, mode, prefix + "self_attn.", out.attention_, heads));
    const std::string mlp = prefix + "mlp.";
    if (!c.IsMoe(layer)) {
      CAUSEWAY_RETURN_IF_ERROR(
          types.AddCut(types.In(mlp, c.intermediate_size), dense.bytes, dense.fp8_rows));
      CAUSEWAY_RETURN_IF_ERROR(
          types.AddCut(types.Down(mlp, c.intermediate_size), dense.bytes, dense.fp8_columns));
      continue;
    }
    out.shared_ += c.n_routed_experts * c.hidden_size * 4;  // the gate stays f32
    if (c.n_shared_experts > 0) {
      const int64_t shared = c.moe_intermediate_size * c.n_shared_experts;
      CAUSEWAY_RETURN_IF_ERROR(types.Add(types.In(mlp + "shared_experts.", shared), out.shared_));
      CAUSEWAY_RETURN_IF_ERROR(types.Add(types.Down(mlp + "shared_experts.", shared), out.shared_));
    }
    // The routed experts of a layer keep int8 or fp8 together or not at all.
    std::vector<PackedTypes::Module> matrices;
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      const std::string expert = Text(mlp, "experts.", e, ".");
      for (const auto& in : types.In(expert, c.moe_intermediate_size)) matrices.push_back(in);
      for (const auto& down : types.Down(expert, c.moe_intermediate_size)) matrices.push_back(down);
    }
    CAUSEWAY_ASSIGN_OR_RETURN(const bool int8, types.Keeps(MatrixFormat::kInt8Channel, matrices));
    CAUSEWAY_ASSIGN_OR_RETURN(const bool fp8, types.Keeps(MatrixFormat::kFp8Block, matrices));
    int64_t& expert = out.expert_[static_cast<size_t>(layer)];
    types.AddOne(types.In("", c.moe_intermediate_size), int8, fp8, expert);
    types.AddOne(types.Down("", c.moe_intermediate_size), int8, fp8, expert);
  }
  // By division, exact: every head, and every inner column, takes the same.
  const auto divide = [](const Cut& all, int64_t parts) {
    return Cut{all.bytes / parts, all.fp8_rows / parts, all.fp8_columns / parts};
  };
  out.head_ = divide(heads, c.num_attention_heads);
  out.inner_ = divide(dense, c.intermediate_size);
  return out;
}

bool WeightSizes::ColumnsFit(int64_t inner, const Range& part) const {
  const int64_t runs = SegmentsFor(DType::kBf16, inner) * part.size() / inner;
  return FitsFp8(
      config_.quant_block,
      {.rows = {0, config_.hidden_size}, .columns = part, .segments = std::max<int64_t>(runs, 1)});
}

WeightBytes WeightSizes::BytesOf(const WeightShare& share, const WeightShare& host) const {
  const ModelConfig& c = config_;
  const int64_t block = c.quant_block;
  const auto times = [](const Range& range, int64_t size) {
    return Range{range.begin * size, range.end * size};
  };
  // By what the host packs; k of matrices that are cut in rows is whole.
  const bool q_fits =
      FitsFp8(block, {.rows = times(host.heads, c.qk_head_dim()),
                      .columns = {0, c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size}});
  const Range hidden = {0, c.hidden_size};
  const bool in_fits =
      FitsFp8(block, {.rows = host.inner, .columns = hidden}) &&
      FitsFp8(block, {.rows = host.inner, .to = host.inner.size(), .columns = hidden});
  const bool o_fits =
      ColumnsFit(c.num_attention_heads * c.v_head_dim, times(host.heads, c.v_head_dim));
  WeightBytes out;
  out.attention = attention_ + share.heads.size() * head_.Of(q_fits, o_fits);
  out.dense = share.inner.size() * inner_.Of(in_fits, ColumnsFit(c.intermediate_size, host.inner));
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
