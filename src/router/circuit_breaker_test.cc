#include "router/circuit_breaker.h"

#include <gtest/gtest.h>

#include "router/health.h"
#include "router/retry.h"

namespace causeway {
namespace {

using State = CircuitBreaker::State;

// A clock that stands still until it is told to go.
struct Clock {
  CircuitBreaker::Time now{std::chrono::hours(1)};
  void Pass(int64_t ms) { now += std::chrono::milliseconds(ms); }
};

void Fail(CircuitBreaker& breaker, const Clock& clock) {
  ASSERT_TRUE(breaker.Allows(clock.now));
  breaker.Begin(clock.now);
  breaker.Failed(clock.now);
}

void Succeed(CircuitBreaker& breaker, const Clock& clock) {
  ASSERT_TRUE(breaker.Allows(clock.now));
  breaker.Begin(clock.now);
  breaker.Succeeded(clock.now);
}

constexpr BreakerOptions kOptions = {
    .failure_threshold = 3, .success_threshold = 2, .timeout_ms = 1000, .window_ms = 500};

TEST(CircuitBreaker, FailuresInARowOpenItAndTimeHalfOpensIt) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  Fail(breaker, clock);
  Fail(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kClosed);
  Fail(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kOpen);
  EXPECT_FALSE(breaker.Allows(clock.now));
  clock.Pass(999);
  EXPECT_FALSE(breaker.Allows(clock.now));
  clock.Pass(1);
  EXPECT_EQ(breaker.state(clock.now), State::kHalfOpen);
  EXPECT_TRUE(breaker.Allows(clock.now));
}

TEST(CircuitBreaker, ASuccessBetweenFailuresKeepsItClosed) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  for (int i = 0; i < 10; ++i) {
    Fail(breaker, clock);
    Fail(breaker, clock);
    Succeed(breaker, clock);
  }
  EXPECT_EQ(breaker.state(clock.now), State::kClosed);
}

TEST(CircuitBreaker, FailuresOlderThanTheWindowAreForgotten) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  for (int i = 0; i < 10; ++i) {
    Fail(breaker, clock);
    clock.Pass(300);
  }
  EXPECT_EQ(breaker.state(clock.now), State::kClosed);
}

TEST(CircuitBreaker, HalfOpenASuccessOrTwoCloseItAndAFailureOpensIt) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  for (int i = 0; i < 3; ++i) Fail(breaker, clock);
  clock.Pass(1000);
  Succeed(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kHalfOpen);
  Fail(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kOpen);
  clock.Pass(1000);
  Succeed(breaker, clock);
  Succeed(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kClosed);
  Fail(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kClosed) << "it begins anew";
  EXPECT_EQ(breaker.times_opened(), 2);
}

TEST(CircuitBreaker, HalfOpenOnlyAFewProbesPassAtOnce) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  for (int i = 0; i < 3; ++i) Fail(breaker, clock);
  clock.Pass(1000);
  breaker.Begin(clock.now);
  EXPECT_TRUE(breaker.Allows(clock.now));
  breaker.Begin(clock.now);
  EXPECT_FALSE(breaker.Allows(clock.now));
  breaker.Dropped();
  EXPECT_TRUE(breaker.Allows(clock.now)) << "one that says nothing makes room for another";
}

TEST(CircuitBreaker, WhatBeganBeforeItOpenedDoesNotCloseIt) {
  Clock clock;
  CircuitBreaker breaker(kOptions);
  breaker.Begin(clock.now);
  breaker.Begin(clock.now);
  for (int i = 0; i < 3; ++i) Fail(breaker, clock);
  breaker.Succeeded(clock.now);
  breaker.Succeeded(clock.now);
  EXPECT_EQ(breaker.state(clock.now), State::kOpen);
}

TEST(CircuitBreaker, DisabledItNeverOpens) {
  Clock clock;
  BreakerOptions options = kOptions;
  options.disabled = true;
  CircuitBreaker breaker(options);
  for (int i = 0; i < 100; ++i) Fail(breaker, clock);
  EXPECT_EQ(breaker.state(clock.now), State::kClosed);
}

TEST(Retry, OnlyStatusesThatMayPassAreRetried) {
  for (int status = 100; status < 600; ++status) {
    const bool expected = status == 408 || status == 429 || status == 500 || status == 502 ||
                          status == 503 || status == 504;
    EXPECT_EQ(IsRetryable(status), expected) << status;
  }
}

TEST(Retry, PausesGrowToTheLimitWithinTheJitter) {
  const RetryOptions options = {.initial_backoff_ms = 50,
                                .max_backoff_ms = 500,
                                .backoff_multiplier = 2,
                                .jitter_factor = 0.1};
  const int64_t expected[] = {50, 100, 200, 400, 500, 500};
  for (int tried = 1; tried <= 6; ++tried) {
    EXPECT_EQ(BackoffMs(options, tried, 0.5), expected[tried - 1]) << tried;
    EXPECT_GE(BackoffMs(options, tried, 0.0), expected[tried - 1] * 9 / 10);
    EXPECT_LE(BackoffMs(options, tried, 0.999),
              std::min<int64_t>(500, expected[tried - 1] * 11 / 10));
  }
  EXPECT_EQ(BackoffMs(options, 1000, 0.5), 500) << "no overflow";
}

TEST(WorkerHealth, ThresholdsAreCountedInARow) {
  HealthOptions options;
  options.failure_threshold = 3;
  options.success_threshold = 2;
  WorkerHealth health(options);
  EXPECT_FALSE(health.up());
  EXPECT_FALSE(health.Report(false)) << "it only has not come up yet";
  EXPECT_TRUE(health.Report(true));
  EXPECT_TRUE(health.up()) << "the first good check is enough at the start";
  EXPECT_FALSE(health.Report(false));
  EXPECT_FALSE(health.Report(false));
  EXPECT_FALSE(health.Report(true));
  EXPECT_FALSE(health.Report(false));
  EXPECT_FALSE(health.Report(false));
  EXPECT_TRUE(health.up());
  EXPECT_TRUE(health.Report(false));
  EXPECT_EQ(health.state(), WorkerHealth::State::kDown);
  EXPECT_FALSE(health.Report(true));
  EXPECT_FALSE(health.up());
  EXPECT_TRUE(health.Report(true));
  EXPECT_TRUE(health.up());
}

}  // namespace
}  // namespace causeway
