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
//   o_proj, dense_mlp         all-reduce: 2 * hidden * (T - 1) / T values a token and rank, and the
//                             rows' T - 1 other maxima for int8
//   selected_counts, _keys    top-k positions, made by one rank of a TP group, to the others
//   expert_choices            the ids of a token's experts, to one rank of each other part
//   expert_dispatch           its row, to one rank of each other part that has one of its experts
//   expert_combine            a row of outputs for each such expert
//   moe_rows                  residual rows, from their home to the other ranks of the TP group
//   hidden_exchange           rows that want logits, to every rank, which all hold some of the head
// `choices`: Capture::router_indices of the step; null: experts chosen evenly, within the groups
// that the gate limits itself to. Operations without bytes are left out.
std::vector<Volume> PredictVolumes(const ModelConfig& config, const VolumeTypes& types,
                                   const Layout& layout, const ExpertPlacement& placement,
                                   const Batch& batch, const StepSlices& slices,
                                   const std::vector<std::vector<int32_t>>* choices);

// The chance that a token has none of these experts, experts[e] true, if all choices that the gate
// can make are equally likely.
double ChanceOfNone(const ModelConfig& config, const std::vector<bool>& experts);

}  // namespace causeway
