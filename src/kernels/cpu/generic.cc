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
  static F Dot(F acc, const uint16_t*, const uint16_t*) { return acc; }

  static I LoadSums(const int32_t* p) {
    I x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
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
};

#include "kernels/cpu/all_ops.inc"

}  // namespace

extern const OpTable kGenericOps = CAUSEWAY_OP_TABLE("generic");

}  // namespace causeway
