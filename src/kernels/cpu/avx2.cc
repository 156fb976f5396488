// AVX2 and FMA: 8 lanes, 16 registers.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/op_table.h"

namespace causeway {
namespace {

struct Isa {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;  // of a tile: 16 columns
  static constexpr int Rows(int) { return 6; }

  static F Zero() { return _mm256_setzero_ps(); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void StoreHalves(float* p, F x) { Store(p, x); }
  static F Broadcast(const float* p) { return _mm256_set1_ps(*p); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static I LoadI(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static F Odd(const uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(LoadI(p), _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static F Even(const uint16_t* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(LoadI(p), 16)); }
  static constexpr bool kBf16Dot = false;
  static F Dot(F acc, const uint16_t*, const uint16_t*) { return acc; }

  static I LoadSums(const int32_t* p) { return LoadI(p); }
  static F FromI(I x) { return _mm256_cvtepi32_ps(x); }
  static void StoreI(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static constexpr bool kByteDot = false;
  static I DotI(I acc, const uint8_t*, const int8_t*) { return acc; }
  static I MaddI(I acc, const int16_t* a, const int8_t* w) {
    int32_t even;
    int32_t odd;
    __builtin_memcpy(&even, a, 4);
    __builtin_memcpy(&odd, a + 2, 4);
    const I y = LoadI(w);
    const I w_even = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8);
    const I w_odd = _mm256_srai_epi16(y, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w_even, _mm256_set1_epi32(even)));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w_odd, _mm256_set1_epi32(odd)));
  }
};

#include "kernels/cpu/all_ops.inc"

}  // namespace

extern const OpTable kAvx2Ops = CAUSEWAY_OP_TABLE("avx2");

}  // namespace causeway
