// The paged cache of latent KV and index keys that the ranks of a host share.
#pragma once

#include <cstdint>
#include <memory>

#include "base/buffer.h"
#include "base/status.h"
#include "base/view.h"

namespace causeway {

// What a cache holds per token and layer.
struct KvShape {
  int64_t layers = 0;
  int64_t latent_dim =
      0;  // kv_lora_rank + qk_rope_head_dim: the normed latent, then the rotated key
  int64_t index_dim = 0;  // index_head_dim; 0 without an indexer
  DType type = DType::kBf16;
  bool int8_index = false;  // index keys as int8 with a scale each, else in `type`; index_dim % 4
  bool int8_kv = false;     // latents as int8 with two scales each, else in `type`, which is bf16

  DType latent_type() const { return int8_kv ? DType::kI8 : type; }
  DType index_type() const { return int8_index ? DType::kI8 : type; }
  // A latent row: its values, and for int8 the scales of the latent and of the key, f32.
  int64_t latent_bytes() const { return latent_dim * SizeOf(latent_type()) + (int8_kv ? 8 : 0); }
  // An index key: its values, and for int8 its scale, f32.
  int64_t index_bytes() const {
    return index_dim * SizeOf(index_type()) + (int8_index && index_dim > 0 ? 4 : 0);
  }
  int64_t BytesPerToken() const { return layers * (latent_bytes() + index_bytes()); }
  bool operator==(const KvShape&) const = default;
};

// Whether other processes of this host can read the memory of a cache.
enum class KvMemory { kPrivate, kShared };

// Pages of 64 tokens. In a page of a layer, latents are rows [64, latent_dim], in int8 with their
// scales behind each (DequantizeArgs, kernels/op_table.h); index keys are packed as the operand of
// the score product, [index_dim / g][64][g] with g = 1 (f32), 2 (bf16) or 4 (int8), so that a page
// is one packed panel; int8 with 128 added to every value, and with the 64 scales behind the panel
// (IndexScoreArgs, kernels/op_table.h).
//
// Rank threads write disjoint tokens and read after the layer's exchange; nothing is locked.
class KvCache {
 public:
  // Takes and zeroes the memory of all layers' pages now; throws StartError if it can't be had.
  KvCache(const KvShape& shape, int64_t pages, KvMemory memory = KvMemory::kPrivate);
  // Another process' kShared cache, through its descriptors; to be read only. An error where they
  // are no such memory.
  static StatusOr<std::unique_ptr<KvCache>> OpenShared(const KvShape& shape, int64_t pages,
                                                       int latents_fd, int index_keys_fd);

  const KvShape& shape() const { return shape_; }
  int64_t pages() const { return pages_; }
  int64_t bytes() const { return latents_.bytes() + index_keys_.bytes(); }
  // The descriptors of a kShared cache's memory, else -1.
  int latents_fd() const { return latents_.shared_fd(); }
  int index_keys_fd() const { return index_keys_.shared_fd(); }  // -1 without index keys

  void* LatentPage(int64_t layer, int32_t page) const;  // [64] of latent_bytes()
  void* IndexPage(int64_t layer, int32_t page) const;   // packed [64, index_dim]
  // Stores one token's values, already in the cache's type: latent_bytes() or index_bytes(), int8
  // scales behind the values.
  void StoreLatent(int64_t layer, int32_t page, int64_t slot, const void* values) const;
  void StoreIndexKey(int64_t layer, int32_t page, int64_t slot, const void* values) const;
  // Their opposites.
  void LoadLatent(int64_t layer, int32_t page, int64_t slot, void* values) const;
  void LoadIndexKey(int64_t layer, int32_t page, int64_t slot, void* values) const;
  // The same of slots [begin, end) at once, as rows [end - begin] of index_bytes(); quicker.
  void StoreIndexKeys(int64_t layer, int32_t page, int64_t begin, int64_t end,
                      const void* rows) const;
  void LoadIndexKeys(int64_t layer, int32_t page, int64_t begin, int64_t end, void* rows) const;

 private:
  KvCache(const KvShape& shape, int64_t pages, Buffer latents, Buffer index_keys);
  // What turns a word of signed int8 values to the unsigned ones that a page holds, and back.
  uint32_t OffsetOf(int64_t word) const;

  const KvShape shape_;
  const int64_t pages_;
  Buffer latents_;     // [layers, pages, 64] of latent_bytes()
  Buffer index_keys_;  // [layers, pages] of 64 keys
};

}  // namespace causeway
