// Scales are checked and copied here, once; the weights stay where they are mapped.
#include "checkpoint/quant_format.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/json_text.h"
#include "checkpoint/safetensors_header.h"

namespace causeway {
namespace {

// Tensors beside an int8 weight that say that its activations have static scales.
constexpr const char* kStaticScales[] = {"input_scale", "input_offset", "input_zero_point",
                                         "deq_scale", "quant_bias"};

bool IsFloat(StoredType type) {
  return type == StoredType::kF32 || type == StoredType::kF16 || type == StoredType::kBf16;
}

Status Wrong(const StoredTensor& tensor, const std::string& name, const std::string& found,
             const std::string& expected) {
  return InvalidArgument(
      Text(tensor.file, ": tensor ", Quoted(name), " ", found, ", expected ", expected));
}

StatusOr<std::vector<float>> ReadScales(const StoredTensor& tensor, const std::string& name) {
  if (tensor.type != StoredType::kF32 && tensor.type != StoredType::kBf16)
    return Wrong(tensor, name, Text("is ", NameOf(tensor.type)), "scales in F32 or BF16");
  std::vector<float> scales(static_cast<size_t>(tensor.elements()));
  CopyToF32(tensor, 0, tensor.elements(), scales.data());
  return scales;
}

// One value a row, stored as [n, 1] or as [n].
StatusOr<StoredTensor> FindColumn(const Checkpoint& checkpoint, const std::string& name,
                                  int64_t n) {
  CAUSEWAY_ASSIGN_OR_RETURN(StoredTensor tensor, checkpoint.Find(name));
  if (tensor.shape != std::vector<int64_t>{n} && tensor.shape != std::vector<int64_t>{n, 1})
    return Wrong(tensor, name, Text("has shape ", ShapeText(tensor.shape)),
                 Text(ShapeText({n, 1}), " or ", ShapeText({n}), ", one value a row"));
  return tensor;
}

bool AllZero(const StoredTensor& tensor) {
  if (!IsFloat(tensor.type))
    return std::all_of(tensor.data, tensor.data + tensor.bytes, [](uint8_t b) { return b == 0; });
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  CopyToF32(tensor, 0, tensor.elements(), values.data());
  return std::ranges::all_of(values, [](float value) { return value == 0.0f; });
}

bool UsableScale(float scale) { return scale > 0.0f && std::isfinite(scale); }

Status ReadFp8(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& module,
               StoredMatrix& matrix) {
  const auto blocks = [&](int64_t size) {
    return (size + config.quant_block - 1) / config.quant_block;
  };
  const int64_t columns = blocks(matrix.k);
  const std::string name = module + ".weight_scale_inv";
  matrix.format = MatrixFormat::kFp8Block;
  matrix.block = config.quant_block;
  CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor tensor,
                            checkpoint.Find(name, {blocks(matrix.n), columns}));
  CAUSEWAY_ASSIGN_OR_RETURN(matrix.scales, ReadScales(tensor, name));
  const auto bad =
      std::ranges::find_if_not(matrix.scales, [](float scale) { return UsableScale(scale); });
  if (bad != matrix.scales.end()) {
    const int64_t at = bad - matrix.scales.begin();
    return Wrong(tensor, name, Text("has ", *bad, " at [", at / columns, ", ", at % columns, "]"),
                 "a positive finite scale");
  }
  return Status();
}

Status ReadInt8(const Checkpoint& checkpoint, const std::string& module, StoredMatrix& matrix) {
  matrix.format = MatrixFormat::kInt8Channel;
  for (const char* suffix : kStaticScales) {
    const std::string name = Text(module, ".", suffix);
    if (checkpoint.Has(name))
      return Wrong(*checkpoint.Find(name), name, "is there",
                   "dynamic activation scales (static ones are not supported)");
  }
  // Zero points that are all zero change nothing: some tools write them for symmetric weights.
  for (const char* suffix : {"weight_offset", "weight_zero_point"}) {
    const std::string name = Text(module, ".", suffix);
    if (!checkpoint.Has(name)) continue;
    CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor tensor, FindColumn(checkpoint, name, matrix.n));
    if (!AllZero(tensor))
      return Wrong(tensor, name, "is not all zero",
                   "symmetric weights (zero points are not supported)");
  }
  const std::string name = module + ".weight_scale";
  CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor tensor, FindColumn(checkpoint, name, matrix.n));
  CAUSEWAY_ASSIGN_OR_RETURN(matrix.scales, ReadScales(tensor, name));
  for (int64_t row = 0; row < matrix.n; ++row) {
    const float scale = matrix.scales[static_cast<size_t>(row)];
    if (UsableScale(scale)) continue;
    const int8_t* values = matrix.Int8Row(row);
    if (scale == 0.0f &&
        std::all_of(values, values + matrix.k, [](int8_t value) { return value == 0; }))
      continue;  // some tools give a row of zeros the scale zero
    return Wrong(tensor, name, Text("has ", scale, " for row ", row), "a positive finite scale");
  }
  return Status();
}

}  // namespace

const int8_t* StoredMatrix::Int8Row(int64_t row) const {
  CHECK(format == MatrixFormat::kInt8Channel && row >= 0 && row < n, row, " of ", n);
  return reinterpret_cast<const int8_t*>(weight.data) + row * k;
}

const E4m3* StoredMatrix::Fp8Row(int64_t row) const {
  CHECK(format == MatrixFormat::kFp8Block && row >= 0 && row < n, row, " of ", n);
  return weight.data + row * k;
}

const float* StoredMatrix::Fp8Scales(int64_t row) const {
  CHECK(format == MatrixFormat::kFp8Block && row >= 0 && row < n, row, " of ", n);
  return scales.data() + row / block * ((k + block - 1) / block);
}

StatusOr<StoredMatrix> FindMatrix(const Checkpoint& checkpoint, const ModelConfig& config,
                                  const std::string& module, int64_t n, int64_t k) {
  const std::string name = module + ".weight";
  StoredMatrix matrix;
  matrix.n = n;
  matrix.k = k;
  CAUSEWAY_ASSIGN_OR_RETURN(matrix.weight, checkpoint.Find(name, {n, k}));
  if (const std::string bias = module + ".bias"; checkpoint.Has(bias))
    return Wrong(*checkpoint.Find(bias), bias, "is there", "a matrix without bias");
  const StoredType type = matrix.weight.type;
  if (type == StoredType::kF8E4m3) {
    CAUSEWAY_RETURN_IF_ERROR(ReadFp8(checkpoint, config, module, matrix));
  } else if (type == StoredType::kI8) {
    CAUSEWAY_RETURN_IF_ERROR(ReadInt8(checkpoint, module, matrix));
  } else if (!IsFloat(type)) {
    return Wrong(matrix.weight, name, Text("is ", NameOf(type)), "F32, F16, BF16, F8_E4M3 or I8");
  }
  return matrix;
}

void DequantizeRows(const StoredMatrix& matrix, int64_t begin, int64_t end, float* out) {
  CHECK(0 <= begin && begin <= end && end <= matrix.n, begin, " ", end, " of ", matrix.n);
  const int64_t k = matrix.k;
  CopyToF32(matrix.weight, begin * k, (end - begin) * k, out);
  if (matrix.format == MatrixFormat::kPlain) return;
  const bool int8 = matrix.format == MatrixFormat::kInt8Channel;
  // An int8 row is one block of one row and k columns.
  const int64_t block_rows = int8 ? 1 : matrix.block;
  const int64_t block_columns = int8 ? std::max<int64_t>(k, 1) : matrix.block;
  const int64_t blocks = (k + block_columns - 1) / block_columns;  // in a row
  for (int64_t row = begin; row < end; ++row, out += k) {
    const float* scale = matrix.scales.data() + row / block_rows * blocks;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t last = std::min(k, (block + 1) * block_columns);
      for (int64_t i = block * block_columns; i < last; ++i) out[i] *= scale[block];
    }
  }
}

}  // namespace causeway
