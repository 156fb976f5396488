#include "base/arena.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace causeway {
namespace {

constexpr int64_t kBlock = int64_t{16} << 20;  // what an arena grows by

TEST(Arena, HandsOutAlignedMemoryThatDoesNotOverlap) {
  Arena arena;
  std::mt19937 random(1);
  std::vector<std::pair<unsigned char*, size_t>> pieces;
  for (int i = 0; i < 200; ++i) {
    const auto bytes = static_cast<int64_t>(random() % 500'000);
    auto* data = static_cast<unsigned char*>(arena.Allocate(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    std::memset(data, i, static_cast<size_t>(bytes));
    pieces.emplace_back(data, static_cast<size_t>(bytes));
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (size_t byte = 0; byte < pieces[i].second; byte += 63) {
      ASSERT_EQ(pieces[i].first[byte], i) << "piece " << i << " was overwritten";
    }
  }
}

TEST(Arena, AScopeGivesBackWhatItTookAndNothingElse) {
  Arena arena;
  auto* kept = arena.Array<int64_t>(1);
  *kept = 42;
  void* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    const ArenaScope scope(arena);
    void* data = arena.Allocate(1000);
    if (round == 0) first = data;
    EXPECT_EQ(data, first);
    const ArenaScope inner(arena);
    std::memset(arena.Allocate(2000), 0xff, 2000);
  }
  EXPECT_EQ(*kept, 42);
  EXPECT_EQ(arena.bytes(), kBlock);
}

TEST(Arena, RepeatedStepsOfAnyPatternNeedNoMoreMemoryThanTheFirst) {
  Arena arena;
  const auto step = [&] {
    const ArenaScope scope(arena);
    for (int64_t bytes :
         {int64_t{100}, 3 * kBlock, int64_t{100}, kBlock, kBlock - 64, 2 * kBlock}) {
      const ArenaScope inner(arena);
      arena.Allocate(bytes);
      arena.Allocate(bytes / 2);
    }
  };
  step();
  const int64_t held = arena.bytes();
  EXPECT_GE(held, 3 * kBlock);
  for (int i = 0; i < 20; ++i) step();
  EXPECT_EQ(arena.bytes(), held);
}

TEST(Arena, AnAllocationLargerThanABlockGetsItsOwn) {
  Arena arena;
  const auto big = static_cast<size_t>(kBlock + 1);
  std::memset(arena.Allocate(kBlock + 1), 1, big);
  std::memset(arena.Allocate(64), 2, 64);
  EXPECT_GE(arena.bytes(), kBlock + 64);
}

TEST(Arena, ALimitIsTheMostThatCanBeInUseHoweverItIsAskedFor) {
  Arena arena;
  for (int64_t limit : {int64_t{1000} * 64, 3 * kBlock, int64_t{5000} * 64}) {
    arena.Limit(limit);
    for (int64_t part : {int64_t{64}, limit / 3 / 64 * 64, limit}) {
      const ArenaScope scope(arena);
      for (int64_t used = 0; used + part <= limit; used += part) {
        std::memset(arena.Allocate(part), 1, static_cast<size_t>(part));
      }
    }
  }
  EXPECT_EQ(arena.bytes(), 3 * kBlock) << "the most that was in use";
}

TEST(ArenaDeathTest, MoreThanTheLimitIsRefusedWithBothNumbers) {
  Arena arena;
  arena.Limit(1024);
  arena.Allocate(1000);
  EXPECT_DEATH(arena.Allocate(1), "1024 bytes in use, 64 more asked for, limit 1024");
  EXPECT_DEATH(arena.Limit(2048), "arena in use");
}

TEST(Arena, ViewsHaveTheShapeAndTypeAskedFor) {
  Arena arena;
  const View<float, 2> floats = arena.Floats(3, 5);
  EXPECT_EQ(floats.dim(0), 3);
  EXPECT_EQ(floats.stride(0), 5);
  const Rows rows = arena.Matrix(DType::kBf16, 4, 7);
  EXPECT_EQ(rows.rows, 4);
  EXPECT_EQ(static_cast<char*>(rows.row(1)) - static_cast<char*>(rows.row(0)), 14);
  EXPECT_EQ(arena.Floats(0, 5).dim(0), 0);
}

}  // namespace
}  // namespace causeway
