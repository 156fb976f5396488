#include "base/buffer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/huge_memory.h"

namespace causeway {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

bool AllZero(const Buffer& buffer) {
  const char* data = buffer.as<char>();
  return std::all_of(data, data + buffer.bytes(), [](char c) { return c == 0; });
}

int64_t Mappings() {
  std::ifstream maps("/proc/self/maps");
  int64_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

// One byte before, at and after each border of the rule for large memory.
const std::vector<int64_t> kSizes = {1,        63,           64,       4097,        4 * kMiB - 1,
                                     4 * kMiB, 4 * kMiB + 1, 6 * kMiB, 9 * kMiB + 5};

TEST(Buffer, IsZeroAlignedAndWritableToItsEnd) {
  for (const int64_t bytes : kSizes) {
    for (int kind = 0; kind < 3; ++kind) {
      const Buffer buffer = kind == 0   ? Buffer(bytes)
                            : kind == 1 ? Buffer::Spread(bytes)
                                        : Buffer::Shared(bytes);
      ASSERT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (bytes >= 4 * kMiB ? 2 * kMiB : 64),
                0u)
          << bytes << " kind " << kind;
      EXPECT_TRUE(AllZero(buffer)) << bytes << " kind " << kind;
      buffer.as<char>()[0] = 1;
      buffer.as<char>()[bytes - 1] = 2;
      EXPECT_EQ(buffer.as<char>()[bytes - 1], 2);
    }
  }
}

TEST(Buffer, IsZeroAgainAfterMemoryWasUsedAndGivenBack) {
  for (int turn = 0; turn < 4; ++turn) {
    for (const int64_t bytes : kSizes) {
      const Buffer buffer(bytes);
      EXPECT_TRUE(AllZero(buffer)) << bytes;
      std::fill_n(buffer.as<char>(), bytes, static_cast<char>(1));
    }
  }
}

TEST(Buffer, OfNoBytesIsEmpty) {
  EXPECT_EQ(Buffer(0).data(), nullptr);
  EXPECT_EQ(Buffer::Untouched(0).data(), nullptr);
  EXPECT_EQ(Buffer::Spread(0).data(), nullptr);
  EXPECT_EQ(Buffer::Shared(0).data(), nullptr);
  EXPECT_EQ(Buffer::Shared(0).shared_fd(), -1);
}

TEST(Buffer, MovesWithItsMemory) {
  for (const int64_t bytes : kSizes) {
    Buffer a(bytes);
    void* const data = a.data();
    a.as<char>()[bytes - 1] = 3;
    Buffer b = std::move(a);
    EXPECT_EQ(b.data(), data);
    Buffer c(5 * kMiB);
    c = std::move(b);
    EXPECT_EQ(c.data(), data);
    EXPECT_EQ(c.as<char>()[bytes - 1], 3);
  }
}

TEST(Buffer, GivesItsMemoryBack) {
  const int64_t before = Mappings();
  for (int i = 0; i < 100; ++i) {
    const Buffer a(5 * kMiB);
    const Buffer b = Buffer::Untouched(64 * kMiB);
    const Buffer c = Buffer::Spread(5 * kMiB);
    const Buffer d = Buffer::Shared(5 * kMiB);
  }
  EXPECT_LE(Mappings(), before + 10);  // the heap may have grown
}

TEST(Buffer, WhatCanNotBeHadIsAnErrorThatNamesTheSize) {
  const int64_t bytes = std::numeric_limits<int64_t>::max() / 4;
  const int64_t before = Mappings();
  for (int i = 0; i < 40; ++i) {
    const int kind = i % 4;
    try {
      const Buffer buffer = kind == 0   ? Buffer(bytes)
                            : kind == 1 ? Buffer::Spread(bytes)
                            : kind == 2 ? Buffer::Untouched(bytes)
                                        : Buffer::Shared(bytes);
      ADD_FAILURE() << "got " << buffer.bytes() << " bytes, kind " << kind;
    } catch (const StartError& error) {
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos)
          << error.what();
    }
  }
  EXPECT_LE(Mappings(), before + 5);  // a range that was reserved is given back
}

// Experts of large models have 40000 arrays of this size, and Linux allows 65530 mappings.
TEST(Buffer, ManyLargeArraysAreFewMappings) {
  const int64_t before = Mappings();
  HugeMemory memory;
  for (int i = 0; i < 40; ++i) memory.Take(9 * kMiB);
  EXPECT_LE(Mappings(), before + 10);
}

TEST(Buffer, SharedMemoryIsReadThroughItsDescriptor) {
  for (const int64_t bytes : kSizes) {
    const Buffer buffer = Buffer::Shared(bytes);
    buffer.as<char>()[bytes - 1] = 4;
    StatusOr<Buffer> other = Buffer::ReadOnly(buffer.shared_fd(), bytes);
    ASSERT_TRUE(other.ok()) << other.status().message();
    EXPECT_EQ(other->as<char>()[bytes - 1], 4) << bytes;
    buffer.as<char>()[0] = 5;
    EXPECT_EQ(other->as<char>()[0], 5) << bytes;
  }
}

TEST(Buffer, ReadOnlyTakesOnlyMemoryThatIsLargeEnoughAndCanNotShrink) {
  const Buffer shared = Buffer::Shared(5000);
  EXPECT_FALSE(Buffer::ReadOnly(shared.shared_fd(), 50000).ok());
  EXPECT_FALSE(Buffer::ReadOnly(-1, 1).ok());
  const int open = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(open, 5000), 0);
  EXPECT_FALSE(Buffer::ReadOnly(open, 5000).ok());
  close(open);
}

}  // namespace
}  // namespace causeway
