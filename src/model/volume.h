// What ranks must tell each other in a step, counted from shapes alone: the theory beside what
// `ReadCounts` counts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "model/batch.h"
#include "model/expert_placement.h"
#include "model/weights.h"
#include "parallel/layout.h"

namespace causeway {

// What a step's sizes depend on beside the model's shape.
struct VolumeTypes {
  DType mode = DType::kBf16;  // of activations and cached keys
  bool int8 = false;          // the matrices of dense layers, o_proj and experts are int8
  bool int8_index = false;    // cached index keys are int8, with a scale each
  bool int8_kv = false;       // cached latents are int8, with two scales each

  // int8 if o_proj of the first layer is packed as int8.
  static VolumeTypes Of(const Weights& weights, const KvShape& cache);
};

// Bytes of one operation, over all layers and ranks: what a rank reads and another one wrote, once
// for every rank that reads it.
struct Volume {
  std::string operation;
  double bytes = 0;
};

// The volumes of a step of `batch`, cut as `slices` says, with T the attention TP:
//   latent_keys, index_keys   every new token's, to all other ranks of its data-parallel group
//   head_keys                 expanded keys and values of heads, to the other ranks of the context
//                             group (attention_blocks.h) as far as their queries see them
//   o_proj, dense_mlp         all-reduce: 2 * hidden * (T - 1) / T values a token and rank, and the
//                             rows' T - 1 other maxima for int8
//   selected_counts, _keys    top-k positions, made by one rank of a TP group, to the others
//   expert_choices            the ids of a token's experts, to one rank of each other part
//   expert_dispatch           its row, to one rank of each other part that has one of its experts
//   expert_combine            a row of outputs for each such expert
//   kv_a, q_a, index_k, index_q, gate, expert_inner, shared_inner
//                             columns of products that the ranks of a TP group make together
//                             (WorkTogether), to its other ranks
//   index_scores              scores of pages, the same
//   moe_rows                  residual rows, from their home to the other ranks of the TP group
//   hidden_exchange           rows that want logits, to every rank, which all hold some of the head
// `choices`: Capture::router_indices of the step; null: experts chosen evenly, within the groups
// that the gate limits itself to. Operations without bytes are left out.
std::vector<Volume> PredictVolumes(const ModelConfig& config, const VolumeTypes& types,
                                   const Layout& layout, const ExpertPlacement& placement,
                                   const Batch& batch, const StepSlices& slices,
                                   const std::vector<std::vector<int32_t>>* choices);

// The volumes that cross hosts in such a step, for a layout of H hosts whose TP groups lie on G
// hosts each (1, or whole hosts), by operation of the hosts' communicator:
//   kv_exchange       latent and index key of every new token, to each other host that has ranks of
//                     its data-parallel group and computes no key of the token itself
//   o_proj, dense_mlp all-reduce over G hosts: 2 * hidden * (G - 1) / G values a token and host,
//                     and the rows' G - 1 other maxima for int8
//   moe_rows          residual rows, from the host that is home to them to the G - 1 others
//   expert_dispatch   the ids of a token's experts, to every other host; its row, to every other
//                     host (alltoall: to those that compute one of its experts)
//   expert_combine    a row of outputs for each expert computed on another host
//   hidden_exchange   rows that want logits, to every other host
//   logits_exchange   what other hosts hold of the head of each such row, to host 0
// Nothing here follows from how the exchanges are made. Control (steps, signs of life) is left out.
std::vector<Volume> PredictHostVolumes(const ModelConfig& config, const VolumeTypes& types,
                                       const Layout& layout, const ExpertPlacement& placement,
                                       const Batch& batch, const StepSlices& slices,
                                       const std::vector<std::vector<int32_t>>* choices);

// The chance that a token has none of these experts, experts[e] true, if all choices that the gate
// can make are equally likely.
double ChanceOfNone(const ModelConfig& config, const std::vector<bool>& experts);

}  // namespace causeway
