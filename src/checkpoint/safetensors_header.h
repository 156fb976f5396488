// The JSON parts of a checkpoint: a safetensors header and model.safetensors.index.json. Pure
// functions of their text.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/safetensors.h"

namespace causeway {

inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // as the format's own library has it

// A tensor as the header describes it: bytes [begin, end) after the header.
struct HeaderEntry {
  std::string name = {};
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape = {};
  int64_t begin = 0;
  int64_t end = 0;
};

// The tensors of a header whose file has `data_bytes` bytes after it, ordered by `begin`. Checks
// syntax, types, shapes, sizes, ranges and overlap; gaps are allowed. Errors name `file` and the
// tensor.
StatusOr<std::vector<HeaderEntry>> ParseHeader(std::string_view json, int64_t data_bytes,
                                               const std::string& file);

// The weight_map of an index: tensor name -> file name (a plain name, no folder).
StatusOr<std::map<std::string, std::string>> ParseIndex(std::string_view json,
                                                        const std::string& file);

// Bytes of a tensor; negative if a dimension is negative or the size overflows int64_t.
int64_t BytesOf(StoredType type, const std::vector<int64_t>& shape);

// "[3, 4]"
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace causeway
