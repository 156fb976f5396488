// The element types of activations, packed weights and caches. No functions here: instruction-set
// files include this header (see kernels/op_table.h).
#pragma once

#include <cstdint>

namespace causeway {

enum class DType : uint8_t { kF32, kBf16, kI8 };

}  // namespace causeway
