// quantization_config of config.json: which quantised checkpoints are understood.
#pragma once

#include "checkpoint/json_fields.h"
#include "checkpoint/model_config.h"

namespace causeway {

// Sets quant_method and quant_block from the model's configuration; what is not supported is
// refused by name.
void ReadQuantConfig(JsonFields& model, ModelConfig& config);

}  // namespace causeway
