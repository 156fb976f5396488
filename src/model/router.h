// The gate: which experts a token goes to, and with which weights.
#pragma once

#include <cstdint>

#include "checkpoint/model_config.h"

namespace causeway {

// One token. logits: [n_routed_experts] f32; bias: [n_routed_experts], noaux_tc only (else null).
// Writes num_experts_per_tok expert ids, best first (ties to the lower id), and their final
// weights. Formulas: docs/model.md, "Router". `scratch`: 2 * n_routed_experts floats.
void Route(const ModelConfig& config, const float* logits, const float* bias, int32_t* experts,
           float* weights, float* scratch);

}  // namespace causeway
