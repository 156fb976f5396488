#include "parallel/layout.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace causeway {
namespace {

StatusOr<Layout> Make(int world, int cp, int dp = 1, int ep = 0, int threads = 1) {
  return Layout::Make({.world = world, .cp = cp, .dp = dp, .ep = ep, .threads_per_rank = threads});
}

std::string ErrorOf(const StatusOr<Layout>& layout) {
  EXPECT_FALSE(layout.ok());
  return layout.status().message();
}

TEST(Layout, WithoutAWorldSizeTheContextRanksAreTheWorld) {
  for (int cp : {1, 2, 7, 1024}) {
    const auto layout = Make(0, cp);
    ASSERT_TRUE(layout.ok()) << layout.status().message();
    EXPECT_EQ(layout->world(), cp);
    EXPECT_EQ(layout->cp, cp);
    EXPECT_EQ(layout->tp, 1);
    EXPECT_EQ(layout->ep, 1);  // automatic
    EXPECT_EQ(*Make(cp, cp), *layout);
  }
}

TEST(Layout, KeepsThreadsAndPartitionAndPrintsThemAll) {
  const auto layout = Layout::Make(0, 3, 1, 1, 2, PartitionKind::kZigzag);
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_EQ(layout->ToString(), "cp3 dp1 tp1 ep1 x 2 threads, zigzag");
  EXPECT_EQ(Layout().ToString(), "cp1 dp1 tp1 ep1 x 1 thread, balanced");
}

TEST(Layout, ANumberOutOfRangeIsNamedWithItsFlagValueAndRange) {
  EXPECT_EQ(ErrorOf(Make(-1, 1)), "--tp is -1; expected a number from 0 to 1024");
  EXPECT_EQ(ErrorOf(Make(0, 0)), "--cp-size is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf(Make(0, 1025)), "--cp-size is 1025; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf(Make(0, 1, 0)), "--dp-size is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf(Make(0, 1, 1, -2)), "--ep-size is -2; expected a number from 0 to 1024");
  EXPECT_EQ(ErrorOf(Make(0, 1, 1, 0, 0)),
            "--threads-per-rank is 0; expected a number from 1 to 1024");
}

TEST(Layout, AWorldThatIsNoMultipleIsRefusedWithTheRule) {
  EXPECT_EQ(ErrorOf(Make(5, 2)),
            "attention TP = --tp / (--cp-size x --dp-size) must be whole: 5 / (2 x 1) is not; this "
            "version splits by context only: use --cp-size 5 or --tp 2, and --threads-per-rank "
            "for more threads");
}

TEST(Layout, AttentionTpIsRefusedWithWhatToUseInstead) {
  EXPECT_EQ(ErrorOf(Make(4, 2)),
            "--tp 4 / --cp-size 2 means attention TP 2; this version splits by context only: use "
            "--cp-size 4 or --tp 2, and --threads-per-rank for more threads");
}

TEST(Layout, DataAndExpertParallelRanksAreRefusedByFlag) {
  EXPECT_EQ(ErrorOf(Make(0, 2, 2)),
            "--dp-size is 2 and --ep-size is 1; this version splits by context only: use "
            "--dp-size 1, --ep-size 1 and --cp-size for more ranks");
  EXPECT_NE(ErrorOf(Make(4, 4, 1, 4)).find("--ep-size is 4"), std::string::npos);
}

TEST(Layout, TooManyThreadsInAllAreRefusedWithTheMostThatFit) {
  EXPECT_EQ(ErrorOf(Make(0, 1000, 1, 0, 1000)),
            "--cp-size 1000 x --threads-per-rank 1000 means 1000000 threads; at most 1024: use "
            "--threads-per-rank 1 or less");
  EXPECT_TRUE(Make(0, 32, 1, 0, 32).ok());
}

// The number after `flag` in the message's advice ("use ..."), or -1.
int Advised(const std::string& message, const std::string& flag) {
  const size_t at = message.find(flag + " ", message.find("use "));
  return at == std::string::npos ? -1 : std::atoi(message.c_str() + at + flag.size() + 1);
}

TEST(Layout, WhoFollowsTheAdviceOfAnErrorGetsALayout) {
  for (int world : {0, 1, 2, 3, 5, 8, 1000, 1024}) {
    for (int cp : {1, 2, 3, 6, 1000, 1024}) {
      for (int dp : {1, 2, 1024}) {
        for (int threads : {1, 3, 1024}) {
          auto layout = Make(world, cp, dp, 0, threads);
          int new_world = world;
          int new_dp = dp;
          int new_threads = threads;
          // At most one mistake of each kind.
          for (int step = 0; step < 3 && !layout.ok(); ++step) {
            const std::string message = layout.status().message();
            if (const int use = Advised(message, "--dp-size"); use > 0) new_dp = use;
            if (const int use = Advised(message, "--tp"); use > 0) new_world = use;
            if (const int use = Advised(message, "--threads-per-rank"); use > 0) new_threads = use;
            layout = Make(new_world, cp, new_dp, 0, new_threads);
          }
          EXPECT_TRUE(layout.ok()) << layout.status().message();
        }
      }
    }
  }
}

TEST(PartitionKind, NamesParseBackAndOthersAreRefusedWithTheChoices) {
  for (PartitionKind kind :
       {PartitionKind::kContiguous, PartitionKind::kZigzag, PartitionKind::kBalanced}) {
    const auto parsed = ParsePartitionKind(NameOf(kind));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, kind);
  }
  for (const char* name : {"", "Balanced", "zig-zag", "balanced "}) {
    const auto parsed = ParsePartitionKind(name);
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.status().message(),
              Text("--cp-partition is '", name, "'; expected contiguous, zigzag or balanced"));
  }
}

}  // namespace
}  // namespace causeway
