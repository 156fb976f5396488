// The element types of activations, packed weights and caches. No functions here: instruction-set
// files include this header (see kernels/op_table.h).
#pragma once

#include <cstdint>

namespace causeway {

// kF8: e4m3 with a scale a block; of packed weights only, whose products take bf16 rows.
enum class DType : uint8_t { kF32, kBf16, kI8, kF8 };

}  // namespace causeway
