// Keys of a bf16 cache as those of an int8 one, on their way from a prefill to a decode server.
#pragma once

#include "checkpoint/model_config.h"
#include "kernels/op_table.h"
#include "transfer/rows.h"

namespace causeway {

// Quantised as the model does it (Forward::PublishKeys), but from values that were rounded to bf16
// before. `ops` must outlive the conversions.
RowConversions ToInt8(const OpTable& ops, const ModelConfig& config);

}  // namespace causeway
