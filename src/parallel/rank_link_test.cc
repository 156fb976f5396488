#include "parallel/rank_link.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "parallel/simulated_hosts.h"

namespace causeway {
namespace {

Layout RanksOn(int hosts, int per_host) {
  Layout layout;
  layout.cp = hosts * per_host;
  layout.hosts = hosts;
  return layout;
}

void ExpectAllEndedWell(const std::vector<std::string>& errors) {
  for (size_t rank = 0; rank < errors.size(); ++rank) EXPECT_EQ(errors[rank], "") << rank;
}

TEST(RankLink, EveryRankReadsWhatEachRankOfItsHostShared) {
  for (int hosts : {1, 2, 3}) {
    for (int per_host : {1, 2, 3, 8}) {
      SimulatedHosts world(RanksOn(hosts, per_host));
      std::atomic<int> wrong{0};
      ExpectAllEndedWell(world.Run([&](int rank, RankLink& link) {
        EXPECT_EQ(link.size(), per_host);
        EXPECT_EQ(link.index(), rank % per_host);
        // Shared memory stays as it is until the next collective has returned: two in turn.
        int mine[2];
        for (int round = 0; round < 200; ++round) {
          mine[round % 2] = rank * 1000 + round;
          link.Barrier({"share", round}, &mine[round % 2]);
          const int first = rank - link.index();
          for (int i = 0; i < per_host; ++i) {
            wrong += *link.Shared<int>(i) != (first + i) * 1000 + round;
          }
        }
        link.Barrier({"end"});
      }));
      EXPECT_EQ(wrong.load(), 0) << hosts << " hosts, " << per_host << " ranks each";
    }
  }
}

TEST(RankLink, BetweenArriveAndWaitARankComputesWhatOthersDoNotWaitFor) {
  for (int hosts : {1, 2}) {
    SimulatedHosts world(RanksOn(hosts, 2));
    std::atomic<int> before{0};
    std::atomic<int> wrong{0};
    ExpectAllEndedWell(world.Run([&](int rank, RankLink& link) {
      if (rank % 2 == 0) ++before;
      link.Arrive({"split"});
      if (rank % 2 == 1) ++before;  // nobody has to see this one
      link.Wait();
      wrong += before.load() < 1;
    }));
    EXPECT_EQ(wrong.load(), 0);
    EXPECT_EQ(before.load(), 2 * hosts);
  }
}

TEST(RankLink, TheTimeOfActionsIsKnownByCollectiveAndThatOfWaitingRanksIsNotInIt) {
  SimulatedHosts world(RanksOn(2, 2));
  const auto sleep_ms = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
  ExpectAllEndedWell(world.Run([&](int rank, RankLink& link) {
    if (rank % 2 == 1) sleep_ms(1000);  // the other waits for it
    for (int layer = 0; layer < 2; ++layer) {
      link.Barrier({"slow", layer}, nullptr, [&](Communicator&) { sleep_ms(20); });
    }
    link.Barrier({"none"});
  }));
  for (int rank = 0; rank < 4; ++rank) {
    TraceLane& times = *world.link(rank).action_times();
    ASSERT_EQ(times.sums().size(), 1u);
    EXPECT_STREQ(times.sums()[0].name, "slow");
    EXPECT_EQ(times.sums()[0].calls, 2);
    EXPECT_GE(times.sums()[0].ns, 40'000'000);
    EXPECT_LT(times.sums()[0].ns, 1'000'000'000);
  }
  EXPECT_EQ(SimulatedHosts(RanksOn(1, 2)).link(0).action_times(), nullptr);
}

TEST(RankLink, OneHostRunsNoAction) {
  SimulatedHosts world(RanksOn(1, 4));
  std::atomic<int> runs{0};
  ExpectAllEndedWell(world.Run([&](int, RankLink& link) {
    const HostAction action = [&](Communicator&) { ++runs; };
    link.Barrier({"action"}, nullptr, action);
  }));
  EXPECT_EQ(runs.load(), 0);
}

TEST(RankLink, AnActionRunsOnceAHostAfterAllHaveArrivedAndBeforeAnyLeaves) {
  constexpr int kHosts = 2;
  constexpr int kRanks = 3;
  SimulatedHosts world(RanksOn(kHosts, kRanks));
  std::array<int, kHosts> runs = {};  // written by actions, read after them: no atomics needed
  std::array<int, kHosts* kRanks> arrived = {};
  std::atomic<int> wrong{0};
  ExpectAllEndedWell(world.Run([&](int rank, RankLink& link) {
    const auto host = static_cast<size_t>(rank / kRanks);
    for (int round = 1; round <= 100; ++round) {
      arrived[static_cast<size_t>(rank)] = round;
      const HostAction action = [&](Communicator& hosts) {
        EXPECT_EQ(hosts.rank(), static_cast<int>(host));
        EXPECT_EQ(hosts.size(), kHosts);
        for (size_t i = 0; i < kRanks; ++i) wrong += arrived[host * kRanks + i] != round;
        ++runs[host];
      };
      link.Barrier({"action", round}, nullptr, action);
      wrong += runs[host] != round;
      link.Barrier({"next", round});  // nobody writes `arrived` while an action may read it
    }
  }));
  EXPECT_EQ(wrong.load(), 0);
}

TEST(RankLink, ActionsCarryDataBetweenHosts) {
  SimulatedHosts world(RanksOn(2, 2));
  std::atomic<int> wrong{0};
  ExpectAllEndedWell(world.Run([&](int rank, RankLink& link) {
    int mine = 0;
    int received[2] = {};  // of rank 0 of each host: what both ranks of a host shared, added up
    for (int round = 0; round < 100; ++round) {
      mine = rank * 1000 + round;
      const HostAction action = [&](Communicator& hosts) {
        const int sum = *link.Shared<int>(0) + *link.Shared<int>(1);
        const Outgoing out{&sum, sizeof(sum)};
        const Outgoing to[2] = {out, out};
        const Incoming from[2] = {{&received[0], sizeof(int)}, {&received[1], sizeof(int)}};
        hosts.Exchange({"sums", round}, to, from);
      };
      link.Barrier({"sums", round}, &mine, action);
      link.Barrier({"results", round}, received);
      const int* of_host = link.Shared<int>(0);
      wrong += of_host[0] != 1000 + 2 * round;
      wrong += of_host[1] != 5000 + 2 * round;
      link.Barrier({"next", round});
    }
  }));
  EXPECT_EQ(wrong.load(), 0);
}

TEST(RankLink, AnAbortReachesTheRanksOfEveryHostThatTalksToThisOne) {
  for (int hosts : {1, 2}) {
    // What the action refers to outlives the ranks: it may still run when they have thrown.
    const char byte = 0;
    std::array<std::array<char, 2>, 2> received = {};
    const HostAction talk = [&](Communicator& network) {
      auto& mine = received[static_cast<size_t>(network.rank())];
      const Outgoing to[2] = {{&byte, 1}, {&byte, 1}};
      const Incoming from[2] = {{&mine[0], 1}, {&mine[1], 1}};
      network.Exchange({"talk"}, to, from);
    };
    SimulatedHosts world(RanksOn(hosts, 2));
    const auto errors = world.Run([&](int rank, RankLink& link) {
      if (rank == 1) throw StepFailed("rank 1 has no memory");
      link.Barrier({"talk"}, nullptr, talk);
    });
    for (const std::string& error : errors) {
      EXPECT_NE(error.find("rank 1 has no memory"), std::string::npos) << error;
    }
  }
}

TEST(RankLink, ARankThatNeverArrivesIsNamedAtTheDeadline) {
  for (int hosts : {1, 2}) {
    SimulatedHosts world(RanksOn(hosts, 2), /*timeout_ms=*/50);
    const auto errors = world.Run([&](int rank, RankLink& link) {
      if (rank != 1) link.Barrier({"late", 7});
    });
    EXPECT_NE(errors[0].find("rank 1"), std::string::npos) << errors[0];
    EXPECT_NE(errors[0].find("late of layer 7"), std::string::npos) << errors[0];
  }
}

}  // namespace
}  // namespace causeway
