#include "engine/first_token.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

TokenOutput Token() {
  TokenOutput out;
  out.token = 17;
  out.logprob = -0.5;
  out.top = {{17, -0.5}, {3, -1.25}};
  out.listed = {{99, -7.0}};
  out.cached_tokens = 128;
  return out;
}

TEST(FirstToken, ComesOutAsItWentIn) {
  const StatusOr<TokenOutput> out = DecodeFirstToken(EncodeFirstToken(Token()), 100);
  ASSERT_TRUE(out.ok()) << out.status().message();
  EXPECT_EQ(out->token, 17);
  EXPECT_EQ(out->logprob, -0.5);
  ASSERT_EQ(out->top.size(), 2u);
  EXPECT_EQ(out->top[1].token, 3);
  EXPECT_EQ(out->top[1].logprob, -1.25);
  ASSERT_EQ(out->listed.size(), 1u);
  EXPECT_EQ(out->listed[0].token, 99);
  EXPECT_EQ(out->cached_tokens, 128);
}

TEST(FirstToken, OtherBytesAreRefused) {
  const std::string bytes = EncodeFirstToken(Token());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(DecodeFirstToken(bytes.substr(0, length), 100).ok()) << length;
  }
  EXPECT_FALSE(DecodeFirstToken(bytes + "x", 100).ok());
  EXPECT_FALSE(DecodeFirstToken(bytes, 99).ok()) << "an id that the model does not have";
  EXPECT_FALSE(DecodeFirstToken(bytes, 17).ok());
  EXPECT_EQ(DecodeFirstToken("", 100).status().code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace causeway
