// bfloat16: the upper half of an IEEE float32.
#pragma once

#include <bit>
#include <cstdint>

namespace causeway {

// A bf16 value as its 16 bits; arithmetic happens in float32.
using Bf16 = uint16_t;

inline float FromBf16(Bf16 bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Rounds to nearest, ties to even. A NaN stays a NaN.
inline Bf16 ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  // With the quiet bit set: a NaN whose payload is in the lower half would become an infinity.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>((bits >> 16) | 0x40u);
  // Half a unit less one, plus the lowest bit that stays: ties go to the even neighbour.
  return static_cast<Bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE half precision to float32, exact.
inline float FromF16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  // From bias 15 to bias 127.
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Zero and subnormals are multiples of 2^-24.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace causeway
