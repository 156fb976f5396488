#include "transfer/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/op_table.h"

namespace causeway {
namespace {

// Calls body(page, slot, tokens) for the part of `tokens` in each page.
template <typename Body>
void ForPages(const TokenPages& pages, Range tokens, const Body& body) {
  for (int64_t begin = tokens.begin; begin < tokens.end;) {
    const int64_t end = std::min(tokens.end, (begin / kPage + 1) * kPage);
    body(pages.PageOf(begin), begin % kPage, Range{begin, end});
    begin = end;
  }
}

// Odd numbers without a pattern: multiplying by one loses nothing and spreads low bits upward.
constexpr uint64_t kFactor[4] = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0xd6e8feb86659fd93,
                                 0xa0761d6478bd642f};

uint64_t Stir(uint64_t state, uint64_t word, uint64_t factor) {
  return std::rotl(state ^ word, 29) * factor;
}

uint64_t HashOf(const char* data, int64_t bytes, uint64_t seed) {
  uint64_t lane[4] = {seed ^ kFactor[1], seed + kFactor[2], seed - kFactor[3],
                      seed ^ static_cast<uint64_t>(bytes)};
  int64_t at = 0;
  for (; at + 32 <= bytes; at += 32) {
    uint64_t word[4];
    std::memcpy(word, data + at, 32);
    for (int i = 0; i < 4; ++i) lane[i] = Stir(lane[i], word[i], kFactor[i]);
  }
  for (int i = 0; at < bytes; at += 8, ++i) {
    uint64_t word = 0;
    std::memcpy(&word, data + at, static_cast<size_t>(std::min<int64_t>(8, bytes - at)));
    lane[i % 4] = Stir(lane[i % 4], word, kFactor[i % 4]);
  }
  uint64_t all = 0;
  for (const uint64_t each : lane) all = Stir(all, each ^ (each >> 32), kFactor[0]);
  return all ^ (all >> 29);
}

}  // namespace

int32_t TokenPages::PageOf(int64_t position) const {
  const int64_t index = position / kPage - first_page;
  CHECK(0 <= index && index < static_cast<int64_t>(pages.size()), "position ", position,
        " with pages [", first_page, ", ", first_page + static_cast<int64_t>(pages.size()), ")");
  return pages[static_cast<size_t>(index)];
}

std::vector<iovec> LatentPieces(const KvCache& cache, int64_t layer, const TokenPages& pages,
                                Range tokens) {
  const int64_t row = cache.shape().latent_bytes();
  std::vector<iovec> pieces;
  ForPages(pages, tokens, [&](int32_t page, int64_t slot, Range part) {
    pieces.push_back({static_cast<char*>(cache.LatentPage(layer, page)) + slot * row,
                      static_cast<size_t>(part.size() * row)});
  });
  return pieces;
}

void LoadIndexRows(const KvCache& cache, int64_t layer, const TokenPages& pages, Range tokens,
                   char* rows) {
  const int64_t row = cache.shape().index_bytes();
  if (row == 0) return;
  ForPages(pages, tokens, [&](int32_t page, int64_t slot, Range part) {
    cache.LoadIndexKeys(layer, page, slot, slot + part.size(),
                        rows + (part.begin - tokens.begin) * row);
  });
}

void StoreIndexRows(const KvCache& cache, int64_t layer, const TokenPages& pages, Range tokens,
                    const char* rows) {
  const int64_t row = cache.shape().index_bytes();
  if (row == 0) return;
  ForPages(pages, tokens, [&](int32_t page, int64_t slot, Range part) {
    cache.StoreIndexKeys(layer, page, slot, slot + part.size(),
                         rows + (part.begin - tokens.begin) * row);
  });
}

void CopyRun(const KvCache& from, int64_t from_layer, const TokenPages& from_pages,
             const KvCache& to, int64_t to_layer, const TokenPages& to_pages, Range tokens) {
  const int64_t latent = from.shape().latent_bytes();
  const int64_t index = from.shape().index_bytes();
  std::vector<char> rows;
  ForPages(from_pages, tokens, [&](int32_t page, int64_t slot, Range part) {
    const int32_t to_page = to_pages.PageOf(part.begin);
    std::memcpy(static_cast<char*>(to.LatentPage(to_layer, to_page)) + slot * latent,
                static_cast<const char*>(from.LatentPage(from_layer, page)) + slot * latent,
                static_cast<size_t>(part.size() * latent));
    if (index == 0) return;
    if (part.size() == kPage) {  // a whole panel
      std::memcpy(to.IndexPage(to_layer, to_page), from.IndexPage(from_layer, page),
                  static_cast<size_t>(kPage * index));
      return;
    }
    rows.resize(static_cast<size_t>(kPage * index));
    from.LoadIndexKeys(from_layer, page, slot, slot + part.size(), rows.data());
    to.StoreIndexKeys(to_layer, to_page, slot, slot + part.size(), rows.data());
  });
}

uint64_t ChecksumOf(std::span<const iovec> latents, int64_t latent_bytes, const char* index_rows,
                    int64_t index_bytes, int64_t count) {
  uint64_t sum = 0;
  for (const iovec& piece : latents) {
    const auto bytes = static_cast<int64_t>(piece.iov_len);
    for (int64_t at = 0; at < bytes; at += latent_bytes) {
      sum = HashOf(static_cast<const char*>(piece.iov_base) + at, latent_bytes, sum);
    }
  }
  for (int64_t i = 0; i < count && index_bytes > 0; ++i) {
    sum = HashOf(index_rows + i * index_bytes, index_bytes, sum);
  }
  return sum;
}

}  // namespace causeway
