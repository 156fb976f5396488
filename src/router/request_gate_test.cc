#include "router/request_gate.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

using Verdict = RequestGate::Verdict;
using Ids = std::vector<uint64_t>;

RequestGate::Time At(int64_t ms) {
  return RequestGate::Time(std::chrono::hours(1)) + std::chrono::milliseconds(ms);
}

TEST(RequestGate, WithoutLimitsAllGo) {
  RequestGate gate({}, At(0));
  for (uint64_t i = 1; i <= 10'000; ++i) ASSERT_EQ(gate.Enter(i, At(0)), Verdict::kGo);
}

TEST(RequestGate, BeyondTheLimitRequestsWaitInOrderAndThenAreRefused) {
  RequestGate gate({.max_concurrent = 2, .queue_size = 2}, At(0));
  EXPECT_EQ(gate.Enter(1, At(0)), Verdict::kGo);
  EXPECT_EQ(gate.Enter(2, At(0)), Verdict::kGo);
  EXPECT_EQ(gate.Enter(3, At(0)), Verdict::kWait);
  EXPECT_EQ(gate.Enter(4, At(0)), Verdict::kWait);
  EXPECT_EQ(gate.Enter(5, At(0)), Verdict::kFull);
  EXPECT_EQ(gate.Admit(At(0)), Ids());
  gate.Leave();
  EXPECT_EQ(gate.Enter(6, At(0)), Verdict::kFull) << "nobody overtakes those that wait";
  EXPECT_EQ(gate.Admit(At(0)), Ids{3});
  EXPECT_EQ(gate.running(), 2);
  EXPECT_TRUE(gate.GiveUp(4));
  EXPECT_FALSE(gate.GiveUp(4));
  gate.Leave();
  EXPECT_EQ(gate.Enter(7, At(0)), Verdict::kGo);
}

TEST(RequestGate, WhoWaitsTooLongIsToldOnce) {
  RequestGate gate({.max_concurrent = 1, .queue_size = 5, .queue_timeout_ms = 100}, At(0));
  EXPECT_EQ(gate.Enter(1, At(0)), Verdict::kGo);
  EXPECT_EQ(gate.Enter(2, At(0)), Verdict::kWait);
  EXPECT_EQ(gate.Enter(3, At(50)), Verdict::kWait);
  EXPECT_EQ(gate.Expire(At(99)), Ids());
  EXPECT_EQ(gate.Expire(At(100)), Ids{2});
  EXPECT_EQ(gate.Expire(At(100)), Ids());
  EXPECT_EQ(gate.Expire(At(150)), Ids{3});
  EXPECT_EQ(gate.waiting(), 0);
}

TEST(RequestGate, WithoutAQueueTheRefusalIsAtOnce) {
  RequestGate gate({.max_concurrent = 1, .queue_size = 0}, At(0));
  EXPECT_EQ(gate.Enter(1, At(0)), Verdict::kGo);
  EXPECT_EQ(gate.Enter(2, At(0)), Verdict::kFull);
}

TEST(RequestGate, ARateLetsABurstPassAndThenItsMean) {
  RequestGate gate({.queue_size = 100, .tokens_per_second = 10}, At(0));
  for (uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(gate.Enter(i, At(0)), Verdict::kGo);
  EXPECT_EQ(gate.Enter(11, At(0)), Verdict::kWait);
  EXPECT_EQ(gate.Enter(12, At(0)), Verdict::kWait);
  EXPECT_EQ(gate.Admit(At(99)), Ids());
  EXPECT_EQ(gate.Admit(At(101)), Ids{11});
  EXPECT_EQ(gate.Admit(At(150)), Ids());
  EXPECT_EQ(gate.Admit(At(201)), Ids{12});
  int admitted = 0;
  uint64_t number = 100;
  for (int64_t ms = 300; ms < 10'300; ms += 10) {
    while (gate.waiting() < 50) gate.Enter(number++, At(ms));
    admitted += static_cast<int>(gate.Admit(At(ms)).size());
  }
  EXPECT_NEAR(admitted, 100, 3) << "ten seconds at ten a second";
}

}  // namespace
}  // namespace causeway
