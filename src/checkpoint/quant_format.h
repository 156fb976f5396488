// The matrices of a checkpoint, whatever way they are quantised. How a matrix is stored is read
// off its own tensors, never off a list of names: quantisation tools leave some matrices in
// floating point.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fp8.h"
#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"

namespace causeway {

enum class MatrixFormat {
  kPlain,        // F32, F16 or BF16
  kFp8Block,     // F8_E4M3 with one scale for each block of rows and columns
  kInt8Channel,  // I8 with one scale for each row, symmetric
};

// W [n, k] of y = x W^T as it lies in the file. Valid while its Checkpoint lives; cheap to copy.
struct StoredMatrix {
  // As stored; what `scales` and `block` mean depends on it.
  MatrixFormat format = MatrixFormat::kPlain;
  int64_t n = 0;
  int64_t k = 0;
  StoredTensor weight;        // [n, k]
  std::vector<float> scales;  // kInt8Channel: [n]; kFp8Block: [ceil(n / block), ceil(k / block)]
  int64_t block = 0;          // kFp8Block: rows and columns of a block; those at the edges are cut

  // Row `row` of an int8 matrix, [k].
  const int8_t* Int8Row(int64_t row) const;
  // The codes of row `row` of an fp8 matrix, [k], and the scales of its blocks.
  const E4m3* Fp8Row(int64_t row) const;
  const float* Fp8Scales(int64_t row) const;
};

// The matrix `module`.weight with its scales. Errors name the file, the tensor, what was found and
// what was expected: shapes, types, scales that are not positive finite numbers, and everything
// that would change the result if it were ignored (zero points, static activation scales, biases).
StatusOr<StoredMatrix> FindMatrix(const Checkpoint& checkpoint, const ModelConfig& config,
                                  const std::string& module, int64_t n, int64_t k);

// Rows [begin, end) as f32, [end - begin, k]: the stored value times its scale, rounded once (plain
// values exactly).
void DequantizeRows(const StoredMatrix& matrix, int64_t begin, int64_t end, float* out);

}  // namespace causeway
