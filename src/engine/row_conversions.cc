#include "engine/row_conversions.h"

#include <cstring>
#include <vector>

namespace causeway {
namespace {

// Parts of a row, each of which has a scale of its own behind the values.
RowConversion Quantise(const OpTable& ops, std::vector<int64_t> parts) {
  return [&ops, parts = std::move(parts)](const void* from, int64_t count, void* to) {
    int64_t dim = 0;
    for (const int64_t part : parts) dim += part;
    const auto scales = static_cast<int64_t>(parts.size() * sizeof(float));
    std::vector<float> scale(parts.size());
    // Kernels pad a part to four values, beyond its end.
    std::vector<int8_t> values(static_cast<size_t>(dim) + 4 * parts.size());
    for (int64_t row = 0; row < count; ++row) {
      const auto* const in = static_cast<const uint16_t*>(from) + row * dim;
      auto* const out = static_cast<int8_t*>(to) + row * (dim + scales);
      int64_t begin = 0;
      for (size_t i = 0; i < parts.size(); ++i) {
        ops.quantize({.type = DType::kBf16,
                      .x = in + begin,
                      .x_stride = parts[i],
                      .m = 1,
                      .k = parts[i],
                      .out = values.data(),
                      .out_stride = (parts[i] + 3) / 4 * 4,
                      .scale = &scale[i]});
        std::memcpy(out + begin, values.data(), static_cast<size_t>(parts[i]));
        begin += parts[i];
      }
      std::memcpy(out + dim, scale.data(), static_cast<size_t>(scales));
    }
  };
}

}  // namespace

RowConversions ToInt8(const OpTable& ops, const ModelConfig& config) {
  RowConversions out;
  out.latents = Quantise(ops, {config.kv_lora_rank, config.qk_rope_head_dim});
  if (config.sparse()) out.index_keys = Quantise(ops, {config.index_head_dim});
  return out;
}

}  // namespace causeway
