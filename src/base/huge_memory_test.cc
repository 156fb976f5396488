#include "base/huge_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

namespace causeway {
namespace {

TEST(HugeMemory, ArraysAreZeroAlignedAndApart) {
  HugeMemory memory;
  std::vector<std::pair<char*, int64_t>> arrays;
  for (const int64_t bytes : {int64_t{1}, int64_t{64}, int64_t{65}, int64_t{3} << 20,
                              int64_t{70} << 20, int64_t{7} << 20, int64_t{5}}) {
    auto* data = static_cast<char*>(memory.Take(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u) << bytes;
    EXPECT_TRUE(std::all_of(data, data + bytes, [](char c) { return c == 0; })) << bytes;
    arrays.emplace_back(data, bytes);
    std::memset(data, static_cast<int>(arrays.size()), static_cast<size_t>(bytes));
  }
  // What was written to one is in no other.
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto [data, bytes] = arrays[i];
    EXPECT_TRUE(std::all_of(data, data + bytes, [&](char c) {
      return c == static_cast<char>(i + 1);
    })) << i;
  }
}

TEST(HugeMemory, ThreadsTakeDisjointArrays) {
  constexpr int kThreads = 4;
  constexpr int kArrays = 2000;
  HugeMemory memory;
  std::vector<int*> taken(kThreads * kArrays);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t * kArrays; i < (t + 1) * kArrays; ++i) {
        taken[static_cast<size_t>(i)] = static_cast<int*>(memory.Take(sizeof(int)));
        *taken[static_cast<size_t>(i)] = i;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kThreads * kArrays; ++i) EXPECT_EQ(*taken[static_cast<size_t>(i)], i);
}

}  // namespace
}  // namespace causeway
