// AVX-512 F, BW, DQ and VL; bf16 products by two f32 fma, int8 by int16 madd.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/op_table.h"

namespace causeway {
namespace {

#include "kernels/cpu/traits_avx512.inc"

#include "kernels/cpu/all_ops.inc"
}  // namespace

extern const OpTable kAvx512Ops = CAUSEWAY_OP_TABLE("avx512");

}  // namespace causeway
