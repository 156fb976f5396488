// Inputs and outputs of kernel tests: random values, and matrices that notice stray writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/view.h"
#include "kernels/guarded_array.h"
#include "kernels/op_table.h"
#include "kernels/packed_weight.h"

namespace causeway {

// What an operation wrote, element by element; `fault` says what it should not have done.
struct OpResult {
  std::vector<float> values;
  std::vector<uint32_t> bits;  // of the stored elements, zero-extended
  std::string fault;

  void Append(DType type, const void* data, int64_t count);
  void Append(const int32_t* data, int64_t count);
};

// Random values that depend on the seed alone.
class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : state_(seed) {}

  uint64_t Bits();               // 64 random bits
  int64_t Below(int64_t limit);  // [0, limit)
  float Uniform();               // [-1, 1)
  // Magnitudes around the square root of the smallest normal float, zeros of both signs and, one in
  // sixteen, denormals: products of two are flushed, or nearly.
  float Tiny();

 private:
  uint64_t state_;
};

enum class Spread { kUniform, kTiny };

// `count` random elements. int8: [-127, 127]; fp8: codes of numbers.
GuardedBytes RandomArray(DType type, int64_t count, RandomValues& random,
                         Spread spread = Spread::kUniform);

// `count` random rows as DequantizeArgs has them, with scales around 1 / 127.
GuardedBytes RandomInt8Rows(int64_t count, int64_t latent, int64_t rope, RandomValues& random);

// A random weight [n, k]; int8 with scales below 2^-6, fp8 with scales for its largest to be
// below 1.
Weight RandomWeight(DType type, int64_t n, int64_t k, int32_t segments, RandomValues& random,
                    Spread spread = Spread::kUniform, const Fp8Blocks& blocks = {});
// The weight's packed bytes, ending at an unreadable page.
GuardedBytes PackedCopy(const Weight& weight);

// Elements that rows of `cols` values take, `stride` apart; the last one ends without a gap.
inline int64_t Span(int64_t rows, int64_t cols, int64_t stride) {
  return rows == 0 ? 0 : (rows - 1) * stride + cols;
}

// A matrix that an operation writes. What surrounds the part that it may write is compared with
// what was there before.
class OutputMatrix {
 public:
  OutputMatrix(DType type, int64_t rows, int64_t cols, int64_t stride);
  // The same, holding random values first.
  OutputMatrix(DType type, int64_t rows, int64_t cols, int64_t stride, RandomValues& random);

  void* data() const { return array_.data(); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(array_.data());
  }

  // Appends columns [begin, end) of the listed rows to `result`, and sets its fault if an element
  // outside them changed.
  void Collect(const std::vector<int64_t>& rows, int64_t begin, int64_t end,
               OpResult* result) const;
  // All rows and columns.
  void Collect(OpResult* result) const;

 private:
  DType type_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  GuardedBytes array_;
  std::vector<uint8_t> before_;
};

}  // namespace causeway
