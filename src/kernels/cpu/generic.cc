// Portable C++ for any CPU: vectors of four floats by the compiler's vector extension. Without a
// fused operation f32 products multiply, then add; bf16 products give the same bits as elsewhere,
// because the product of two bf16 values is exact in f32.
#include <stdint.h>

#include "kernels/op_table.h"

namespace causeway {
namespace {

struct Isa {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  typedef uint32_t U __attribute__((vector_size(16)));  // sums of these wrap
  static constexpr int kLanes = 4;
  static constexpr int kVectors = 4;  // of a tile: 16 columns
  static constexpr int Rows(int) { return 2; }

  static F Zero() { return F{}; }
  static F Load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static void Store(float* p, F x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static void StoreHalves(float* p, F x) { Store(p, x); }
  static F Broadcast(const float* p) { return F{*p, *p, *p, *p}; }
  static F Fma(F a, F b, F c) { return a * b + c; }
  static F Add(F a, F b) { return a + b; }
  static F Quad(const void* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  // Lane j: the sum of the lanes of argument j, (0 + 2) + (1 + 3).
  static F SumQuads(F a, F b, F c, F d) {
    return (F{a[0], b[0], c[0], d[0]} + F{a[2], b[2], c[2], d[2]}) +
           (F{a[1], b[1], c[1], d[1]} + F{a[3], b[3], c[3], d[3]});
  }
  static F Max(F a, F b) { return a > b ? a : b; }  // b if either is no number
  static F Nearest(F x) {
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    return (x + kShift) - kShift;
  }
  // p * 2^n for p in [1/2, 2), n the integer nearest to x; 0 if x < -126.
  static F TimesPowerOfTwo(F p, F n, F x) {
    const F shifted = n + 12582912.0f;  // n stands in its low bits; for x far below, not used
    const U exponent = (reinterpret_cast<U>(shifted) - 0x4b400000u) << 23;
    const U product = reinterpret_cast<U>(p) + exponent;
    return reinterpret_cast<F>(reinterpret_cast<I>(product) & (x >= -126.0f));
  }
  // -inf where the lane's bit is 0.
  static F KeepOrMinusInf(F x, uint32_t bits) {
    const I lane = {1, 2, 4, 8};
    const I set = (lane & static_cast<int32_t>(bits)) == lane;
    return set ? x : F{} - __builtin_inff();
  }
  static F Relu(F x) { return x < 0.0f ? F{} : x; }  // a NaN stays
  static F Mul(F a, F b) { return a * b; }
  static I Pairs(const uint16_t* p) {
    I x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static F Odd(const uint16_t* p) {
    return reinterpret_cast<F>(Pairs(p) & static_cast<int32_t>(0xffff0000));
  }
  static F Even(const uint16_t* p) { return reinterpret_cast<F>(Pairs(p) << 16); }
  static constexpr bool kBf16Dot = false;
  static constexpr bool kCodeTables = false;
  static constexpr bool kCodeDot = false;
  static F Permute(F x, const int32_t*) { return x; }
  static F DotPairs(F acc, F, F) { return acc; }
  static void Interleave(const uint16_t*, const uint16_t*, F*, F*) {}
  static void StoreBf16(uint16_t*, F) {}
  static void StoreBf16(uint16_t*, F, F) {}
  static F Dot(F acc, const uint16_t*, const uint16_t*) { return acc; }

  static I LoadSums(const int32_t* p) {
    I x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static F FromI8(const int8_t* p) {
    return F{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
             static_cast<float>(p[3])};
  }
  static F FromI(I x) { return __builtin_convertvector(x, F); }
  static void StoreI(int32_t* p, I x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static constexpr bool kByteDot = false;
  static I DotI(I acc, const uint8_t*, const int8_t*) { return acc; }
  static I MaddI(I acc, const int16_t* a, const int8_t* w) {
    for (int lane = 0; lane < kLanes; ++lane) {
      acc[lane] += a[0] * w[lane * 4] + a[1] * w[lane * 4 + 2] + a[2] * w[lane * 4 + 1] +
                   a[3] * w[lane * 4 + 3];
    }
    return acc;
  }

  // The indexer's int8 products: signed queries, keys stored as unsigned.
  static I SetI(int32_t x) { return I{x, x, x, x}; }
  static F ReluToFloat(I x) { return __builtin_convertvector(x > 0 ? x : I{}, F); }
  static I KeyDotI(I acc, const int8_t*, const uint8_t*) { return acc; }
  static I KeyMaddI(I acc, const int16_t* q, const uint8_t* keys) {
    for (int lane = 0; lane < kLanes; ++lane) {
      acc[lane] += q[0] * keys[lane * 4] + q[1] * keys[lane * 4 + 2] + q[2] * keys[lane * 4 + 1] +
                   q[3] * keys[lane * 4 + 3];
    }
    return acc;
  }
  static constexpr bool kCompress = false;
  static uint32_t Compress(const uint32_t*, int64_t, uint32_t, uint32_t, uint32_t*) { return 0; }
  static void CompressBy(uint32_t, const int32_t*, int32_t*) {}
};

#include "kernels/cpu/all_ops.inc"

}  // namespace

extern const OpTable kGenericOps = CAUSEWAY_OP_TABLE("generic");

}  // namespace causeway
