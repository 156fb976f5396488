#include "cache/kv_cache.h"

#include <cstring>

#include "kernels/op_table.h"

namespace causeway {

KvCache::KvCache(const KvShape& shape, int64_t pages)
    : shape_(shape),
      pages_(pages),
      latents_(shape.layers * pages * kPage * shape.latent_dim * SizeOf(shape.type)),
      index_keys_(shape.layers * pages * kPage * shape.index_dim * SizeOf(shape.type)) {
  CHECK(shape.type == DType::kF32 || shape.type == DType::kBf16, NameOf(shape.type));
}

void* KvCache::LatentPage(int64_t layer, int32_t page) const {
  CHECK(layer < shape_.layers && page >= 0 && page < pages_, layer, " ", page);
  return latents_.as<char>() +
         (layer * pages_ + page) * kPage * shape_.latent_dim * SizeOf(shape_.type);
}

void* KvCache::IndexPage(int64_t layer, int32_t page) const {
  CHECK(layer < shape_.layers && page >= 0 && page < pages_, layer, " ", page);
  return index_keys_.as<char>() +
         (layer * pages_ + page) * kPage * shape_.index_dim * SizeOf(shape_.type);
}

void KvCache::StoreLatent(int64_t layer, int32_t page, int64_t slot, const void* values) const {
  const int64_t bytes = shape_.latent_dim * SizeOf(shape_.type);
  std::memcpy(static_cast<char*>(LatentPage(layer, page)) + slot * bytes, values,
              static_cast<size_t>(bytes));
}

void KvCache::StoreIndexKey(int64_t layer, int32_t page, int64_t slot, const void* values) const {
  // A group is 4 bytes in both types: one f32, or two bf16 values of neighbouring dimensions.
  const int64_t groups = shape_.index_dim * SizeOf(shape_.type) / 4;
  auto* panel = static_cast<uint32_t*>(IndexPage(layer, page));
  for (int64_t g = 0; g < groups; ++g) {
    std::memcpy(&panel[g * kPage + slot], static_cast<const char*>(values) + g * 4, 4);
  }
}

void KvCache::LoadLatent(int64_t layer, int32_t page, int64_t slot, void* values) const {
  const int64_t bytes = shape_.latent_dim * SizeOf(shape_.type);
  std::memcpy(values, static_cast<const char*>(LatentPage(layer, page)) + slot * bytes,
              static_cast<size_t>(bytes));
}

void KvCache::LoadIndexKey(int64_t layer, int32_t page, int64_t slot, void* values) const {
  const int64_t groups = shape_.index_dim * SizeOf(shape_.type) / 4;
  const auto* panel = static_cast<const uint32_t*>(IndexPage(layer, page));
  for (int64_t g = 0; g < groups; ++g) {
    std::memcpy(static_cast<char*>(values) + g * 4, &panel[g * kPage + slot], 4);
  }
}

}  // namespace causeway
