// What every communicator owes, run against each backend; then what the fault wrapper injects.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "base/check.h"
#include "net/socket.h"
#include "parallel/communicator.h"
#include "parallel/fault_communicator.h"
#include "parallel/gloo_communicator.h"

namespace causeway {
namespace {

using Ends = std::vector<std::unique_ptr<Communicator>>;

constexpr int64_t kLongMs = 120'000;  // no test may wait for this one
constexpr int64_t kShortMs = 500;     // on a busy machine a rank may come 50 ms late

struct Backend {
  const char* name;
  Ends (*make)(int size, int64_t timeout_ms);
  int ranks;       // at most, where a test goes through all sizes
  int many_ranks;  // in a crowd
  int rounds;
  bool one_memory;  // the ends see each other's state at once, so that one abort comes first
};

Ends MakeWrapped(int size, int64_t timeout_ms) {
  Ends ends = MakeThreadsCommunicators(size, timeout_ms);
  for (auto& end : ends) end = std::make_unique<FaultCommunicator>(std::move(end), Fault());
  return ends;
}

#ifdef CAUSEWAY_GLOO
// Every end of a group between hosts, in this process.
Ends MakeGloo(int size, int64_t timeout_ms) {
  GlooOptions options;
  options.size = size;
  {
    auto free_port = ListenAt("127.0.0.1:0");
    CHECK(free_port.ok(), free_port.status().message());
    options.init_addr = Text("127.0.0.1:", PortOf(*free_port));
  }
  options.token = "of the test";
  options.timeout_ms = timeout_ms;
  options.rendezvous_timeout_ms = 60'000;
  Ends ends(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&ends, options, rank]() mutable {
      options.rank = rank;
      auto end = MakeGlooCommunicator(options);
      CHECK(end.ok(), end.status().message());
      ends[static_cast<size_t>(rank)] = std::move(*end);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}
#endif

Ends MakeThreads(int size, int64_t timeout_ms) {
  return MakeThreadsCommunicators(size, timeout_ms);
}

// A new backend is added here.
const Backend kBackends[] = {
    {"threads", MakeThreads, 8, 48, 3000, true},
    {"wrapped", MakeWrapped, 8, 48, 3000, true},
#ifdef CAUSEWAY_GLOO
    {"gloo", MakeGloo, 4, 10, 300, false},
#endif
};

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
  for (int size = 1; size <= GetParam().ranks; ++size) {
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
  for (int size = 1; size <= GetParam().ranks; ++size) {
    Ends ends = Make(size);
    CheckRounds(ends, GetParam().rounds);
  }
}

TEST_P(CommunicatorTest, WorksWithFarMoreRanksThanCores) {
  Ends ends = Make(GetParam().many_ranks);
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
      const std::string& error = errors[static_cast<size_t>(rank)];
      const std::string aborted = Text("rank ", rank, ": kv_exchange of layer 0 was aborted: ");
      EXPECT_TRUE(error == aborted + "first reason" ||
                  (!GetParam().one_memory && error == aborted + "second reason"))
          << error;
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

// ---- Exchange.

// What rank `from` sends rank `to` in a round: its size (none, odd ones, both sides of what travels
// at once) and its bytes.
int64_t PieceBytes(int from, int to, int round) {
  constexpr int64_t kSizes[] = {0, 1, 7, 262144, 3, 262145, 0, 100'003, 576, 1'000'001};
  return kSizes[static_cast<size_t>(from * 5 + to * 3 + round) % std::size(kSizes)];
}

unsigned char PieceByte(int from, int to, int round, int64_t index) {
  return static_cast<unsigned char>(from * 31 + to * 17 + round * 7 + index % 251);
}

// One rank's memory for a round of exchange.
struct Pieces {
  Pieces(const Communicator& comm, int round) {
    for (int peer = 0; peer < comm.size(); ++peer) {
      out.emplace_back(PieceBytes(comm.rank(), peer, round));
      for (size_t i = 0; i < out.back().size(); ++i) {
        out.back()[i] = PieceByte(comm.rank(), peer, round, static_cast<int64_t>(i));
      }
      in.emplace_back(PieceBytes(peer, comm.rank(), round), 0xee);
      to.push_back({out.back().data(), static_cast<int64_t>(out.back().size())});
      from.push_back({in.back().data(), static_cast<int64_t>(in.back().size())});
    }
  }

  int64_t WrongBytes(const Communicator& comm, int round) const {
    int64_t wrong = 0;
    for (int peer = 0; peer < comm.size(); ++peer) {
      const auto& piece = in[static_cast<size_t>(peer)];
      for (size_t i = 0; i < piece.size(); ++i) {
        wrong += piece[i] != PieceByte(peer, comm.rank(), round, static_cast<int64_t>(i));
      }
    }
    return wrong;
  }

  std::vector<std::vector<unsigned char>> out, in;
  std::vector<Outgoing> to;
  std::vector<Incoming> from;
};

TEST_P(CommunicatorTest, AnExchangeBringsEveryPieceOfEverySizeToItsPeer) {
  for (int size = 1; size <= GetParam().ranks; ++size) {
    Ends ends = Make(size);
    std::atomic<int64_t> wrong{0};
    const auto errors = RunRanks(ends, [&](Communicator& comm) {
      for (int round = 0; round < 20; ++round) {
        Pieces pieces(comm, round);
        comm.Exchange({"kv_exchange", round}, pieces.to, pieces.from);
        // Nobody reads what was sent any more: change it at once.
        for (auto& piece : pieces.out) std::fill(piece.begin(), piece.end(), 0xdd);
        wrong += pieces.WrongBytes(comm, round);
      }
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
    EXPECT_EQ(wrong.load(), 0);
  }
}

// All pieces of one small size.
void ExchangeSmall(Communicator& comm, CollectiveName name, int64_t mine, int64_t* got) {
  const size_t size = static_cast<size_t>(comm.size());
  const std::vector<Outgoing> to(size, {&mine, sizeof mine});
  std::vector<Incoming> from;
  for (size_t peer = 0; peer < size; ++peer) from.push_back({got + peer, sizeof mine});
  comm.Exchange(name, to, from);
}

TEST_P(CommunicatorTest, ExchangesAndBarriersFollowEachOtherForThousandsOfRounds) {
  Ends ends = Make(3);
  std::atomic<int> wrong{0};
  const auto errors = RunRanks(ends, [&](Communicator& comm) {
    for (int round = 0; round < GetParam().rounds; ++round) {
      int64_t got[3] = {-1, -1, -1};
      ExchangeSmall(comm, {"numbers", round}, round * 10 + comm.rank(), got);
      for (int peer = 0; peer < 3; ++peer) wrong += got[peer] != round * 10 + peer;
      if (round % 3 == 0) comm.Barrier({"between", round});
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(wrong.load(), 0);
}

TEST_P(CommunicatorTest, ExchangesOnlyFromSomeToSomeLeaveTheOthersUntouched) {
  Ends ends = Make(4);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    // A ring: each sends to the next only.
    const int next = (comm.rank() + 1) % 4;
    const int previous = (comm.rank() + 3) % 4;
    std::vector<char> out(700'000, static_cast<char>('a' + comm.rank()));
    std::vector<char> in(700'000, '?');
    std::vector<Outgoing> to(4);
    std::vector<Incoming> from(4);
    to[static_cast<size_t>(next)] = {out.data(), 700'000};
    from[static_cast<size_t>(previous)] = {in.data(), 700'000};
    comm.Exchange({"ring"}, to, from);
    EXPECT_EQ(in, std::vector<char>(700'000, static_cast<char>('a' + previous)));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST_P(CommunicatorTest, ARankAbsentFromAnExchangeIsNamedAtTheDeadline) {
  for (const int64_t bytes : {8, 400'000}) {
    Ends ends = Make(3, kShortMs);
    std::vector<std::string> errors;
    const double seconds = SecondsOf([&] {
      errors = RunRanks(
          ends,
          [&](Communicator& comm) {
            if (comm.rank() != 0) return;
            std::vector<char> memory(static_cast<size_t>(6 * bytes));
            std::vector<Outgoing> to;
            std::vector<Incoming> from;
            for (int peer = 0; peer < 3; ++peer) {
              to.push_back({memory.data() + peer * bytes, bytes});
              from.push_back({memory.data() + (3 + peer) * bytes, bytes});
            }
            comm.Exchange({"kv_exchange", 6}, to, from);
          },
          /*abort_on_failure=*/false);
    });
    EXPECT_EQ(errors[0],
              "rank 0: kv_exchange of layer 6 passed its deadline; rank 1, 2 did not arrive");
    EXPECT_GE(seconds, 1e-3 * kShortMs);
    EXPECT_LT(seconds, 20.0);
  }
}

TEST_P(CommunicatorTest, AnAbortEndsAnExchangeAndTheMemoryMayGoAtOnce) {
  for (int round = 0; round < 10; ++round) {
    Ends ends = Make(3);
    std::thread outside([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(round));
      ends[2]->Abort("the watchdog barked");
    });
    const auto errors = RunRanks(ends, [&](Communicator& comm) {
      for (int n = 0;; ++n) {
        Pieces pieces(comm, n % 10);  // freed by the throw
        comm.Exchange({"kv_exchange", 1}, pieces.to, pieces.from);
      }
    });
    outside.join();
    for (const std::string& error : errors) {
      EXPECT_NE(error.find("the watchdog barked"), std::string::npos) << error;
    }
  }
}

TEST_P(CommunicatorTest, ARankThatFailsBetweenExchangesIsNamedByAll) {
  Ends ends = Make(4);
  const auto errors = RunRanks(ends, [](Communicator& comm) {
    for (int round = 0; round < 9; ++round) {
      if (comm.rank() == 2 && round == 5) throw StepFailed("rank 2: out of memory");
      Pieces pieces(comm, round);
      comm.Exchange({"kv_exchange", round}, pieces.to, pieces.from);
    }
  });
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("rank 2: out of memory"), std::string::npos) << error;
  }
}

TEST_P(CommunicatorTest, SizesThatDisagreeAreNamedWithBothValues) {
  for (const int64_t sent : {7, 900'000}) {
    for (const int64_t expected : {8, 800'000}) {
      Ends ends = Make(2);
      const auto errors = RunRanks(
          ends,
          [&](Communicator& comm) {
            std::vector<char> memory(900'000);
            std::vector<Outgoing> to(2);
            std::vector<Incoming> from(2);
            if (comm.rank() == 0) to[1] = {memory.data(), sent};
            if (comm.rank() == 1) from[0] = {memory.data(), expected};
            comm.Exchange({"kv_exchange", 3}, to, from);
          },
          /*abort_on_failure=*/true);
      const std::string what =
          Text("kv_exchange of layer 3: rank 0 sends ", sent, " bytes, rank 1 expects ", expected);
      for (const std::string& error : errors) {
        EXPECT_NE(error.find(what), std::string::npos) << error;
      }
    }
  }
}

TEST_P(CommunicatorTest, AnExchangeThatMeetsAnotherCollectiveIsNamed) {
  struct Case {
    CollectiveName theirs;
    bool barrier;
    const char* message;
  };
  for (const Case& each :
       {Case{{"kv_exchange", 2},
             false,
             "rank 0 is in kv_exchange of layer 1, rank 1 in kv_exchange of layer 2"},
        Case{{"logits"}, false, "rank 0 is in kv_exchange of layer 1, rank 1 in logits"},
        Case{{"kv_exchange", 1},
             true,
             "rank 0 is in kv_exchange of layer 1 (exchange), rank 1 in kv_exchange of layer 1 "
             "(barrier)"}}) {
    Ends ends = Make(2);
    const auto errors = RunRanks(ends, [&](Communicator& comm) {
      int64_t got[2];
      if (comm.rank() == 0) {
        ExchangeSmall(comm, {"kv_exchange", 1}, 0, got);
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // so that rank 0 waits first
        if (each.barrier) {
          comm.Barrier(each.theirs);
        } else {
          ExchangeSmall(comm, each.theirs, 0, got);
        }
      }
    });
    EXPECT_TRUE(errors[0] == each.message ||
                errors[0].find("was aborted: rank 1 is in") != std::string::npos)
        << errors[0];
    EXPECT_NE(errors[1], "");
  }
}

TEST_P(CommunicatorTest, TrafficIsCountedByOperationWithoutWhatStaysAtHome) {
  Ends ends = Make(2);
  RunRanks(ends, [](Communicator& comm) {
    int64_t got[2];
    for (int layer = 0; layer < 3; ++layer) ExchangeSmall(comm, {"numbers", layer}, 1, got);
    Pieces pieces(comm, 0);
    comm.Exchange({"pieces"}, pieces.to, pieces.from);
    comm.Barrier({"end"});
  });
  for (const auto& end : ends) {
    ASSERT_EQ(end->traffic().size(), 2u);
    EXPECT_EQ(end->traffic()[0].operation, "numbers");
    EXPECT_EQ(end->traffic()[0].calls, 3);
    EXPECT_EQ(end->traffic()[0].bytes, 3 * 8);
    EXPECT_EQ(end->traffic()[1].operation, "pieces");
    EXPECT_EQ(end->traffic()[1].calls, 1);
    EXPECT_EQ(end->traffic()[1].bytes, PieceBytes(end->rank(), 1 - end->rank(), 0));
    end->ClearTraffic();
    EXPECT_TRUE(end->traffic().empty());
  }
}

TEST_P(CommunicatorTest, AnExchangeCalledWronglyIsABugThatEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Ends ends = Make(2);
  char byte = 0;
  const std::vector<Outgoing> to(2);
  const std::vector<Incoming> from(2);
  const std::vector<Incoming> self = {{&byte, 1}, {}};
  EXPECT_DEATH(ends[0]->Exchange({"kv_exchange"}, std::span(to).first(1), from), "1 and 2 pieces");
  EXPECT_DEATH(ends[0]->Exchange({"kv_exchange"}, to, self), "0 bytes to and 1 bytes from rank 0");
  ends[0]->Arrive({"barrier"});
  EXPECT_DEATH(ends[0]->Exchange({"kv_exchange"}, to, from), "inside a split barrier");
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

TEST(FaultCommunicator, ExchangesAreCollectivesToItTooAndFailInTheSameWays) {
  using Kind = Fault::Kind;
  for (const Kind kind : {Kind::kDelay, Kind::kNeverArrive, Kind::kThrow}) {
    Ends ends = MakeFaulty(3, {.kind = kind, .from = 1, .delay_ms = 30},
                           kind == Kind::kNeverArrive ? kShortMs : kLongMs);
    std::vector<std::string> errors;
    const double seconds = SecondsOf([&] {
      errors = RunRanks(
          ends,
          [](Communicator& comm) {
            int64_t got[3];
            comm.Barrier({"start"});
            ExchangeSmall(comm, {"numbers", 0}, 5, got);
          },
          /*abort_on_failure=*/kind == Kind::kThrow);
    });
    if (kind == Kind::kDelay) {
      for (const std::string& error : errors) EXPECT_EQ(error, "");
      EXPECT_GE(seconds, 0.030);
    } else if (kind == Kind::kThrow) {
      EXPECT_EQ(errors[1], "rank 1: injected fault in numbers of layer 0");
      EXPECT_NE(errors[0].find("injected fault in numbers"), std::string::npos) << errors[0];
    } else {
      EXPECT_NE(errors[0].find("rank 1 did not arrive"), std::string::npos) << errors[0];
      EXPECT_EQ(errors[1], "rank 1: injected fault: never arrived in numbers of layer 0");
    }
  }
}

}  // namespace
}  // namespace causeway
