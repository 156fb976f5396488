#include "parallel/layout.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <set>

namespace causeway {
namespace {

std::string ErrorOf(const LayoutFlags& flags) {
  const auto layout = Layout::Make(flags);
  EXPECT_FALSE(layout.ok()) << layout->ToString();
  return layout.ok() ? "" : layout.status().message();
}

// Every legal layout of up to `most` ranks.
std::vector<Layout> LegalLayouts(int most) {
  std::vector<Layout> out;
  for (int world = 1; world <= most; ++world) {
    for (int cp = 1; cp <= world; ++cp) {
      for (int dp = 1; cp * dp <= world; ++dp) {
        for (int ep = 1; ep <= world; ++ep) {
          for (int hosts = 1; hosts <= world; ++hosts) {
            const auto layout =
                Layout::Make({.world = world, .cp = cp, .dp = dp, .ep = ep, .hosts = hosts});
            if (layout.ok()) out.push_back(*layout);
          }
        }
      }
    }
  }
  return out;
}

TEST(Layout, WithoutAWorldSizeContextAndDataRanksAreTheWorld) {
  for (int cp : {1, 2, 7, 512}) {
    for (int dp : {1, 2}) {
      const auto layout = Layout::Make({.cp = cp, .dp = dp});
      ASSERT_TRUE(layout.ok()) << layout.status().message();
      EXPECT_EQ(layout->world(), cp * dp);
      EXPECT_EQ(layout->tp, 1);
      EXPECT_EQ(layout->ep, 1);
      EXPECT_EQ(*Layout::Make({.world = cp * dp, .cp = cp, .dp = dp}), *layout);
    }
  }
}

TEST(Layout, WithoutAnExpertSizeExpertsAreCutOverTheHosts) {
  for (int hosts : {1, 2, 4, 8}) {
    const auto layout = Layout::Make({.world = 8, .cp = 4, .hosts = hosts});
    ASSERT_TRUE(layout.ok()) << layout.status().message();
    EXPECT_EQ(layout->ep, hosts);
    for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(layout->ExpertPartOf(rank), rank / (8 / hosts));
  }
}

TEST(Layout, KeepsWhatTheFlagsSayAndPrintsIt) {
  const auto layout = Layout::Make({.world = 24,
                                    .cp = 3,
                                    .dp = 2,
                                    .ep = 6,
                                    .hosts = 2,
                                    .threads_per_rank = 2,
                                    .partition = PartitionKind::kZigzag,
                                    .moe_a2a = MoeA2a::kAllToAll});
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_EQ(layout->ToString(), "cp3 dp2 tp4 ep6 x 2 threads, zigzag, alltoall, 2 hosts");
  EXPECT_EQ(Layout().ToString(), "cp1 dp1 tp1 ep1 x 1 thread, balanced");
}

TEST(Layout, ALayoutIsLegalExactlyIfItsDivisionsAreWhole) {
  for (int world = 1; world <= 16; ++world) {
    for (int cp = 1; cp <= 16; ++cp) {
      for (int dp = 1; dp <= 4; ++dp) {
        const int tp = world % (cp * dp) == 0 ? world / (cp * dp) : 0;
        const bool power = tp == 1 || tp == 2 || tp == 4 || tp == 8 || tp == 16;
        for (int ep = 1; ep <= 16; ++ep) {
          for (int hosts = 1; hosts <= 16; ++hosts) {
            const bool even = world % ep == 0 && world % hosts == 0;
            // Whole groups in a host, or whole hosts in a group.
            const bool aligned =
                power && even && (world / hosts % tp == 0 || tp % (world / hosts) == 0);
            const auto layout =
                Layout::Make({.world = world, .cp = cp, .dp = dp, .ep = ep, .hosts = hosts});
            ASSERT_EQ(layout.ok(), aligned)
                << "--tp " << world << " --cp-size " << cp << " --dp-size " << dp << " --ep-size "
                << ep << " --nnodes " << hosts;
          }
        }
      }
    }
  }
}

TEST(Layout, EveryRankHasOnePlaceAndEveryPlaceOneRank) {
  for (const Layout& layout : LegalLayouts(12)) {
    int rank = 0;
    for (int dp = 0; dp < layout.dp; ++dp) {
      for (int cp = 0; cp < layout.cp; ++cp) {
        for (int tp = 0; tp < layout.tp; ++tp, ++rank) {
          const RankPlace place{dp, cp, tp};
          ASSERT_EQ(layout.RankAt(place), rank) << layout.ToString();
          ASSERT_EQ(layout.PlaceOf(rank), place) << layout.ToString() << ", rank " << rank;
        }
      }
    }
    ASSERT_EQ(rank, layout.world());
  }
}

TEST(Layout, HostsHaveEqualNumbersOfConsecutiveRanksAndATpGroupIsAlignedToThem) {
  for (const Layout& layout : LegalLayouts(12)) {
    std::vector<int> ranks(static_cast<size_t>(layout.hosts), 0);
    for (int rank = 0; rank < layout.world(); ++rank) {
      ++ranks[static_cast<size_t>(layout.HostOf(rank))];
      if (rank > 0) {
        ASSERT_GE(layout.HostOf(rank), layout.HostOf(rank - 1));
      }
    }
    for (int count : ranks) ASSERT_EQ(count, layout.ranks_per_host()) << layout.ToString();
    for (int first = 0; first < layout.world(); first += layout.tp) {
      // The hosts of a group hold equal parts of it.
      std::vector<int> of_host(ranks.size(), 0);
      for (int i = 0; i < layout.tp; ++i) {
        ++of_host[static_cast<size_t>(layout.HostOf(first + i))];
      }
      std::set<int> sizes(of_host.begin(), of_host.end());
      sizes.erase(0);
      ASSERT_EQ(sizes.size(), 1u) << layout.ToString();
    }
  }
}

TEST(Layout, EachHomeHasOneWorkerPerPartAndWorkersShareTheHomesEvenly) {
  for (const Layout& layout : LegalLayouts(12)) {
    std::vector<int> homes(static_cast<size_t>(layout.world()), 0);
    for (int home = 0; home < layout.world(); ++home) {
      for (int part = 0; part < layout.ep; ++part) {
        const int worker = layout.ExpertRank(home, part);
        ASSERT_EQ(layout.ExpertPartOf(worker), part) << layout.ToString();
        ++homes[static_cast<size_t>(worker)];
      }
      // What a home holds itself it computes itself.
      ASSERT_EQ(layout.ExpertRank(home, layout.ExpertPartOf(home)), home) << layout.ToString();
    }
    for (int count : homes) ASSERT_EQ(count, layout.ep) << layout.ToString();
  }
}

TEST(ShareOf, SharesAreConsecutiveCoverAllAndDifferByOneAtMost) {
  for (int64_t total = 0; total <= 40; ++total) {
    for (int64_t count = 1; count <= 17; ++count) {
      int64_t next = 0;
      for (int64_t i = 0; i < count; ++i) {
        const Range share = ShareOf(total, i, count);
        ASSERT_EQ(share.begin, next);
        ASSERT_GE(share.size(), total / count);
        ASSERT_LE(share.size(), (total + count - 1) / count);
        next = share.end;
      }
      ASSERT_EQ(next, total) << count << " shares";
    }
  }
}

TEST(ShareOf, SharesOfMultiplesUnite) {
  // A host's share is that of its ranks together: what WeightShare relies on.
  for (int64_t total : {0, 1, 7, 16, 600}) {
    for (int64_t ranks : {2, 4, 12}) {
      for (int64_t hosts = 1; hosts <= ranks; ++hosts) {
        if (ranks % hosts != 0) continue;
        for (int64_t host = 0; host < hosts; ++host) {
          const int64_t per_host = ranks / hosts;
          EXPECT_EQ(ShareOf(total, host, hosts),
                    (Range{ShareOf(total, host * per_host, ranks).begin,
                           ShareOf(total, (host + 1) * per_host - 1, ranks).end}));
        }
      }
    }
  }
}

TEST(Layout, ANumberOutOfRangeIsNamedWithItsFlagValueAndRange) {
  EXPECT_EQ(ErrorOf({.world = -1}), "--tp is -1; expected a number from 0 to 1024");
  EXPECT_EQ(ErrorOf({.cp = 0}), "--cp-size is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf({.cp = 1025}), "--cp-size is 1025; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf({.dp = 0}), "--dp-size is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf({.ep = -2}), "--ep-size is -2; expected a number from 0 to 1024");
  EXPECT_EQ(ErrorOf({.hosts = 0}), "--nnodes is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf({.threads_per_rank = 0}),
            "--threads-per-rank is 0; expected a number from 1 to 1024");
  EXPECT_EQ(ErrorOf({.cp = 64, .dp = 32}),
            "--cp-size 64 x --dp-size 32 means 2048 ranks; at most 1024");
}

TEST(Layout, AttentionTpThatIsNoPowerOfTwoIsRefusedWithTheNearestThatAre) {
  EXPECT_EQ(ErrorOf({.world = 6, .cp = 2}),
            "attention TP = --tp / (--cp-size x --dp-size) must be a power of two up to 32: "
            "6 / (2 x 1) is not; nearest --tp: 4 or 8");
  EXPECT_NE(ErrorOf({.world = 5, .cp = 2}).find("nearest --tp: 4 or 8"), std::string::npos);
  EXPECT_NE(ErrorOf({.world = 1, .cp = 3}).find("nearest --tp: 3"), std::string::npos);
  EXPECT_NE(ErrorOf({.world = 64}).find("nearest --tp: 32"), std::string::npos);
}

TEST(Layout, HostsAndExpertPartsMustDivideTheWorld) {
  EXPECT_EQ(ErrorOf({.world = 8, .cp = 8, .hosts = 3}),
            "--nnodes must divide the 8 ranks of --tp evenly; found 3, nearest: 2 or 4");
  EXPECT_EQ(ErrorOf({.world = 8, .cp = 8, .ep = 16}),
            "--ep-size must divide the 8 ranks of --tp evenly; found 16, nearest: 8");
  EXPECT_EQ(ErrorOf({.world = 12, .cp = 3, .hosts = 4}),
            "an attention TP group (4 ranks) must lie within a host or be whole hosts; --nnodes 4 "
            "puts 3 ranks on each; nearest --nnodes: 3 or 6");
}

TEST(Layout, TooManyThreadsOfAHostAreRefusedWithTheMostThatFit) {
  EXPECT_EQ(ErrorOf({.cp = 1000, .threads_per_rank = 1000}),
            "--threads-per-rank 1000 for 1000 ranks of a host means 1000000 threads; at most 1024: "
            "use --threads-per-rank 1 or less");
  EXPECT_TRUE(Layout::Make({.cp = 32, .threads_per_rank = 32}).ok());
  EXPECT_TRUE(Layout::Make({.cp = 64, .hosts = 2, .threads_per_rank = 32}).ok());
}

// The flag that an error is about, and the values that it advises.
struct Advice {
  int LayoutFlags::*flag = nullptr;
  std::vector<int> values;
};

Advice AdviceOf(const std::string& message) {
  Advice advice;
  size_t at = message.find("nearest");
  if (at == std::string::npos) at = message.find("use --threads-per-rank");
  if (at == std::string::npos) return advice;
  const std::string text = message.substr(at);
  const auto names = [&](const char* flag) {
    return text.find(flag) != std::string::npos || message.starts_with(flag);
  };
  if (names("--threads-per-rank")) {
    advice.flag = &LayoutFlags::threads_per_rank;
  } else if (names("--nnodes")) {
    advice.flag = &LayoutFlags::hosts;
  } else if (names("--ep-size")) {
    advice.flag = &LayoutFlags::ep;
  } else if (names("--tp")) {
    advice.flag = &LayoutFlags::world;
  }
  for (size_t i = text.find_first_of("0123456789"); i < text.size();) {
    char* end = nullptr;
    advice.values.push_back(static_cast<int>(std::strtol(text.c_str() + i, &end, 10)));
    i = text.find_first_of("0123456789", static_cast<size_t>(end - text.c_str()));
  }
  return advice;
}

TEST(Layout, WhoFollowsTheAdviceOfAnErrorIsNotToldTheSameAgain) {
  int64_t followed = 0;
  // Follows every value of every advice; `settled`: flags that were set by advice before.
  std::function<void(const LayoutFlags&, std::vector<int LayoutFlags::*>)> follow;
  follow = [&](const LayoutFlags& flags, std::vector<int LayoutFlags::*> settled) {
    const auto layout = Layout::Make(flags);
    if (layout.ok()) return;
    const std::string message = layout.status().message();
    const Advice advice = AdviceOf(message);
    ASSERT_TRUE(advice.flag != nullptr && !advice.values.empty()) << message;
    for (const auto flag : settled) ASSERT_NE(flag, advice.flag) << message;
    settled.push_back(advice.flag);
    for (int value : advice.values) {
      LayoutFlags next = flags;
      next.*advice.flag = value;
      ++followed;
      follow(next, settled);
    }
  };
  for (int world : {0, 1, 2, 5, 8, 12, 100, 1024}) {
    for (int cp : {1, 2, 3, 6, 512}) {
      for (int dp : {1, 2}) {
        for (int ep : {0, 1, 3, 1024}) {
          for (int hosts : {1, 2, 5, 7, 1024}) {
            for (int threads : {1, 1024}) {
              follow({.world = world,
                      .cp = cp,
                      .dp = dp,
                      .ep = ep,
                      .hosts = hosts,
                      .threads_per_rank = threads},
                     {});
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(followed, 1000);
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

TEST(MoeA2a, NamesParseBackAndDeepepMeansAllToAll) {
  for (MoeA2a backend : {MoeA2a::kNone, MoeA2a::kAllGather, MoeA2a::kAllToAll}) {
    const auto parsed = ParseMoeA2a(NameOf(backend));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, backend);
  }
  EXPECT_EQ(*ParseMoeA2a("deepep"), MoeA2a::kAllToAll);
  const auto parsed = ParseMoeA2a("mooncake");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().message(),
            "--moe-a2a-backend is 'mooncake'; expected none, allgather, alltoall or deepep");
}

}  // namespace
}  // namespace causeway
