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
  // Four words in every group of four lanes.
  static F Quad(const void* p) { return _mm256_broadcast_ps(static_cast<const __m128*>(p)); }
  // Lane 4 * i + j: the sum of lanes [4 * i, 4 * i + 4) of argument j, (0 + 2) + (1 + 3).
  static F SumQuads(F a, F b, F c, F d) {
    const F ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const F cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d x = _mm256_castps_pd(ab);
    const __m256d y = _mm256_castps_pd(cd);
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
  }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }  // b if either is no number
  static F Nearest(F x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // p * 2^n for p in [1/2, 2), n the integer nearest to x; 0 if x < -126.
  static F TimesPowerOfTwo(F p, F n, F x) {
    const I exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const F product = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    return _mm256_and_ps(product, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ));
  }
  // -inf where the lane's bit is 0.
  static F KeepOrMinusInf(F x, uint32_t bits) {
    const I lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const I set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), x,
                            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)));
  }
  static F Relu(F x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }  // a NaN stays
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static I LoadI(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static F Odd(const uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(LoadI(p), _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static F Even(const uint16_t* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(LoadI(p), 16)); }
  static constexpr bool kBf16Dot = false;
  static constexpr bool kCodeTables = false;
  static constexpr bool kCodeDot = false;
  static F Permute(F x, const int32_t*) { return x; }
  static F DotPairs(F acc, F, F) { return acc; }
  static void Interleave(const uint16_t*, const uint16_t*, F*, F*) {}
  static void StoreBf16(uint16_t*, F) {}
  static void StoreBf16(uint16_t*, F, F) {}
  static F Dot(F acc, const uint16_t*, const uint16_t*) { return acc; }

  static I LoadSums(const int32_t* p) { return LoadI(p); }
  static F FromI8(const int8_t* p) {
    const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
  }
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

  // The indexer's int8 products: signed queries, keys stored as unsigned.
  static I SetI(int32_t x) { return _mm256_set1_epi32(x); }
  static F ReluToFloat(I x) {
    return _mm256_cvtepi32_ps(_mm256_max_epi32(x, _mm256_setzero_si256()));
  }
  static I KeyDotI(I acc, const int8_t*, const uint8_t*) { return acc; }
  static I KeyMaddI(I acc, const int16_t* q, const uint8_t* keys) {
    int32_t even;
    int32_t odd;
    __builtin_memcpy(&even, q, 4);
    __builtin_memcpy(&odd, q + 2, 4);
    const I y = LoadI(keys);
    const I y_even = _mm256_and_si256(y, _mm256_set1_epi16(0xff));
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(y_even, _mm256_set1_epi32(even)));
    return _mm256_add_epi32(acc,
                            _mm256_madd_epi16(_mm256_srli_epi16(y, 8), _mm256_set1_epi32(odd)));
  }
  static constexpr bool kCompress = false;
  static uint32_t Compress(const uint32_t*, int64_t, uint32_t, uint32_t, uint32_t*) { return 0; }
  static void CompressBy(uint32_t, const int32_t*, int32_t*) {}
};

#include "kernels/cpu/all_ops.inc"

}  // namespace

extern const OpTable kAvx2Ops = CAUSEWAY_OP_TABLE("avx2");

}  // namespace causeway
