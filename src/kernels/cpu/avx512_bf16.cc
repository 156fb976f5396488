// AVX-512 with VNNI, BF16 and VBMI: vdpbf16ps, vpdpbusd and vpermi2b.
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
