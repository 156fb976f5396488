// Partition is pure, so small cases are tested exhaustively: every batch of up to two extends out
// of a list of lengths and begins, then random larger ones.
#include "parallel/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "base/check.h"

namespace causeway {
namespace {

using Plan = std::vector<std::vector<Slice>>;
using BatchOfRanges = std::vector<ExtendRange>;

constexpr PartitionKind kKinds[] = {PartitionKind::kContiguous, PartitionKind::kZigzag,
                                    PartitionKind::kBalanced};
constexpr int64_t kWhole = 64;  // a balanced partition never cuts extends of fewer tokens
constexpr int64_t kLeast = 8;   // and leaves no fewer tokens than this of one that it cuts
constexpr uint32_t kSeed = 20261125;

// Token-linear, dense and sparse attention, in the proportions of a real model.
std::vector<TokenCost> Costs() {
  return {TokenCost(), TokenCost{.linear = 5000.3, .dense = 1.7},
          TokenCost{.linear = 5000.3,
                    .dense = 3.1,
                    .dense_end = 6976,
                    .flat = 20000.7,
                    .index = 0.7,
                    .index_from = 2048},
          TokenCost{.linear = 0.0, .dense = 1.0}};
}

std::string Print(PartitionKind kind, int cp, const BatchOfRanges& batch) {
  std::string out = Text(NameOf(kind), " cp ", cp, ":");
  for (const ExtendRange& e : batch) out += Text(" [", e.begin, ", ", e.end, ")");
  return out;
}

// Of one token at position p, by the formula of the header.
double CostAt(const TokenCost& cost, int64_t p) {
  const auto keys = static_cast<double>(p + 1);
  const double attended = cost.dense_end < 0 || p < cost.dense_end ? cost.dense * keys : cost.flat;
  return cost.linear + attended + (p >= cost.index_from ? cost.index * keys : 0.0);
}

double LoadOf(const TokenCost& cost, const std::vector<Slice>& slices) {
  double load = 0.0;
  for (const Slice& s : slices) load += cost.Of(s.begin, s.end);
  return load;
}

double MostLoaded(const TokenCost& cost, const Plan& plan) {
  double most = 0.0;
  for (const auto& slices : plan) most = std::max(most, LoadOf(cost, slices));
  return most;
}

// How far a balanced rank may be above the mean: the dearest extend that is never cut, and the
// tokens by which a cut may be off at both of a rank's ends.
double Slack(const TokenCost& cost, const BatchOfRanges& batch) {
  double whole = 0.0;
  double cuts = 0.0;
  for (const ExtendRange& e : batch) {
    if (e.end - e.begin < kWhole) {
      whole = std::max(whole, cost.Of(e.begin, e.end));
    } else {
      cuts = std::max(cuts, cost.Of(e.end - 2 * kLeast, e.end));
    }
  }
  return whole + cuts;
}

// What holds for every kind. False after the first failure, so that a sweep prints one case.
bool IsExactCover(const Plan& plan, int cp, const BatchOfRanges& batch) {
  EXPECT_EQ(plan.size(), static_cast<size_t>(cp));
  std::vector<Slice> all;
  for (const auto& slices : plan) {
    for (size_t i = 0; i < slices.size(); ++i) {
      EXPECT_LT(slices[i].begin, slices[i].end) << "an empty slice";
      if (i > 0) {
        const Slice& before = slices[i - 1];
        EXPECT_TRUE(before.extend < slices[i].extend ||
                    (before.extend == slices[i].extend && before.end < slices[i].begin))
            << "out of order, or two slices that are one";
      }
    }
    all.insert(all.end(), slices.begin(), slices.end());
  }
  std::sort(all.begin(), all.end(), [](const Slice& a, const Slice& b) {
    return a.extend != b.extend ? a.extend < b.extend : a.begin < b.begin;
  });
  size_t next = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    int64_t at = batch[i].begin;
    for (; next < all.size() && all[next].extend == static_cast<int32_t>(i); ++next) {
      EXPECT_EQ(all[next].begin, at) << "extend " << i;
      at = all[next].end;
    }
    EXPECT_EQ(at, batch[i].end) << "extend " << i;
  }
  EXPECT_EQ(next, all.size()) << "a slice of an extend that is not there";
  return !testing::Test::HasFailure();
}

bool IsBalanced(const Plan& plan, int cp, const TokenCost& cost, const BatchOfRanges& batch) {
  double total = 0.0;
  for (const ExtendRange& e : batch) total += cost.Of(e.begin, e.end);
  const double slack = Slack(cost, batch) + 1e-9 * total;
  const double most = MostLoaded(cost, plan);
  EXPECT_LE(most, total / cp + slack);
  EXPECT_LE(most, MostLoaded(cost, Partition(PartitionKind::kContiguous, cp, cost, batch)) + slack);
  // Few slices: every extend once, and one more for each border between ranks.
  size_t slices = 0;
  std::vector<int> pieces(batch.size(), 0);
  for (const auto& list : plan) {
    slices += list.size();
    for (const Slice& s : list) {
      ++pieces[static_cast<size_t>(s.extend)];
      const ExtendRange& e = batch[static_cast<size_t>(s.extend)];
      EXPECT_GE(s.end - s.begin, std::min(e.end - e.begin, kLeast));
    }
  }
  EXPECT_LE(slices, batch.size() + static_cast<size_t>(cp) - 1);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].end - batch[i].begin >= kWhole) continue;
    EXPECT_LE(pieces[i], 1) << "extend " << i;
  }
  return !testing::Test::HasFailure();
}

bool IsContiguous(const Plan& plan, int cp, const BatchOfRanges& batch) {
  int64_t total = 0;
  for (const ExtendRange& e : batch) total += e.end - e.begin;
  Slice last{-1, 0, 0};
  for (const auto& slices : plan) {
    int64_t tokens = 0;
    for (const Slice& s : slices) {
      tokens += s.end - s.begin;
      EXPECT_TRUE(last.extend < s.extend || (last.extend == s.extend && last.end == s.begin));
      last = s;
    }
    EXPECT_GE(tokens, total / cp);
    EXPECT_LE(tokens, (total + cp - 1) / cp);
  }
  return !testing::Test::HasFailure();
}

// Equal runs i and 2 cp - 1 - i: every rank gets its share of each extend's tokens, and the halves
// of the share mirror each other.
bool IsZigzag(const Plan& plan, int cp, const BatchOfRanges& batch) {
  for (int rank = 0; rank < cp; ++rank) {
    for (size_t i = 0; i < batch.size(); ++i) {
      const int64_t length = batch[i].end - batch[i].begin;
      int64_t tokens = 0;
      for (const Slice& s : plan[static_cast<size_t>(rank)]) {
        if (s.extend != static_cast<int32_t>(i)) continue;
        tokens += s.end - s.begin;
        if (length % (2 * cp) != 0) continue;
        const int64_t run = length / (2 * cp);
        const int64_t at = s.begin - batch[i].begin;
        EXPECT_TRUE(at == run * rank || at == run * (2 * cp - 1 - rank)) << "begins at " << at;
      }
      EXPECT_LE(std::abs(tokens * cp - length), 2 * cp) << "extend " << i;
    }
  }
  return !testing::Test::HasFailure();
}

bool IsRight(PartitionKind kind, int cp, const TokenCost& cost, const BatchOfRanges& batch) {
  SCOPED_TRACE(Print(kind, cp, batch));
  const Plan plan = Partition(kind, cp, cost, batch);
  EXPECT_EQ(plan, Partition(kind, cp, cost, batch)) << "not deterministic";
  if (!IsExactCover(plan, cp, batch)) return false;
  switch (kind) {
    case PartitionKind::kContiguous:
      return IsContiguous(plan, cp, batch);
    case PartitionKind::kZigzag:
      return IsZigzag(plan, cp, batch);
    case PartitionKind::kBalanced:
      return IsBalanced(plan, cp, cost, batch);
  }
  return false;
}

TEST(Partition, CoversEveryTokenOnceInOrderAndBalancedForAllSmallBatches) {
  const std::vector<TokenCost> costs = Costs();
  int64_t cases = 0;
  for (int cp = 1; cp <= 9; ++cp) {
    std::vector<ExtendRange> extends;
    for (int64_t length : {0, 1, cp - 1, 2 * cp + 1, 7, 37, 64, 65, 127, 1000}) {
      for (int64_t begin : {0, 100, 5000}) extends.push_back({begin, begin + length});
    }
    std::vector<BatchOfRanges> batches = {{}};
    for (const ExtendRange& a : extends) {
      batches.push_back({a});
      for (const ExtendRange& b : extends) batches.push_back({a, b});
    }
    for (const BatchOfRanges& batch : batches) {
      for (const TokenCost& cost : costs) {
        for (PartitionKind kind : kKinds) {
          ASSERT_TRUE(IsRight(kind, cp, cost, batch));
          ++cases;
        }
      }
    }
  }
  std::printf("%ld cases\n", static_cast<long>(cases));
}

TEST(Partition, CoversEveryTokenOnceInOrderAndBalancedForRandomBatches) {
  std::mt19937 random(kSeed);
  std::printf("seed %u\n", kSeed);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(limit));
  };
  const std::vector<TokenCost> costs = Costs();
  for (int round = 0; round < 2000; ++round) {
    BatchOfRanges batch;
    for (int64_t extends = below(40); extends > 0; --extends) {
      const int64_t begin = below(3) == 0 ? below(100000) : 0;
      const int64_t longest[] = {2, 64, 130, 2000, 70000};
      batch.push_back({begin, begin + below(longest[below(5)])});
    }
    const auto cp = static_cast<int>(1 + below(16));
    for (PartitionKind kind : kKinds) {
      ASSERT_TRUE(IsRight(kind, cp, costs[static_cast<size_t>(below(4))], batch));
    }
  }
}

TEST(Partition, ALongPromptIsBalancedToOneTokenWhereEqualPiecesAreFarOff) {
  const TokenCost dense{.linear = 0.0, .dense = 1.0};
  const BatchOfRanges batch = {{0, 65536}};
  for (int cp : {2, 3, 4, 8, 16}) {
    const double mean = dense.Of(0, 65536) / cp;
    const double balanced =
        MostLoaded(dense, Partition(PartitionKind::kBalanced, cp, dense, batch));
    const double zigzag = MostLoaded(dense, Partition(PartitionKind::kZigzag, cp, dense, batch));
    const double contiguous =
        MostLoaded(dense, Partition(PartitionKind::kContiguous, cp, dense, batch));
    EXPECT_LE(balanced, mean + 65536) << cp;  // the dearest token costs 65536
    EXPECT_LE(zigzag, mean * 1.001) << cp;
    // The last of cp equal pieces of a triangle holds 2 - 1 / cp of the mean.
    EXPECT_NEAR(contiguous / mean, 2.0 - 1.0 / cp, 1e-3) << cp;
  }
}

TEST(Partition, RunsOfEachKindLieWhereTheHeaderSays) {
  const BatchOfRanges batch = {{10, 18}};
  const TokenCost linear;
  EXPECT_EQ(Partition(PartitionKind::kContiguous, 2, linear, batch),
            (Plan{{{0, 10, 14}}, {{0, 14, 18}}}));
  EXPECT_EQ(Partition(PartitionKind::kZigzag, 2, linear, batch),
            (Plan{{{0, 10, 12}, {0, 16, 18}}, {{0, 12, 16}}}));
  EXPECT_EQ(Partition(PartitionKind::kBalanced, 2, linear, batch), (Plan{{{0, 10, 18}}, {}}));
  // From 64 tokens on an extend is cut, and shorter ones fill up beside it.
  EXPECT_EQ(Partition(PartitionKind::kBalanced, 2, linear, {{0, 64}}),
            (Plan{{{0, 0, 32}}, {{0, 32, 64}}}));
  EXPECT_EQ(Partition(PartitionKind::kBalanced, 2, linear, {{0, 100}, {7, 27}}),
            (Plan{{{0, 0, 40}, {1, 7, 27}}, {{0, 40, 100}}}));
}

TEST(Partition, DecodingSequencesAreSpreadEvenlyOverTheRanks) {
  for (int cp : {1, 2, 3, 8}) {
    for (int sequences : {1, 2, 7, 64}) {
      const BatchOfRanges batch(static_cast<size_t>(sequences), ExtendRange{500, 501});
      const Plan plan = Partition(PartitionKind::kBalanced, cp, Costs()[1], batch);
      for (const auto& slices : plan) {
        EXPECT_GE(slices.size(), static_cast<size_t>(sequences / cp));
        EXPECT_LE(slices.size(), static_cast<size_t>((sequences + cp - 1) / cp));
      }
    }
  }
}

TEST(Partition, EqualPromptsAreNotCutByRoundingErrors) {
  for (int cp = 1; cp <= 9; ++cp) {
    for (int each : {1, 2, 3, 7}) {
      for (int64_t length : {64, 100, 1000, 4097}) {
        for (const TokenCost& cost : Costs()) {
          const BatchOfRanges batch(static_cast<size_t>(cp * each), ExtendRange{3, 3 + length});
          Plan whole(static_cast<size_t>(cp));
          for (int i = 0; i < cp * each; ++i) {
            whole[static_cast<size_t>(i / each)].push_back({i, 3, 3 + length});
          }
          ASSERT_EQ(Partition(PartitionKind::kBalanced, cp, cost, batch), whole)
              << "cp " << cp << ", " << each << " prompts of " << length << " tokens each";
        }
      }
    }
  }
}

TEST(Partition, RanksBeyondTheTokensOwnNothing) {
  for (PartitionKind kind : kKinds) {
    const Plan plan = Partition(kind, 9, TokenCost(), {{41, 42}});
    EXPECT_EQ(std::count_if(plan.begin(), plan.end(), [](const auto& s) { return s.empty(); }), 8);
    EXPECT_EQ(Partition(kind, 9, TokenCost(), {}), Plan(9));
  }
}

TEST(Partition, AModelWithoutAnyCostIsStillCovered) {
  const TokenCost nothing{.linear = 0.0};
  EXPECT_TRUE(IsExactCover(Partition(PartitionKind::kBalanced, 3, nothing, {{0, 200}, {0, 5}}), 3,
                           {{0, 200}, {0, 5}}));
}

// A slice that begins late in a prompt computes again what its keys need: it gets fewer tokens.
TEST(Partition, WhatASliceComputesAgainIsEvenedOut) {
  TokenCost cost{.linear = 1e6, .dense = 100, .flat = 7e5, .again = 2e5};
  TokenCost without = cost;
  without.again = 0;
  const auto loads = [&](const Plan& plan) {
    std::vector<double> out;
    for (const auto& slices : plan) {
      out.push_back(0.0);
      for (const Slice& s : slices) out.back() += cost.OfSlice(s.begin, s.end);
    }
    std::sort(out.begin(), out.end());
    return out;
  };
  for (const int64_t dense_end : {int64_t{-1}, int64_t{7000}}) {
    cost.dense_end = dense_end;
    without.dense_end = dense_end;
    for (const int64_t begin : {0, 8192}) {
      for (const int cp : {2, 3, 4, 8}) {
        const BatchOfRanges batch = {{begin, begin + 8192}, {0, 40}, {10, 500}};
        const auto found = loads(Partition(PartitionKind::kBalanced, cp, cost, batch));
        const auto plain = loads(Partition(PartitionKind::kBalanced, cp, without, batch));
        EXPECT_LE(found.back(), 1.01 * plain.back()) << "cp " << cp << ", begin " << begin;
        // Where a cut decides whether the next slice pays at all, no cut evens them out.
        if (dense_end >= 0) continue;
        EXPECT_LE(found.back() - found.front(), 0.02 * found.back())
            << "cp " << cp << ", begin " << begin;
      }
    }
  }
}

TEST(TokenCost, OfARangeIsTheSumOverItsTokens) {
  std::vector<TokenCost> costs = Costs();
  costs.push_back(
      {.linear = 1, .dense = 2, .dense_end = 0, .flat = 2, .index = 3, .index_from = 0});
  costs.push_back(
      {.linear = 1, .dense = 2, .dense_end = 10, .flat = 9, .index = 3, .index_from = 50});
  for (const TokenCost& cost : costs) {
    for (int64_t begin : {0, 1, 8, 9, 10, 49, 50, 51, 2040, 2047, 2048, 3000}) {
      double sum = 0.0;
      for (int64_t end = begin; end < begin + 120; ++end) {
        EXPECT_NEAR(cost.Of(begin, end), sum, 1e-9 * sum) << begin << " " << end;
        sum += CostAt(cost, end);
      }
      EXPECT_EQ(cost.Of(begin, begin - 1), 0.0);
    }
  }
}

}  // namespace
}  // namespace causeway
