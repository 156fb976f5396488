// In both buffers the pages of a layer lie together: page p of layer l begins after l * pages + p
// others.
#include "cache/kv_cache.h"

#include <cstring>

#include "kernels/op_table.h"

namespace causeway {

KvCache::KvCache(const KvShape& shape, int64_t pages)
    : shape_(shape),
      pages_(pages),
      latents_(Buffer::Spread(shape.layers * pages * kPage * shape.latent_bytes())),
      index_keys_(Buffer::Spread(shape.layers * pages * kPage * shape.index_bytes())) {
  CHECK(shape.type == DType::kF32 || shape.type == DType::kBf16, NameOf(shape.type));
  static_assert(kRowScaleBytes == 8, "what latent_bytes counts");
  CHECK(!shape.int8_kv || shape.type == DType::kBf16, NameOf(shape.type));
  // A key is stored in words of four int8 values.
  CHECK(!shape.int8_index || shape.index_dim % 4 == 0, shape.index_dim);
}

void* KvCache::LatentPage(int64_t layer, int32_t page) const {
  CHECK(layer < shape_.layers && page >= 0 && page < pages_, layer, " ", page);
  return latents_.as<char>() + (layer * pages_ + page) * kPage * shape_.latent_bytes();
}

void* KvCache::IndexPage(int64_t layer, int32_t page) const {
  CHECK(layer < shape_.layers && page >= 0 && page < pages_, layer, " ", page);
  return index_keys_.as<char>() + (layer * pages_ + page) * kPage * shape_.index_bytes();
}

void KvCache::StoreLatent(int64_t layer, int32_t page, int64_t slot, const void* values) const {
  const int64_t bytes = shape_.latent_bytes();
  std::memcpy(static_cast<char*>(LatentPage(layer, page)) + slot * bytes, values,
              static_cast<size_t>(bytes));
}

void KvCache::LoadLatent(int64_t layer, int32_t page, int64_t slot, void* values) const {
  const int64_t bytes = shape_.latent_bytes();
  std::memcpy(values, static_cast<const char*>(LatentPage(layer, page)) + slot * bytes,
              static_cast<size_t>(bytes));
}

// An index key is words of 4 bytes: one f32, two bf16 or four int8 values of neighbouring
// dimensions. Word w of all keys of a page lies together, and so do, as the last word, the scales.
void KvCache::StoreIndexKey(int64_t layer, int32_t page, int64_t slot, const void* values) const {
  auto* panel = static_cast<uint32_t*>(IndexPage(layer, page));
  const int64_t words = shape_.index_bytes() / 4;
  for (int64_t w = 0; w < words; ++w) {
    uint32_t word;
    std::memcpy(&word, static_cast<const char*>(values) + w * 4, 4);
    panel[w * kPage + slot] = word ^ OffsetOf(w);
  }
}

void KvCache::LoadIndexKey(int64_t layer, int32_t page, int64_t slot, void* values) const {
  const auto* panel = static_cast<const uint32_t*>(IndexPage(layer, page));
  const int64_t words = shape_.index_bytes() / 4;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t word = panel[w * kPage + slot] ^ OffsetOf(w);
    std::memcpy(static_cast<char*>(values) + w * 4, &word, 4);
  }
}

uint32_t KvCache::OffsetOf(int64_t word) const {
  // XOR with 0x80 in every byte adds 128 to an int8, and undoes itself. The scale, the last word,
  // stays as it is.
  return shape_.int8_index && word < shape_.index_dim / 4 ? 0x80808080u : 0;
}

}  // namespace causeway
