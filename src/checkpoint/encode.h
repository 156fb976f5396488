// From f32 rows to the formats that quant_format.h reads.
#pragma once

#include <cstdint>

#include "base/fp8.h"
#include "checkpoint/safetensors.h"

namespace causeway {

// `count` values as F32 or BF16 (rounded to nearest even).
void EncodePlain(StoredType type, const float* values, int64_t count, void* out);

// One row of fp8 blocks: rows [rows <= block, k], scales [ceil(k / block)], so that the largest
// magnitude of a block becomes 448, or with `power_of_two` up to half of that. The scale of a block
// of zeros is 1.
void EncodeFp8Blocks(const float* values, int64_t rows, int64_t k, int64_t block, bool power_of_two,
                     E4m3* out, float* scales);

// One int8 row of k values, symmetric: returns the scale, which makes the largest magnitude 127.
// The scale of a row of zeros is 1.
float EncodeInt8Row(const float* values, int64_t k, int8_t* out);

}  // namespace causeway
