#include "base/numa.h"

#include <gtest/gtest.h>

#include "base/buffer.h"

namespace causeway {
namespace {

TEST(Numa, ReadsListsOfNodes) {
  EXPECT_EQ(ParseNodeList("0"), std::vector<int>({0}));
  EXPECT_EQ(ParseNodeList("0-3"), std::vector<int>({0, 1, 2, 3}));
  EXPECT_EQ(ParseNodeList("0,2-3,8"), std::vector<int>({0, 2, 3, 8}));
}

TEST(Numa, TakesNothingFromWhatIsNoList) {
  for (const char* text : {"", "x", "0-", "-1", "3-1", "0,", "0,,1", "0 1", "0-99999", "1-x"}) {
    EXPECT_TRUE(ParseNodeList(text).empty()) << text;
  }
}

TEST(Numa, SpreadMemoryIsZeroAndWritable) {
  for (const int64_t bytes : {int64_t{1}, int64_t{4} << 20, (int64_t{9} << 20) + 1}) {
    const Buffer buffer = Buffer::Spread(bytes);
    ASSERT_EQ(buffer.bytes(), bytes);
    auto* data = buffer.as<unsigned char>();
    EXPECT_EQ(data[0], 0);
    EXPECT_EQ(data[bytes - 1], 0);
    data[bytes - 1] = 7;
    EXPECT_EQ(data[bytes - 1], 7);
  }
}

}  // namespace
}  // namespace causeway
