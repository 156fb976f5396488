// Rows of a run of tokens of one layer, in and out of a cache.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "parallel/layout.h"
#include "transfer/rank_map.h"

namespace causeway {

// Makes rows of the decode cache's type of `count` rows of the prefill cache's. Rows are dense: of
// latent_bytes() or index_bytes() of either KvShape.
using RowConversion = std::function<void(const void* from, int64_t count, void* to)>;
struct RowConversions {
  RowConversion latents;     // bf16 to int8; empty: none
  RowConversion index_keys;  // the same
  KvConversions available() const { return {latents != nullptr, index_keys != nullptr}; }
};

// The pages of a sequence's tokens: of position p, pages[p / 64 - first_page].
struct TokenPages {
  std::span<const int32_t> pages;
  int64_t first_page = 0;
  int32_t PageOf(int64_t position) const;
};

// The latents of `tokens`, one piece a page.
std::vector<iovec> LatentPieces(const KvCache& cache, int64_t layer, const TokenPages& pages,
                                Range tokens);

// Index keys of `tokens` as dense rows of index_bytes().
void LoadIndexRows(const KvCache& cache, int64_t layer, const TokenPages& pages, Range tokens,
                   char* rows);
void StoreIndexRows(const KvCache& cache, int64_t layer, const TokenPages& pages, Range tokens,
                    const char* rows);

// From one cache to another of the same types, without a copy between.
void CopyRun(const KvCache& from, int64_t from_layer, const TokenPages& from_pages,
             const KvCache& to, int64_t to_layer, const TokenPages& to_pages, Range tokens);

// A number that differs (but for one chance in 2^64) where a bit of the rows does, or their order.
// latents: pieces of whole rows; index_rows: dense.
uint64_t ChecksumOf(std::span<const iovec> latents, int64_t latent_bytes, const char* index_rows,
                    int64_t index_bytes, int64_t count);

}  // namespace causeway
