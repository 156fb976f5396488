// In both buffers the pages of a layer lie together: page p of layer l begins after l * pages + p
// others.
#include "cache/kv_cache.h"

#include <cstring>
#include <utility>

#include "kernels/op_table.h"

namespace causeway {

namespace {

Buffer Take(KvMemory memory, int64_t bytes) {
  return memory == KvMemory::kShared ? Buffer::Shared(bytes) : Buffer::Spread(bytes);
}

}  // namespace

KvCache::KvCache(const KvShape& shape, int64_t pages, KvMemory memory)
    : KvCache(shape, pages, Take(memory, shape.layers * pages * kPage * shape.latent_bytes()),
              Take(memory, shape.layers * pages * kPage * shape.index_bytes())) {}

KvCache::KvCache(const KvShape& shape, int64_t pages, Buffer latents, Buffer index_keys)
    : shape_(shape),
      pages_(pages),
      latents_(std::move(latents)),
      index_keys_(std::move(index_keys)) {
  CHECK(shape.type == DType::kF32 || shape.type == DType::kBf16, NameOf(shape.type));
  static_assert(kRowScaleBytes == 8, "what latent_bytes counts");
  CHECK(!shape.int8_kv || shape.type == DType::kBf16, NameOf(shape.type));
  // A key is stored in words of four int8 values.
  CHECK(!shape.int8_index || shape.index_dim % 4 == 0, shape.index_dim);
}

StatusOr<std::unique_ptr<KvCache>> KvCache::OpenShared(const KvShape& shape, int64_t pages,
                                                       int latents_fd, int index_keys_fd) {
  const int64_t tokens = shape.layers * pages * kPage;
  CAUSEWAY_ASSIGN_OR_RETURN(Buffer latents,
                            Buffer::ReadOnly(latents_fd, tokens * shape.latent_bytes()));
  Buffer index_keys;
  if (shape.index_bytes() > 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(index_keys,
                              Buffer::ReadOnly(index_keys_fd, tokens * shape.index_bytes()));
  }
  return std::unique_ptr<KvCache>(
      new KvCache(shape, pages, std::move(latents), std::move(index_keys)));
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

// Word by word of all slots: a page's rows fit the first-level cache, its panel is read in order.
void KvCache::StoreIndexKeys(int64_t layer, int32_t page, int64_t begin, int64_t end,
                             const void* rows) const {
  CHECK(0 <= begin && begin <= end && end <= kPage, begin, " ", end);
  auto* panel = static_cast<uint32_t*>(IndexPage(layer, page));
  const int64_t words = shape_.index_bytes() / 4;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t offset = OffsetOf(w);
    const char* from = static_cast<const char*>(rows) + w * 4;
    for (int64_t slot = begin; slot < end; ++slot, from += words * 4) {
      uint32_t word;
      std::memcpy(&word, from, 4);
      panel[w * kPage + slot] = word ^ offset;
    }
  }
}

void KvCache::LoadIndexKeys(int64_t layer, int32_t page, int64_t begin, int64_t end,
                            void* rows) const {
  CHECK(0 <= begin && begin <= end && end <= kPage, begin, " ", end);
  const auto* panel = static_cast<const uint32_t*>(IndexPage(layer, page));
  const int64_t words = shape_.index_bytes() / 4;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t offset = OffsetOf(w);
    char* to = static_cast<char*>(rows) + w * 4;
    for (int64_t slot = begin; slot < end; ++slot, to += words * 4) {
      const uint32_t word = panel[w * kPage + slot] ^ offset;
      std::memcpy(to, &word, 4);
    }
  }
}

uint32_t KvCache::OffsetOf(int64_t word) const {
  // XOR with 0x80 in every byte adds 128 to an int8, and undoes itself. The scale, the last word,
  // stays as it is.
  return shape_.int8_index && word < shape_.index_dim / 4 ? 0x80808080u : 0;
}

}  // namespace causeway
