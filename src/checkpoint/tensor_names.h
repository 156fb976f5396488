// The tensors of a checkpoint, by their names on Hugging Face.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_config.h"

namespace causeway {

enum class TensorRole {
  kMatrix,       // [n, k] of a linear layer that may be quantised
  kFloatMatrix,  // one that never is: embeddings, head, router, indexer.weights_proj, eh_proj
  kNorm,         // weights of a norm
  kExactVector,  // kept in f32: e_score_correction_bias, the indexer's k_norm
};

// What a checkpoint must hold under a name.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorRole role;

  // The name without ".weight".
  std::string Module() const;
};

// The tensors of the main model, in the order of computation. Scales of quantised matrices are not
// listed: which matrices have them is read off the file (quant_format.h).
std::vector<TensorSpec> RequiredTensors(const ModelConfig& config);

// The tensors of the multi-token-prediction layers, which checkpoints may lack.
std::vector<TensorSpec> MtpTensors(const ModelConfig& config);

}  // namespace causeway
