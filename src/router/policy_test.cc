#include "router/policy.h"

#include <gtest/gtest.h>

#include <map>

namespace causeway {
namespace {

std::unique_ptr<Policy> Make(const std::string& name, PolicyOptions options = {}) {
  options.seed = 42;
  StatusOr<std::unique_ptr<Policy>> policy = MakePolicy("--policy", name, options);
  EXPECT_TRUE(policy.ok()) << policy.status().message();
  return std::move(policy).value();
}

std::vector<Candidate> Idle(size_t count) {
  std::vector<Candidate> out;
  for (size_t i = 0; i < count; ++i) out.push_back({.worker = 100 + i});
  return out;
}

TEST(Policy, RandomUsesEveryWorkerAboutEquallyAndTheSameSeedRepeats) {
  const auto policy = Make("random");
  const auto again = Make("random");
  std::map<size_t, int> counts;
  for (int i = 0; i < 3000; ++i) {
    const size_t picked = policy->Pick(Idle(3), "");
    EXPECT_EQ(picked, again->Pick(Idle(3), ""));
    ++counts[picked];
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(counts[i], 1000, 150);
}

TEST(Policy, RoundRobinTakesThemInTurn) {
  const auto policy = Make("round_robin");
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(policy->Pick(Idle(3), "x"), i % 3);
}

TEST(Policy, PowerOfTwoNeverTakesTheBusiestAndLikesTheIdlest) {
  const auto policy = Make("power_of_two");
  std::vector<Candidate> workers = Idle(4);
  for (size_t i = 0; i < 4; ++i) workers[i].requests = static_cast<int64_t>(10 * i);
  std::map<size_t, int> counts;
  for (int i = 0; i < 6000; ++i) ++counts[policy->Pick(workers, "")];
  EXPECT_EQ(counts[3], 0);
  // It is among two of four in half of all choices, and wins all of them.
  EXPECT_NEAR(counts[0], 3000, 200);
  EXPECT_NEAR(counts[1], 2000, 200);
  EXPECT_NEAR(counts[2], 1000, 200);
}

TEST(Policy, CacheAwareSendsAConversationToOneWorker) {
  const auto policy = Make("cache_aware");
  const std::string first = "a long system prompt, and the first question";
  const std::string second = "something entirely different that others ask";
  const size_t one = policy->Pick(Idle(3), first);
  const size_t other = policy->Pick(Idle(3), second);
  EXPECT_NE(one, other) << "the new prompt goes where the tree is smaller";
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(policy->Pick(Idle(3), first + std::string(static_cast<size_t>(i), '!')), one);
    EXPECT_EQ(policy->Pick(Idle(3), second + std::string(static_cast<size_t>(i), '?')), other);
  }
}

TEST(Policy, CacheAwareIgnoresMatchesBelowTheThreshold) {
  const auto policy = Make("cache_aware", {.cache_threshold = 0.5});
  const size_t one = policy->Pick(Idle(2), "0123456789");
  EXPECT_NE(policy->Pick(Idle(2), "0123ABCDEF"), one) << "40 % is the same";
  EXPECT_EQ(policy->Pick(Idle(2), "012345WXYZ"), one) << "60 % is the same";
}

TEST(Policy, CacheAwareBalancesOnceTheLoadIsUneven) {
  const auto policy = Make("cache_aware", {.balance_abs_threshold = 4, .balance_rel_threshold = 2});
  std::vector<Candidate> workers = Idle(2);
  const size_t home = policy->Pick(workers, "the same prompt");
  const size_t other = 1 - home;
  workers[home].requests = 4;
  EXPECT_EQ(policy->Pick(workers, "the same prompt"), home) << "within the absolute threshold";
  workers[other].requests = 3;
  workers[home].requests = 6;
  EXPECT_EQ(policy->Pick(workers, "the same prompt"), home) << "neither threshold is passed";
  workers[other].requests = 5;
  workers[home].requests = 10;
  EXPECT_EQ(policy->Pick(workers, "the same prompt"), home) << "twice is not more than twice";
  workers[home].requests = 11;
  EXPECT_EQ(policy->Pick(workers, "the same prompt"), other);
}

TEST(Policy, AWorkerThatIsForgottenHasSeenNothing) {
  const auto policy = Make("cache_aware");
  const size_t home = policy->Pick(Idle(2), "the same prompt");
  // The other one knows more by now, so that a new prompt would go home.
  std::vector<Candidate> only_other = {Idle(2)[1 - home]};
  policy->Pick(only_other, "a prompt of another kind, and longer than the first");
  policy->Forget(Idle(2)[1 - home].worker);
  EXPECT_EQ(policy->Pick(Idle(2), "a prompt of another kind, and longer than the first"), 1 - home)
      << "its tree is empty, the smallest";
}

TEST(Policy, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const auto policy = MakePolicy("--decode-policy", "bucket", {});
  ASSERT_FALSE(policy.ok());
  EXPECT_EQ(policy.status().message(),
            "--decode-policy is 'bucket'; expected random, round_robin, power_of_two or "
            "cache_aware");
}

}  // namespace
}  // namespace causeway
