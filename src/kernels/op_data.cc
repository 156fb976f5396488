// Inputs and outputs of the op cases. Values depend on the seed only, so a failure prints the seed
// and can be run again.
#include "kernels/op_data.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/bf16.h"
#include "base/fp8.h"

namespace causeway {

void OpResult::Append(DType type, const void* data, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    switch (type) {
      case DType::kF32: {
        const float value = static_cast<const float*>(data)[i];
        values.push_back(value);
        bits.push_back(std::bit_cast<uint32_t>(value));
        break;
      }
      case DType::kBf16: {
        const Bf16 value = static_cast<const Bf16*>(data)[i];
        values.push_back(FromBf16(value));
        bits.push_back(value);
        break;
      }
      case DType::kF8: {  // the codes
        const uint8_t value = static_cast<const uint8_t*>(data)[i];
        values.push_back(value);
        bits.push_back(value);
        break;
      }
      case DType::kI8: {
        const int8_t value = static_cast<const int8_t*>(data)[i];
        values.push_back(value);
        bits.push_back(static_cast<uint8_t>(value));
        break;
      }
    }
  }
}

void OpResult::Append(const int32_t* data, int64_t count) {
  // As bits they are exact; as values rounded where they exceed 24 bits.
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(data[i]));
    bits.push_back(static_cast<uint32_t>(data[i]));
  }
}

uint64_t RandomValues::Bits() {  // splitmix64
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int64_t RandomValues::Below(int64_t limit) {
  // The top bit is dropped so that the remainder is of a number that is not negative.
  return static_cast<int64_t>((Bits() >> 1) % static_cast<uint64_t>(limit));
}

float RandomValues::Uniform() {
  // In [-1, 1), multiples of 2^-23: exact in f32.
  return static_cast<float>(static_cast<int64_t>(Bits() >> 40) - (int64_t{1} << 23)) * 0x1p-23f;
}

float RandomValues::Tiny() {
  const int64_t kind = Below(16);
  const float sign = Below(2) == 0 ? 1.0f : -1.0f;
  if (kind == 0) return sign * 0.0f;
  const float value = 1.0f + std::fabs(Uniform());
  // 2^-127 is denormal as f32 and as bf16.
  if (kind == 1) return std::copysign(std::ldexp(value, -127 - static_cast<int>(Below(4))), sign);
  return sign * std::ldexp(value, -72 + static_cast<int>(Below(14)));
}

namespace {

void FillRandom(DType type, void* data, int64_t count, RandomValues& random, Spread spread) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = spread == Spread::kTiny ? random.Tiny() : random.Uniform();
    switch (type) {
      case DType::kF32:
        static_cast<float*>(data)[i] = value;
        break;
      case DType::kBf16:
        static_cast<Bf16*>(data)[i] = ToBf16(value);
        break;
      case DType::kI8:
        // -127 to 127, as quantisation makes them; -128 never occurs.
        static_cast<int8_t*>(data)[i] = static_cast<int8_t>(random.Below(255) - 127);
        break;
      case DType::kF8: {  // any but the two NaNs
        const int64_t code = random.Below(254);
        static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(code < 127 ? code : code + 1);
        break;
      }
    }
  }
}

}  // namespace

GuardedBytes RandomArray(DType type, int64_t count, RandomValues& random, Spread spread) {
  GuardedBytes array(count * SizeOf(type));
  FillRandom(type, array.data(), count, random, spread);
  return array;
}

GuardedBytes RandomInt8Rows(int64_t count, int64_t latent, int64_t rope, RandomValues& random) {
  GuardedBytes rows = RandomArray(DType::kI8, count * (latent + rope + kRowScaleBytes), random);
  for (int64_t row = 0; row < count; ++row) {
    const float scales[2] = {(1.5f + random.Uniform()) / 127.0f,
                             (1.5f + random.Uniform()) / 127.0f};
    std::memcpy(
        static_cast<char*>(rows.data()) + row * (latent + rope + kRowScaleBytes) + latent + rope,
        scales, sizeof(scales));
  }
  return rows;
}

Weight RandomWeight(DType type, int64_t n, int64_t k, int32_t segments, RandomValues& random,
                    Spread spread, const Fp8Blocks& blocks) {
  Weight weight(type, n, k, segments, blocks);
  if (type == DType::kF8) {
    const GuardedBytes codes = RandomArray(type, n * k, random);
    std::vector<float> scale(static_cast<size_t>(weight.blocks()));
    for (int64_t j = 0; j < n; j += kPanel) {
      // Weights below 1, of scales that round; or products with other tiny values that underflow.
      for (float& s : scale) {
        const float value = 1.0f + std::fabs(random.Uniform());
        s = value * (spread == Spread::kTiny
                         ? std::ldexp(1.0f, -66 - static_cast<int>(random.Below(12)))
                         : 0x1p-10f);
      }
      weight.PackRows(j, std::min(kPanel, n - j), static_cast<const E4m3*>(codes.data()) + j * k, k,
                      scale.data());
    }
  } else if (type == DType::kI8) {
    const GuardedBytes rows = RandomArray(type, n * k, random);
    std::vector<float> scale(static_cast<size_t>(n));
    // Small scales, so that sums of many products stay in the range of the other types.
    for (float& s : scale) s = std::fabs(random.Uniform()) * 0x1p-6f;
    weight.PackRows(0, n, static_cast<const int8_t*>(rows.data()), scale.data());
  } else {
    const GuardedBytes rows = RandomArray(DType::kF32, n * k, random, spread);
    weight.PackRows(0, n, static_cast<const float*>(rows.data()));
  }
  return weight;
}

GuardedBytes PackedCopy(const Weight& weight) {
  GuardedBytes copy(PackedBytes(weight.type(), weight.n(), weight.k()));
  std::memcpy(copy.data(), weight.packed(), static_cast<size_t>(copy.bytes()));
  return copy;
}

// What was there before is kept: an op may change its own elements and nothing else.
OutputMatrix::OutputMatrix(DType type, int64_t rows, int64_t cols, int64_t stride)
    : type_(type),
      rows_(rows),
      cols_(cols),
      stride_(stride),
      array_(Span(rows, cols, stride) * SizeOf(type)) {
  before_.assign(as<uint8_t>(), as<uint8_t>() + array_.bytes());
}

OutputMatrix::OutputMatrix(DType type, int64_t rows, int64_t cols, int64_t stride,
                           RandomValues& random)
    : OutputMatrix(type, rows, cols, stride) {
  FillRandom(type, data(), Span(rows, cols, stride), random, Spread::kUniform);
  before_.assign(as<uint8_t>(), as<uint8_t>() + array_.bytes());
}

void OutputMatrix::Collect(const std::vector<int64_t>& rows, int64_t begin, int64_t end,
                           OpResult* result) const {
  const int64_t size = SizeOf(type_);
  std::vector<uint8_t> outside(as<uint8_t>(), as<uint8_t>() + array_.bytes());
  for (const int64_t row : rows) {
    const int64_t from = (row * stride_ + begin) * size;
    const int64_t to = (row * stride_ + end) * size;
    result->Append(type_, as<uint8_t>() + from, end - begin);
    // As if the op had not written its own elements: all that still differs is not its own.
    std::copy(before_.begin() + from, before_.begin() + to, outside.begin() + from);
  }
  for (size_t i = 0; i < outside.size(); ++i) {
    if (outside[i] == before_[i]) continue;
    const int64_t element = static_cast<int64_t>(i) / size;
    result->fault = Text("wrote row ", element / stride_, " column ", element % stride_,
                         ", which is not its own");
    return;
  }
  if (!array_.intact()) result->fault = "wrote before the output";
}

void OutputMatrix::Collect(OpResult* result) const {
  std::vector<int64_t> rows(static_cast<size_t>(rows_));
  std::iota(rows.begin(), rows.end(), 0);
  Collect(rows, 0, cols_, result);
}

}  // namespace causeway
