// AVX-512 with VNNI and BF16: vdpbf16ps and vpdpbusd.
#define CAUSEWAY_VNNI
#define CAUSEWAY_BF16
#include <immintrin.h>
#include <stdint.h>

#include "kernels/op_table.h"

namespace causeway {
namespace {

#include "kernels/cpu/traits_avx512.inc"

#include "kernels/cpu/all_ops.inc"

}  // namespace

extern const OpTable kAvx512Bf16Ops = CAUSEWAY_OP_TABLE("avx512_bf16");

}  // namespace causeway
