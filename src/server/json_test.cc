#include "server/json.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

// "[0,0,...]"
std::string Zeros(int64_t count) {
  std::string out = "[0";
  for (int64_t i = 1; i < count; ++i) out += ",0";
  return out + "]";
}

TEST(JsonTest, MoreThanTwoMillionValuesAreRefusedWithTheNumber) {
  // The list is a value, too.
  EXPECT_TRUE(ParseOrderedJson(Zeros(1'999'999), "body").ok());
  const Status status = ParseOrderedJson(Zeros(2'000'000), "body").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "body: more than 2000000 values");
}

TEST(JsonTest, MoreThanSixtyFourLevelsAreRefused) {
  const auto nested = [](size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_TRUE(ParseOrderedJson(nested(64), "body").ok());
  const Status status = ParseOrderedJson(nested(65), "body").status();
  EXPECT_NE(status.message().find("64 nested levels"), std::string::npos) << status.message();
  EXPECT_FALSE(ParseOrderedJson(std::string(1'000'000, '['), "body").ok());
}

}  // namespace
}  // namespace causeway
