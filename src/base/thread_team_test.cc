#include "base/thread_team.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <set>
#include <thread>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAUSEWAY_SANITIZED 1
#endif

namespace causeway {
namespace {

TEST(ThreadTeam, ResultsOfALoopAreVisibleToTheOwnerAndToTheNextLoop) {
  for (int size : {1, 2, 3, 8}) {
    ThreadTeam team(size);
    std::vector<int64_t> values(97, 0);  // plain memory: the team must order the accesses
    for (int64_t round = 0; round < 500; ++round) {
      team.ParallelFor(97, [&](int64_t item, int) {
        values[static_cast<size_t>(item)] += values[static_cast<size_t>(item)] == round ? 1 : 1000;
      });
      ASSERT_EQ(values[static_cast<size_t>(round % 97)], round + 1);
    }
    EXPECT_EQ(std::set<int64_t>(values.begin(), values.end()), std::set<int64_t>{500});
  }
}

TEST(ThreadTeam, HandsItemsOutInAscendingOrder) {
  ThreadTeam team(3);
  std::vector<std::vector<int64_t>> items(3);
  team.ParallelFor(
      1000, [&](int64_t item, int worker) { items[static_cast<size_t>(worker)].push_back(item); });
  for (const auto& mine : items) EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
}

TEST(ThreadTeam, WorkersThatFellAsleepWakeForTheNextLoop) {
  ThreadTeam team(4);
  std::atomic<int> done{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    team.ParallelFor(4, [&](int64_t, int) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the owner falls asleep too
      ++done;
    });
    EXPECT_EQ(done.load(), 4 * (round + 1));
  }
}

TEST(ThreadTeam, TeamsThatNeverRanALoopAndManyTeamsAtOnceEndCleanly) {
  std::vector<std::unique_ptr<ThreadTeam>> teams;
  for (int i = 0; i < 8; ++i) teams.push_back(std::make_unique<ThreadTeam>(4));
  std::atomic<int> items{0};
  for (size_t i = 0; i < teams.size(); i += 2) {
    teams[i]->ParallelFor(10, [&](int64_t, int) { ++items; });
  }
  teams.clear();
  EXPECT_EQ(items.load(), 40);
}

#if defined(__x86_64__)
TEST(ThreadTeam, WorkersFlushDenormalsAndSoDoesTheOwnerInItsScope) {
  const volatile float denormal = std::numeric_limits<float>::denorm_min();
  EXPECT_NE(denormal * 2.0f, 0.0f);
  {
    const ScopedFlushDenormals flush;
    EXPECT_EQ(denormal * 2.0f, 0.0f);
    ThreadTeam team(3);
    std::atomic<int> kept{0};
    team.ParallelFor(300, [&](int64_t, int) { kept += denormal * 2.0f != 0.0f; });
    EXPECT_EQ(kept.load(), 0);
  }
  EXPECT_NE(denormal * 2.0f, 0.0f);
}
#endif

TEST(Cpus, AThreadPinsToAnAllowedCpuAndToNoOther) {
  const std::vector<int> cpus = AllowedCpus();
  ASSERT_FALSE(cpus.empty());
  EXPECT_TRUE(std::is_sorted(cpus.begin(), cpus.end()));
  std::thread([&] {
    EXPECT_TRUE(PinThisThread(cpus.back()));
    EXPECT_EQ(sched_getcpu(), cpus.back());
    EXPECT_FALSE(PinThisThread(-1));
    EXPECT_FALSE(PinThisThread(100000));
    EXPECT_EQ(AllowedCpus(), std::vector<int>{cpus.back()});
  }).join();
  EXPECT_EQ(AllowedCpus(), cpus);
}

TEST(Cpus, ATeamPinsEachWorkerToItsCpu) {
  const std::vector<int> cpus = AllowedCpus();
  const auto size = static_cast<int>(cpus.size() < 2 ? cpus.size() : 2);
  std::thread([&] {
    ThreadTeam team(size, {cpus.begin(), cpus.begin() + size});
    team.PinOwner();
    std::atomic<int> elsewhere{0};
    team.ParallelFor(50, [&](int64_t, int worker) {
      elsewhere += sched_getcpu() != cpus[static_cast<size_t>(worker)];
    });
    EXPECT_EQ(elsewhere.load(), 0);
  }).join();
}

#ifndef CAUSEWAY_SANITIZED  // whose shadow memory does not fit the limit
// Ends this process with 3 after printing the error of a team that the system refuses.
void StartTeamWithoutRoom() {
  const rlimit limit{.rlim_cur = 256u << 20, .rlim_max = 256u << 20};
  setrlimit(RLIMIT_AS, &limit);  // room for some stacks of 8 MiB
  try {
    const ThreadTeam team(1000);
  } catch (const StartError& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    std::_Exit(3);
  }
}

TEST(ThreadTeam, TooManyThreadsAreAnErrorWithAdviceAndNotACrash) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(StartTeamWithoutRoom(), testing::ExitedWithCode(3),
              "can't start a team of 1000 threads: .*--threads-per-rank");
}
#endif

}  // namespace
}  // namespace causeway
