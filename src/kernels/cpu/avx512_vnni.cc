// AVX-512 with VNNI; bf16 products by two f32 fma (the same bits as vdpbf16ps).
#define CAUSEWAY_VNNI
#include <immintrin.h>
#include <stdint.h>

#include "kernels/op_table.h"

namespace causeway {
namespace {

#include "kernels/cpu/traits_avx512.inc"

#include "kernels/cpu/all_ops.inc"
}  // namespace

extern const OpTable kAvx512VnniOps = CAUSEWAY_OP_TABLE("avx512_vnni");

}  // namespace causeway
