#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

#include "base/bf16.h"
#include "cache/kv_cache.h"
#include "cache/page_pool.h"
#include "kernels/op_table.h"

namespace causeway {
namespace {

TEST(PagePool, HandsOutEveryPageOnceAndTakesThemBack) {
  PagePool pool(5);
  std::vector<int32_t> a;
  std::vector<int32_t> b;
  ASSERT_TRUE(pool.Allocate(3, a).ok());
  const Status full = pool.Allocate(3, b);
  EXPECT_EQ(full.code(), StatusCode::kUnavailable);
  EXPECT_EQ(full.message(), "KV cache is full: 3 pages needed, 2 of 5 free");
  EXPECT_TRUE(b.empty());
  ASSERT_TRUE(pool.Allocate(2, b).ok());
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all.size(), 5u);
  pool.Free(a);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_TRUE(a.empty());
}

TEST(PagePool, RefusesToFreeAPageTwice) {
  PagePool pool(2);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.Allocate(1, pages).ok());
  std::vector<int32_t> again = pages;
  pool.Free(pages);
  EXPECT_DEATH(pool.Free(again), "check failed");
}

TEST(KvCache, KeepsLatentsAsRowsAndIndexKeysAsPanels) {
  const KvShape shape{.layers = 2, .latent_dim = 6, .index_dim = 4, .type = DType::kBf16};
  EXPECT_EQ(shape.BytesPerToken(), 2 * 10 * 2);
  const KvCache cache(shape, 3);
  const Bf16 latent[6] = {1, 2, 3, 4, 5, 6};
  const Bf16 key[4] = {7, 8, 9, 10};
  cache.StoreLatent(1, 2, 63, latent);
  cache.StoreIndexKey(1, 2, 5, key);
  EXPECT_EQ(static_cast<Bf16*>(cache.LatentPage(1, 2))[63 * 6 + 5], 6);
  const auto* panel = static_cast<Bf16*>(cache.IndexPage(1, 2));
  // [dim / 2][64][2]: dimension 3 of slot 5 is the second of group 1.
  EXPECT_EQ(panel[1 * kPage * 2 + 5 * 2 + 1], 10);
  EXPECT_EQ(static_cast<Bf16*>(cache.LatentPage(0, 2))[63 * 6 + 5], 0);
  Bf16 latent_back[6] = {};
  Bf16 key_back[4] = {};
  cache.LoadLatent(1, 2, 63, latent_back);
  cache.LoadIndexKey(1, 2, 5, key_back);
  EXPECT_TRUE(std::equal(latent, latent + 6, latent_back));
  EXPECT_TRUE(std::equal(key, key + 4, key_back));
}

TEST(KvCache, KeepsInt8IndexKeysAsUnsignedPanelsWithTheirScales) {
  const KvShape shape{
      .layers = 2, .latent_dim = 6, .index_dim = 8, .type = DType::kBf16, .int8_index = true};
  EXPECT_EQ(shape.index_bytes(), 8 + 4);
  EXPECT_EQ(shape.BytesPerToken(), 2 * (6 * 2 + 8 + 4));
  const KvCache cache(shape, 2);
  EXPECT_EQ(cache.bytes(), 2 * kPage * shape.BytesPerToken());
  int8_t key[12] = {-127, 127, 0, 5, -6, 7, -8, 9};
  const float scale = 0.25f;
  std::memcpy(key + 8, &scale, 4);
  cache.StoreIndexKey(1, 1, 63, key);
  const auto* page = static_cast<const uint8_t*>(cache.IndexPage(1, 1));
  // [dim / 4][64][4], plus 128: dimension 6 of slot 63 is the third of group 1.
  EXPECT_EQ(page[1 * kPage * 4 + 63 * 4 + 2], 120);
  EXPECT_EQ(page[63 * 4], 1);
  EXPECT_EQ(reinterpret_cast<const float*>(page + 8 * kPage)[63], 0.25f);
  int8_t back[12] = {};
  cache.LoadIndexKey(1, 1, 63, back);
  EXPECT_TRUE(std::equal(key, key + 12, back));
}

TEST(KvCache, KeepsInt8LatentsAsRowsWithTheirTwoScalesBehindThem) {
  const KvShape shape{
      .layers = 2, .latent_dim = 576, .index_dim = 128, .type = DType::kBf16, .int8_kv = true};
  EXPECT_EQ(shape.latent_bytes(), 576 + 8) << "half of 1152, and the scales";
  EXPECT_EQ(shape.index_bytes(), 256) << "index keys have a type of their own";
  const KvCache cache(shape, 3);
  EXPECT_EQ(cache.bytes(), 3 * kPage * shape.BytesPerToken());
  char row[584];
  for (int i = 0; i < 584; ++i) row[i] = static_cast<char>(i * 7);
  cache.StoreLatent(1, 2, 63, row);
  EXPECT_EQ(std::memcmp(static_cast<char*>(cache.LatentPage(1, 2)) + 63 * 584, row, 584), 0);
  char back[584] = {};
  cache.LoadLatent(1, 2, 63, back);
  EXPECT_EQ(std::memcmp(back, row, 584), 0);
}

TEST(KvCache, StoresAndLoadsIndexKeysOfManySlotsAsOneByOne) {
  for (const bool int8 : {false, true}) {
    const KvShape shape{
        .layers = 1, .latent_dim = 2, .index_dim = 8, .type = DType::kBf16, .int8_index = int8};
    const KvCache one(shape, 2);
    const KvCache many(shape, 2);
    const int64_t bytes = shape.index_bytes();
    std::vector<char> rows(static_cast<size_t>(17 * bytes));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<char>(i * 37 + 5);
    for (int64_t i = 0; i < 17; ++i) one.StoreIndexKey(0, 1, 40 + i, rows.data() + i * bytes);
    many.StoreIndexKeys(0, 1, 40, 57, rows.data());
    EXPECT_EQ(
        std::memcmp(one.IndexPage(0, 1), many.IndexPage(0, 1), static_cast<size_t>(kPage * bytes)),
        0);
    std::vector<char> back(rows.size());
    many.LoadIndexKeys(0, 1, 40, 57, back.data());
    EXPECT_EQ(back, rows);
  }
}

TEST(KvCache, InSharedMemoryIsSeenThroughItsDescriptorsAndOnlyThere) {
  const KvShape shape{.layers = 2, .latent_dim = 576, .index_dim = 128, .type = DType::kBf16};
  const KvCache cache(shape, 70, KvMemory::kShared);  // more than a huge page
  std::vector<char> row(static_cast<size_t>(shape.latent_bytes()), 0);
  std::vector<char> back = row;
  cache.LoadLatent(1, 69, 63, back.data());
  EXPECT_EQ(back, row) << "zeroed";
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<char>(i);
  cache.StoreLatent(1, 69, 63, row.data());
  cache.StoreIndexKey(1, 69, 63, row.data());
  const auto other = KvCache::OpenShared(shape, 70, cache.latents_fd(), cache.index_keys_fd());
  ASSERT_TRUE(other.ok()) << other.status().message();
  (*other)->LoadLatent(1, 69, 63, back.data());
  EXPECT_EQ(back, row);
  std::vector<char> key(static_cast<size_t>(shape.index_bytes()));
  (*other)->LoadIndexKey(1, 69, 63, key.data());
  EXPECT_TRUE(std::equal(key.begin(), key.end(), row.begin()));
  cache.StoreLatent(0, 0, 0, row.data());  // later writes too: it is the same memory
  (*other)->LoadLatent(0, 0, 0, back.data());
  EXPECT_EQ(back, row);

  EXPECT_FALSE(KvCache::OpenShared(shape, 200, cache.latents_fd(), cache.index_keys_fd()).ok());
  EXPECT_FALSE(KvCache::OpenShared(shape, 1, 0, 0).ok()) << "no memory at all";
  const KvCache alone(shape, 2);
  EXPECT_EQ(alone.latents_fd(), -1);
}

}  // namespace
}  // namespace causeway
