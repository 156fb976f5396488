#include "checkpoint/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"

namespace causeway {

void EncodePlain(StoredType type, const float* values, int64_t count, void* out) {
  if (type == StoredType::kF32) {
    std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  CHECK(type == StoredType::kBf16, NameOf(type));
  std::transform(values, values + count, static_cast<Bf16*>(out), ToBf16);
}

void EncodeFp8Blocks(const float* values, int64_t rows, int64_t k, int64_t block, bool power_of_two,
                     E4m3* out, float* scales) {
  CHECK(rows <= block, rows, " ", block);
  for (int64_t begin = 0; begin < k; begin += block) {
    const int64_t end = std::min(k, begin + block);
    float largest = 0.0f;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < end; ++i)
        largest = std::max(largest, std::fabs(values[row * k + i]));
    }
    float scale = largest == 0.0f ? 1.0f : largest / kE4m3Max;
    // Up to the next power of two: down would push the largest value beyond 448.
    if (power_of_two) {
      int exponent = 0;  // scale = f * 2^exponent with f in [0.5, 1)
      if (std::frexp(scale, &exponent) == 0.5f) --exponent;
      scale = std::ldexp(1.0f, exponent);
    }
    scales[begin / block] = scale;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < end; ++i) out[row * k + i] = ToE4m3(values[row * k + i] / scale);
    }
  }
}

float EncodeInt8Row(const float* values, int64_t k, int8_t* out) {
  constexpr float kLargest = 127.0f;
  float largest = 0.0f;
  for (int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float scale = largest == 0.0f ? 1.0f : largest / kLargest;
  for (int64_t i = 0; i < k; ++i) {
    const float rounded = std::nearbyint(values[i] / scale);
    out[i] = static_cast<int8_t>(std::clamp(rounded, -kLargest, kLargest));
  }
  return scale;
}

}  // namespace causeway
