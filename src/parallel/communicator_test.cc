// What every communicator owes, run against each backend; then what the fault wrapper injects.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "base/check.h"
#include "parallel/communicator.h"
#include "parallel/fault_communicator.h"

namespace causeway {
namespace {

using Ends = std::vector<std::unique_ptr<Communicator>>;

constexpr int64_t kLongMs = 120'000;  // no test may wait for this one
constexpr int64_t kShortMs = 50;

struct Backend {
  const char* name;
  Ends (*make)(int size, int64_t timeout_ms);
};

Ends MakeWrapped(int size, int64_t timeout_ms) {
  Ends ends = MakeThreadsCommunicators(size, timeout_ms);
  for (auto& end : ends) end = std::make_unique<FaultCommunicator>(std::move(end), Fault());
  return ends;
}

// A new backend is added here.
const Backend kBackends[] = {{"threads", MakeThreadsCommunicators}, {"wrapped", MakeWrapped}};

// Runs body(end) for each rank on its own thread. Like RankWorker, a rank that fails aborts the
// group. Returns each rank's StepFailed message, empty where it ended well.
std::vector<std::string> RunRanks(Ends& ends, const std::function<void(Communicator&)>& body,
                                  bool abort_on_failure = true) {
  std::vector<std::string> errors(ends.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(*ends[rank]);
      } catch (const StepFailed& failure) {
        errors[rank] = failure.what();
        if (abort_on_failure) ends[rank]->Abort(errors[rank]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

double SecondsOf(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Every rank writes its slot (a plain integer) before a barrier and reads all slots after it.
void CheckRounds(Ends& ends, int rounds) {
  std::vector<int> slots(ends.size(), -1);
  std::atomic<int> wrong{0};
  const auto errors = RunRanks(ends, [&](Communicator& comm) {
    for (int round = 0; round < rounds; ++round) {
      slots[static_cast<size_t>(comm.rank())] = round;
      comm.Arrive({"write", round});
      comm.Wait({"write", round});
      for (int slot : slots) wrong += slot != round;
      comm.Barrier({"read", round});  // nobody overwrites what another still reads
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(wrong.load(), 0);
}

class CommunicatorTest : public testing::TestWithParam<Backend> {
 protected:
  static Ends Make(int size, int64_t timeout_ms = kLongMs) {
    return GetParam().make(size, timeout_ms);
  }
};

TEST_P(CommunicatorTest, EndsKnowTheirRankSizeAndTimeout) {
  for (int size = 1; size <= 8; ++size) {
    const Ends ends = Make(size, 1234);
    ASSERT_EQ(ends.size(), static_cast<size_t>(size));
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_EQ(ends[static_cast<size_t>(rank)]->rank(), rank);
      EXPECT_EQ(ends[static_cast<size_t>(rank)]->size(), size);
      EXPECT_EQ(ends[static_cast<size_t>(rank)]->timeout_ms(), 1234);
    }
  }
}

TEST_P(CommunicatorTest, WritesBeforeABarrierAreSeenAfterItForThousandsOfRounds) {
  for (int size = 1; size <= 8; ++size) {
    Ends ends = Make(size);
    CheckRounds(ends, 3000);
  }
}

TEST_P(CommunicatorTest, WorksWithFarMoreRanksThanCores) {
  Ends ends = Make(48);
  CheckRounds(ends, 100);
}

TEST_P(CommunicatorTest, ArriveDoesNotWaitForTheOthers) {
  Ends ends = Make(3);
  std::atomic<bool> first_has_arrived{false};
  const auto errors = RunRanks(ends, [&](Communicator& comm) {
    if (comm.rank() == 0) {
      comm.Arrive({"exchange", 0});
      first_has_arrived = true;
    } else {
      while (!first_has_arrived) std::this_thread::yield();  // hangs if rank 0 waits in Arrive
      comm.Arrive({"exchange", 0});
    }
    comm.Wait({"exchange", 0});
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST_P(CommunicatorTest, WaitReturnsOnlyAfterASlowRankHasArrived) {
  Ends ends = Make(4);
  std::atomic<bool> slow_is_there{false};
  std::vector<std::string> errors;
  const double seconds = SecondsOf([&] {
    errors = RunRanks(ends, [&](Communicator& comm) {
      if (comm.rank() == 3) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the others fall asleep
        slow_is_there = true;
      }
      comm.Barrier({"exchange", 7});
      EXPECT_TRUE(slow_is_there);
    });
  });
  EXPECT_LT(seconds, 1e-3 * kLongMs);  // they were woken, and did not sleep until the deadline
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST_P(CommunicatorTest, AnAbsentRankIsNamedWithTheOperationAtTheDeadline) {
  Ends ends = Make(3, kShortMs);
  std::vector<std::string> errors;
  const double seconds = SecondsOf([&] {
    errors = RunRanks(
        ends,
        [](Communicator& comm) {
          comm.Barrier({"kv_exchange", 4});
          if (comm.rank() != 1) comm.Barrier({"kv_exchange", 5});
        },
        /*abort_on_failure=*/false);
  });
  EXPECT_EQ(errors[0], "rank 0: kv_exchange of layer 5 passed its deadline; rank 1 did not arrive");
  EXPECT_EQ(errors[1], "");
  EXPECT_EQ(errors[2], "rank 2: kv_exchange of layer 5 passed its deadline; rank 1 did not arrive");
  EXPECT_GE(seconds, 1e-3 * kShortMs);
  EXPECT_LT(seconds, 20.0);
}

TEST_P(CommunicatorTest, SeveralAbsentRanksAreAllNamed) {
  Ends ends = Make(4, kShortMs);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    if (comm.rank() == 0) comm.Barrier({"logits_exchange"});
  });
  EXPECT_EQ(errors[0], "rank 0: logits_exchange passed its deadline; rank 1, 2, 3 did not arrive");
}

TEST_P(CommunicatorTest, AbortFromAnyThreadWakesEveryWaitingRankWithItsReason) {
  Ends ends = Make(6);
  std::atomic<int> waiting{0};
  std::thread outside([&] {
    while (waiting < 5) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // some of them sleep by now
    ends[5]->Abort("the watchdog barked");
  });
  std::vector<std::string> errors;
  const double seconds = SecondsOf([&] {
    errors = RunRanks(ends, [&](Communicator& comm) {
      if (comm.rank() == 5) return;
      ++waiting;
      comm.Barrier({"kv_exchange", 2});
    });
  });
  outside.join();
  for (int rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(errors[static_cast<size_t>(rank)],
              Text("rank ", rank, ": kv_exchange of layer 2 was aborted: the watchdog barked"));
  }
  EXPECT_LT(seconds, 60.0);
}

TEST_P(CommunicatorTest, EveryCollectiveAfterAnAbortThrowsTheFirstReasonEvenInAGroupOfOne) {
  for (int size : {1, 2, 5}) {
    Ends ends = Make(size);
    ends.back()->Abort("first reason");
    ends.front()->Abort("second reason");
    const auto errors = RunRanks(ends, [](Communicator& comm) {
      comm.Barrier({"kv_exchange", 0});
    });
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_EQ(errors[static_cast<size_t>(rank)],
                Text("rank ", rank, ": kv_exchange of layer 0 was aborted: first reason"));
    }
  }
}

TEST_P(CommunicatorTest, RanksInDifferentOperationsOrLayersAreNamedInsteadOfHanging) {
  struct Pair {
    CollectiveName mine;
    CollectiveName theirs;
    const char* message;
  };
  for (const Pair& pair :
       {Pair{{"kv_exchange", 1},
             {"logits_exchange"},
             "rank 0 is in kv_exchange of layer 1, rank 1 in logits_exchange"},
        Pair{{"kv_exchange", 1},
             {"kv_exchange", 2},
             "rank 0 is in kv_exchange of layer 1, rank 1 in kv_exchange of layer 2"}}) {
    Ends ends = Make(2);
    const auto errors = RunRanks(
        ends, [&](Communicator& comm) { comm.Barrier(comm.rank() == 0 ? pair.mine : pair.theirs); },
        /*abort_on_failure=*/false);
    EXPECT_EQ(errors[0], pair.message);
    EXPECT_NE(errors[1], "");
  }
}

TEST_P(CommunicatorTest, NamesAreComparedAsTextAndNotAsAddresses) {
  static const char kHere[] = "kv_exchange";
  static const char kThere[] = "kv_exchange";
  Ends ends = Make(2);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    comm.Barrier({comm.rank() == 0 ? kHere : kThere, 3});
  });
  EXPECT_EQ(errors[0], "");
  EXPECT_EQ(errors[1], "");
}

TEST_P(CommunicatorTest, OneFailureReachesEveryRankAndNamesItsOrigin) {
  Ends ends = Make(5);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    comm.Barrier({"kv_exchange", 0});
    if (comm.rank() == 2) throw StepFailed("rank 2: out of memory");
    comm.Barrier({"kv_exchange", 1});
  });
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("rank 2: out of memory"), std::string::npos) << error;
  }
}

TEST_P(CommunicatorTest, AnEndOutlivesTheOtherEndsOfItsGroup) {
  Ends ends = Make(3);
  ends.front().reset();
  ends.back().reset();
  ends[1]->Abort("alone");
  EXPECT_THROW(ends[1]->Barrier({"kv_exchange", 0}), StepFailed);
}

TEST_P(CommunicatorTest, AnArriveWithoutItsWaitIsABugThatEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Ends ends = Make(2);
  ends[0]->Arrive({"kv_exchange", 0});
  EXPECT_DEATH(ends[0]->Arrive({"kv_exchange", 1}), "rank 0 arrives twice at kv_exchange");
  EXPECT_DEATH(ends[1]->Wait({"kv_exchange", 0}), "without having arrived");
}

INSTANTIATE_TEST_SUITE_P(Backends, CommunicatorTest, testing::ValuesIn(kBackends),
                         [](const testing::TestParamInfo<Backend>& info) {
                           return std::string(info.param.name);
                         });

// The group of `size` in which rank 1 has a fault.
Ends MakeFaulty(int size, Fault fault, int64_t timeout_ms) {
  Ends ends = MakeThreadsCommunicators(size, timeout_ms);
  ends[1] = std::make_unique<FaultCommunicator>(std::move(ends[1]), fault);
  return ends;
}

TEST(FaultCommunicator, ADelayedRankIsWaitedForFromTheChosenCollectiveOn) {
  Ends ends = MakeFaulty(3, {.kind = Fault::Kind::kDelay, .from = 1, .delay_ms = 30}, kLongMs);
  std::vector<std::string> errors;
  const double seconds = SecondsOf([&] {
    errors = RunRanks(ends, [](Communicator& comm) {
      for (int round = 0; round < 4; ++round) comm.Barrier({"kv_exchange", round});
    });
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_GE(seconds, 3 * 0.030);  // rounds 1, 2 and 3
}

TEST(FaultCommunicator, ARankThatNeverArrivesIsNamedByTheOthersAndGivesUpItself) {
  Ends ends = MakeFaulty(3, {.kind = Fault::Kind::kNeverArrive, .from = 2}, kShortMs);
  const auto errors = RunRanks(
      ends,
      [](Communicator& comm) {
        for (int round = 0; round < 4; ++round) comm.Barrier({"kv_exchange", round});
      },
      /*abort_on_failure=*/false);
  EXPECT_EQ(errors[0], "rank 0: kv_exchange of layer 2 passed its deadline; rank 1 did not arrive");
  EXPECT_EQ(errors[1], "rank 1: injected fault: never arrived in kv_exchange of layer 2");
}

TEST(FaultCommunicator, AbortReleasesARankThatNeverArrives) {
  Ends ends = MakeFaulty(2, {.kind = Fault::Kind::kNeverArrive}, kLongMs);
  std::thread outside([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ends[1]->Abort("enough");
  });
  const auto errors = RunRanks(ends, [](Communicator& comm) { comm.Barrier({"kv_exchange", 0}); });
  outside.join();
  EXPECT_EQ(errors[0], "rank 0: kv_exchange of layer 0 was aborted: enough");
  EXPECT_NE(errors[1], "");
}

TEST(FaultCommunicator, AThrowAtTheNthCollectiveEndsTheStepOnEveryRank) {
  Ends ends = MakeFaulty(3, {.kind = Fault::Kind::kThrow, .from = 5}, kLongMs);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    for (int round = 0; round < 9; ++round) comm.Barrier({"kv_exchange", round});
  });
  EXPECT_EQ(errors[1], "rank 1: injected fault in kv_exchange of layer 5");
  for (int other : {0, 2}) {
    // They may learn of it before they have left round 4.
    const std::string& error = errors[static_cast<size_t>(other)];
    EXPECT_TRUE(error ==
                    Text("rank ", other, ": kv_exchange of layer 5 was aborted: ", errors[1]) ||
                error == Text("rank ", other, ": kv_exchange of layer 4 was aborted: ", errors[1]))
        << error;
  }
}

}  // namespace
}  // namespace causeway
