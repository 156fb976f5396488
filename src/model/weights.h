// The model's weights, packed once per host and shared by its ranks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/huge_memory.h"
#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"
#include "kernels/packed_weight.h"
#include "model/expert_placement.h"
#include "model/rope.h"
#include "parallel/layout.h"

namespace causeway {

// What of a model one host holds: what its ranks need. Everything on one host.
struct WeightShare {
  Range heads;                             // of attention: rows of q_b, columns of o_proj
  Range inner;                             // of dense layers: rows of gate and up, columns of down
  Range head_panels;                       // of the vocabulary (kPanel ids each): lm_head
  std::vector<std::vector<bool>> experts;  // [layers][n_routed_experts]; empty for dense layers
  RedundantExperts redundant;              // how the layout's experts are placed

  static WeightShare Of(const ModelConfig& config, const Layout& layout, int host,
                        const RedundantExperts& redundant = {});
  // What one rank uses of it.
  static WeightShare OfRank(const ModelConfig& config, const Layout& layout, int rank,
                            const RedundantExperts& redundant = {});
};

// Whether the model can be cut as the layout says; an error names the rule and the nearest legal
// attention TP sizes.
Status CheckLayout(const ModelConfig& config, DType mode, const Layout& layout);

// A part of a stored matrix: its rows [rows.begin, rows.end), packed from row `to` of a Weight on,
// and its columns, in `segments` runs.
struct MatrixPart {
  Range rows;
  int64_t to = 0;
  Range columns;
  int64_t segments = 1;
};

// Whether a part of fp8 blocks of `block` rows and columns can stay fp8 when it is packed: every
// panel must lie in one row of blocks, and every run be whole groups of columns. If not, bfloat16
// mode packs it as bf16.
bool FitsFp8(int64_t block, const MatrixPart& part);

// The lightning indexer of a layer. Notation as in docs/model.md.
struct IndexerWeights {
  Weight wq_b;              // [index_n_heads * index_head_dim, q_lora_rank]
  Weight wk;                // [index_head_dim, hidden]
  Weight weights_proj;      // [index_n_heads, hidden] f32, times heads^-1/2 * head_dim^-1/2
  std::vector<float> norm;  // [index_head_dim]
  std::vector<float> bias;  // [index_head_dim]
};

// Matrices are [outputs, inputs]; those cut over an attention TP group hold the host's part only.
struct AttentionWeights {
  Weight q_a;                   // [q_lora_rank, hidden]; empty if q_lora_rank is 0
  std::vector<float> q_a_norm;  // [q_lora_rank]
  // Of the heads that this host holds:
  Weight q_b;                    // [heads * (nope + rope), q_lora_rank], or q_proj [.., hidden]
  Weight kv_a;                   // [kv_lora_rank + rope, hidden]
  std::vector<float> kv_a_norm;  // [kv_lora_rank]
  std::vector<Weight> w_uk;      // per head [kv_lora_rank, nope]: absorbs k_nope into the query
  std::vector<Weight> w_uv;      // per head [value, kv_lora_rank]
  std::vector<Weight> kv_b;      // per head [nope + value, kv_lora_rank]: materialises
  Weight o;                      // [hidden, heads * value], row-parallel
  IndexerWeights indexer;        // empty unless the model is sparse
};

// down(silu(gate(x)) * up(x)); gate and up are one matrix, gate's rows first.
struct MlpWeights {
  Weight gate_up;  // [2 * intermediate, hidden]
  Weight down;     // [hidden, intermediate]
};

struct MoeWeights {
  Weight gate;                     // [experts, hidden] f32
  std::vector<float> bias;         // [experts], noaux_tc only
  DType input_type = DType::kF32;  // of all experts' gate_up, and of their down
  DType down_type = DType::kF32;
  std::vector<MlpWeights> experts;  // empty where another host holds it
  MlpWeights shared;                // empty if n_shared_experts is 0
};

struct LayerWeights {
  std::vector<float> input_norm;           // [hidden]
  std::vector<float> post_attention_norm;  // [hidden]
  AttentionWeights attention;
  bool is_moe = false;
  MlpWeights mlp;  // dense layers
  MoeWeights moe;  // MoE layers
};

// Called from any loading thread, in order of `done`.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

class Weights {
 public:
  // Reads and packs the share of every tensor of the main model (the MTP layer is skipped) with
  // `threads` threads. `mode` kF32 dequantises everything exactly; kBf16 rounds floating-point
  // matrices to bf16 and keeps int8 matrices int8 and fp8 matrices fp8 (all but lm_head, the gates,
  // kv_b_proj, whose two forms must agree, and what FitsFp8 excludes: fp8 is rounded to bf16 there,
  // which gives the same bits). Errors name the tensor, the file, and expected against found.
  // Returns the first error; what has been loaded is then dropped.
  static StatusOr<std::unique_ptr<Weights>> Load(std::unique_ptr<Checkpoint> checkpoint,
                                                 const ModelConfig& config, DType mode,
                                                 const WeightShare& share, int threads,
                                                 const LoadProgress& progress);

  const ModelConfig& config() const { return config_; }
  DType mode() const { return mode_; }
  const LayerWeights& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const WeightShare& share() const { return share_; }
  const Weight& head() const { return head_; }  // [ids of share().head_panels, hidden]
  // Copies the embedding of a token, [hidden] f32.
  void Embed(int32_t token, float* out) const;
  int64_t packed_bytes() const { return packed_bytes_; }
  // The fp8 matrices that FitsFp8 excludes, two bytes a weight: names of modules.
  const std::vector<std::string>& fp8_excluded() const { return fp8_excluded_; }

 private:
  friend class WeightLoader;
  Weights() = default;

  ModelConfig config_;
  DType mode_ = DType::kBf16;
  WeightShare share_;
  std::unique_ptr<Checkpoint> checkpoint_;  // keeps the embedding mapped
  StoredTensor embedding_;                  // [vocab, hidden]
  HugeMemory memory_;                       // of all packed values
  std::vector<LayerWeights> layers_;
  std::vector<float> final_norm_;
  Weight head_;
  int64_t packed_bytes_ = 0;
  std::vector<std::string> fp8_excluded_;
};

}  // namespace causeway
