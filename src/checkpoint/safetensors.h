// Checkpoint directories as on Hugging Face: one or many safetensors files, memory-mapped.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

enum class StoredType { kF32, kF16, kBf16, kF8E4m3, kI8, kI32, kI64 };

const char* NameOf(StoredType type);  // as in the file: "F32", "F16", "BF16", "F8_E4M3", "I8", ...
int64_t SizeOf(StoredType type);      // bytes of an element

// A tensor inside a mapped file. Valid while the Checkpoint that it came from lives.
struct StoredTensor {
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;  // not necessarily aligned to the element size
  int64_t bytes = 0;
  std::string file;  // for error messages

  int64_t elements() const;
};

// The tensors of a directory: model.safetensors.index.json if there is one, else every
// *.safetensors file whose name does not start with "golden" or "consolidated".
class Checkpoint {
 public:
  // Maps the files and checks every header: length in range, valid JSON, known dtypes, shape and
  // byte count equal, offsets in range and without overlap, no name twice, every file that the
  // index names present and holding the tensors it promises. Errors name the file and the tensor.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);
  // One file, for golden values and the outputs of `causeway logits`.
  static StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& path);
  ~Checkpoint();

  // The tensor, or an error that names it and the directory.
  StatusOr<StoredTensor> Find(const std::string& name) const;
  bool Has(const std::string& name) const { return tensors_.contains(name); }
  // The tensor with exactly this shape, or an error with expected against found.
  StatusOr<StoredTensor> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  int64_t bytes() const;  // of all tensors

 private:
  struct Mapping;
  Checkpoint() = default;
  // Adds the tensors of one file; an error if one of them is known already.
  Status AddFile(const std::string& path);

  std::string source_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, StoredTensor> tensors_;
};

// Copies elements [begin, begin + count) of a tensor to f32, exactly (bf16, f16, e4m3, int8 and
// f32 sources; scales are the caller's business).
void CopyToF32(const StoredTensor& tensor, int64_t begin, int64_t count, float* out);

}  // namespace causeway
