// float8_e4m3fn: 1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinity, NaN is 0x7f and
// 0xff, the largest finite value is 448, subnormals are multiples of 2^-9.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace causeway {

using E4m3 = uint8_t;

inline constexpr float kE4m3Max = 448.0f;

namespace fp8_internal {
constexpr float Decode(int code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u);
  float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                  : 1.0f + static_cast<float>(mantissa) * 0.125f;
  // std::ldexp is not constexpr: powers of two by doubling and halving, which is exact.
  for (int e = 7; exponent != 0 && e < exponent; ++e) magnitude *= 2.0f;
  for (int e = exponent; exponent != 0 && e < 7; ++e) magnitude *= 0.5f;
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}
constexpr std::array<float, 256> MakeTable() {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) table[static_cast<size_t>(code)] = Decode(code);
  return table;
}
}  // namespace fp8_internal

inline constexpr std::array<float, 256> kE4m3Values = fp8_internal::MakeTable();

inline float FromE4m3(E4m3 code) { return kE4m3Values[code]; }

// Rounds to nearest, ties to even, saturating at 448; 0 keeps its sign; NaN becomes 0x7f.
inline E4m3 ToE4m3(float value) {
  const auto sign = static_cast<E4m3>(std::signbit(value) ? 0x80 : 0);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7f;
  if (magnitude == 0.0f) return sign;
  if (magnitude >= kE4m3Max) return static_cast<E4m3>(sign | 0x7e);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent, f in [0.5, 1)
  const int step_exponent = (exponent - 1 < -6 ? -6 : exponent - 1) - 3;
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -step_exponent)));
  // steps counts units of 2^step_exponent: 0..7 are subnormal, 8..15 normal, 16 carries.
  const int biased = step_exponent + 9;  // 0 for the subnormal range and the first normal binade
  return static_cast<E4m3>(sign | (biased * 8 + steps));
}

}  // namespace causeway
