// Weight: a matrix packed once for the product kernels, with its scales.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/dtype.h"
#include "base/fp8.h"
#include "base/huge_memory.h"
#include "kernels/op_table.h"

namespace causeway {

// Elements that lie together along k in a packed panel.
inline int64_t PackGroup(DType type) {
  return type == DType::kF32 ? 1 : type == DType::kBf16 ? 2 : 4;
}

// The type of the rows that weights are multiplied with.
inline DType InputType(DType weight) { return weight == DType::kF8 ? DType::kBf16 : weight; }

// The columns that share a scale of fp8 weights. A weight may begin inside a block.
struct Fp8Blocks {
  int64_t columns = 128;  // a multiple of 4
  int64_t offset = 0;     // columns of the first block that lie before the weight; a multiple of 4
};

// Bytes of a packed matrix [n, k], without scales; the format is that of GemmArgs.
int64_t PackedBytes(DType type, int64_t n, int64_t k);

// Runs of k that a row-parallel product sums separately: 32 (16 if k < 4096), or the largest power
// of two below that cuts k evenly (bf16 and fp8: into runs of even length). Attention TP must
// divide it (DESIGN section 5).
int32_t SegmentsFor(DType type, int64_t k);

// W [n, k] of y = x W^T. Empty (n = 0) by default.
class Weight {
 public:
  Weight() = default;
  // Zeroed; fill every row with PackRows before use. bf16 needs an even k, fp8 runs of a multiple
  // of 4 columns that are no longer than kFp8Run if there are several (CHECK). Its values lie in
  // `memory`, which must outlive it; null: in memory of its own.
  Weight(DType type, int64_t n, int64_t k, int32_t segments = 1, const Fp8Blocks& blocks = {},
         HugeMemory* memory = nullptr);

  DType type() const { return type_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t panels() const { return (n_ + kPanel - 1) / kPanel; }
  int32_t segments() const { return segments_; }
  const void* packed() const { return packed_; }
  // int8: [n]; fp8: [panels, blocks].
  const float* scale() const { return scale_.data(); }
  const int32_t* sum() const { return sum_.data(); }  // [n], int8 only: row sums
  const Fp8Blocks& fp8_blocks() const { return fp8_blocks_; }
  // fp8: scales of a panel.
  int64_t blocks() const {
    return (fp8_blocks_.offset + k_ + fp8_blocks_.columns - 1) / fp8_blocks_.columns;
  }
  // In memory: packed values with their padding, scales and sums.
  int64_t bytes() const;
  bool empty() const { return n_ == 0; }

  // Packs rows [begin, begin + count) from f32 rows of k values, `stride` values apart, rounding to
  // the type (f32 and bf16). Threads may pack disjoint rows.
  void PackRows(int64_t begin, int64_t count, const float* rows, int64_t stride);
  void PackRows(int64_t begin, int64_t count, const float* rows) {
    PackRows(begin, count, rows, k_);
  }
  // The same for int8, with each row's scale.
  void PackRows(int64_t begin, int64_t count, const int8_t* rows, int64_t stride,
                const float* scale);
  void PackRows(int64_t begin, int64_t count, const int8_t* rows, const float* scale) {
    PackRows(begin, count, rows, k_, scale);
  }

  // The same for fp8: rows of one panel, with the panel's scales [blocks]. 0xff becomes the other
  // NaN.
  void PackRows(int64_t begin, int64_t count, const E4m3* rows, int64_t stride, const float* scale);

  // int8: the sum of row j over columns [begin, begin + count).
  int32_t SumOf(int64_t j, int64_t begin, int64_t count) const;

  // Element [j, i] as a float (int8: without its scale; fp8: as products take it); slow, for tests.
  float At(int64_t j, int64_t i) const;

 private:
  // Where W[j, i] lies in `packed_`, in elements.
  int64_t Index(int64_t j, int64_t i) const;

  DType type_ = DType::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int32_t segments_ = 1;
  Fp8Blocks fp8_blocks_;
  void* packed_ = nullptr;
  Buffer own_;  // what packed_ points to, unless that is in a HugeMemory
  std::vector<float> scale_;
  std::vector<int32_t> sum_;
};

}  // namespace causeway
