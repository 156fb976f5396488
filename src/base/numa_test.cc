#include "base/numa.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/thread_team.h"

namespace causeway {
namespace {

using Lists = std::vector<std::vector<int>>;

constexpr int64_t kMiB = int64_t{1} << 20;

// How many pages of [data, data + bytes) lie on each node, as the kernel says; -1: nowhere yet.
std::map<int, int64_t> PagesOnNodes(const void* data, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<void*> pages;
  for (int64_t at = 0; at < bytes; at += page) {
    pages.push_back(const_cast<char*>(static_cast<const char*>(data)) + at);
  }
  std::vector<int> status(pages.size(), -1);
  std::map<int, int64_t> out;
  // Without nodes to move to it only asks.
  if (syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, status.data(), 0) != 0) {
    return out;
  }
  for (const int node : status) ++out[std::max(node, -1)];
  return out;
}

bool KernelSaysWherePagesAre() {
  char byte = 0;
  return !PagesOnNodes(&byte, 1).empty() && !MemoryNodes().empty();
}

// Where containers forbid to ask, nothing can be said.
#define SKIP_WITHOUT_MOVE_PAGES() \
  if (!KernelSaysWherePagesAre()) GTEST_SKIP() << "move_pages is not allowed here"

// Empty where every node with memory has its share within 10 %, or a huge page where that is more.
std::string Uneven(const Buffer& buffer) {
  const auto nodes = static_cast<int64_t>(MemoryNodes().size());
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::map<int, int64_t> pages = PagesOnNodes(buffer.data(), buffer.bytes());
  const int64_t share = buffer.bytes() / page / nodes;
  const int64_t tolerance = nodes == 1 ? 0 : std::max(share / 10, 2 * kMiB / page);
  std::string out;
  for (const int node : MemoryNodes()) {
    if (std::abs(pages[node] - share) > tolerance) {
      out += Text("node ", node, ": ", pages[node], " of ", buffer.bytes() / page, " pages; ");
    }
  }
  return out;
}

#if defined(__x86_64__)
// From now on this process gets an error from mbind, as in a container without CAP_SYS_NICE.
bool ForbidMbind() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(filter), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 &&
         syscall(SYS_mbind, nullptr, 0, 0, nullptr, 0, 0) != 0 && errno == EPERM;
}
#endif

// Leaves memory in the heap that was written on this thread's node and that malloc gives out again:
// once it has seen a block freed, it maps no blocks of that size or less any more.
void UseTheHeap() {
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<void*> blocks;
    for (const int64_t mib : {30, 20, 10, 5}) {
      const auto bytes = static_cast<size_t>(mib * kMiB);
      blocks.push_back(std::malloc(bytes));
      std::memset(blocks.back(), 1, bytes);
    }
    // Stays in use above them, so that they are not given back to the system.
    static std::vector<std::unique_ptr<char[]>> above;
    above.push_back(std::make_unique<char[]>(1000));
    for (void* block : blocks) std::free(block);
  }
}

TEST(Numa, ReadsListsOfIds) {
  EXPECT_EQ(ParseIdList("0"), std::vector<int>({0}));
  EXPECT_EQ(ParseIdList("0-3"), std::vector<int>({0, 1, 2, 3}));
  EXPECT_EQ(ParseIdList("0,2-3,8"), std::vector<int>({0, 2, 3, 8}));
}

TEST(Numa, TakesNothingFromWhatIsNoList) {
  for (const char* text : {"", "x", "0-", "-1", "3-1", "0,", "0,,1", "0 1", "0-99999", "1-x"}) {
    EXPECT_TRUE(ParseIdList(text).empty()) << text;
  }
}

TEST(Numa, SpreadMemoryIsZeroAndWritable) {
  for (const int64_t bytes : {int64_t{1}, int64_t{4} << 20, (int64_t{9} << 20) + 1}) {
    const Buffer buffer = Buffer::Spread(bytes);
    ASSERT_EQ(buffer.bytes(), bytes);
    auto* data = buffer.as<unsigned char>();
    EXPECT_EQ(data[0], 0);
    EXPECT_EQ(data[bytes - 1], 0);
    data[bytes - 1] = 7;
    EXPECT_EQ(data[bytes - 1], 7);
  }
}

TEST(Numa, SpreadMemoryLiesOnAllNodesEvenly) {
  SKIP_WITHOUT_MOVE_PAGES();
  for (const int64_t mib : {4, 6, 32, 64}) {
    const Buffer buffer = Buffer::Spread(mib * kMiB);
    EXPECT_EQ(Uneven(buffer), "") << mib << " MiB";
  }
}

TEST(Numa, SharedMemoryLiesOnAllNodesEvenly) {
  SKIP_WITHOUT_MOVE_PAGES();
  for (const int64_t mib : {4, 6, 32, 64}) {
    const Buffer buffer = Buffer::Shared(mib * kMiB);
    EXPECT_EQ(Uneven(buffer), "") << mib << " MiB";
  }
}

#if defined(__x86_64__)
TEST(Numa, MemoryIsSpreadAlsoWhereTheSystemRefusesPolicies) {
  SKIP_WITHOUT_MOVE_PAGES();
  const auto child = [] {
    if (!ForbidMbind()) std::exit(2);
    for (const int64_t mib : {4, 6, 32}) {
      const std::string uneven =
          Uneven(Buffer::Spread(mib * kMiB)) + Uneven(Buffer::Shared(mib * kMiB));
      if (!uneven.empty()) {
        std::fprintf(stderr, "%s\n", uneven.c_str());
        std::exit(1);
      }
    }
    std::exit(0);
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(0), "");
}
#endif

TEST(Numa, SpreadMemoryIsNotMadeOfWhatTheHeapHasUsed) {
  SKIP_WITHOUT_MOVE_PAGES();
  UseTheHeap();
  for (const int64_t mib : {4, 16, 24}) {
    const Buffer buffer = Buffer::Spread(mib * kMiB);
    EXPECT_EQ(Uneven(buffer), "") << mib << " MiB";
  }
}

// As ranks do: whoever makes the memory, the thread that writes it first has it near.
TEST(Numa, MemoryOfOneThreadLiesOnItsNode) {
  SKIP_WITHOUT_MOVE_PAGES();
  for (const CpuPlace& place : PlacesOf(AllowedCpus())) {
    const std::vector<int>& nodes = MemoryNodes();
    if (std::find(nodes.begin(), nodes.end(), place.node) == nodes.end()) continue;
    UseTheHeap();
    // What was spread and is gone leaves nothing behind.
    for (const int64_t mib : {30, 16, 4}) Buffer::Spread(mib * kMiB);
    const Buffer untouched = Buffer::Untouched(16 * kMiB);
    std::thread thread([&] {
      ASSERT_TRUE(PinThisThread(place.cpu));
      std::memset(untouched.data(), 1, static_cast<size_t>(untouched.bytes()));
      Arena arena;
      arena.Limit(16 * kMiB);
      void* const scratch = arena.Allocate(16 * kMiB);
      std::memset(scratch, 1, static_cast<size_t>(16 * kMiB));
      const int64_t pages = 16 * kMiB / sysconf(_SC_PAGESIZE);
      EXPECT_EQ(PagesOnNodes(untouched.data(), untouched.bytes())[place.node], pages)
          << "CPU " << place.cpu;
      EXPECT_EQ(PagesOnNodes(scratch, 16 * kMiB)[place.node], pages) << "CPU " << place.cpu;
    });
    thread.join();
  }
}

TEST(Numa, MemoryNobodyWritesToIsNowhere) {
  SKIP_WITHOUT_MOVE_PAGES();
  UseTheHeap();
  const Buffer buffer = Buffer::Untouched(16 * kMiB);
  EXPECT_EQ(PagesOnNodes(buffer.data(), buffer.bytes())[-1], 16 * kMiB / sysconf(_SC_PAGESIZE));
}

TEST(Numa, EveryAllowedCpuHasAPlace) {
  const std::vector<int> cpus = AllowedCpus();
  const std::vector<CpuPlace> places = PlacesOf(cpus);
  ASSERT_EQ(places.size(), cpus.size());
  for (size_t i = 0; i < cpus.size(); ++i) {
    EXPECT_EQ(places[i].cpu, cpus[i]);
    EXPECT_LE(places[i].core, cpus[i]);
    EXPECT_GE(places[i].node, 0);
    // The kernel's own word for it.
    EXPECT_TRUE(
        access(Text("/sys/devices/system/cpu/cpu", cpus[i], "/node", places[i].node).c_str(),
               F_OK) == 0 ||
        access("/sys/devices/system/cpu/cpu0/node0", F_OK) != 0)
        << cpus[i];
  }
}

// `cpus` CPUs: the next ones are on the next nodes if `alternating`, else each node has a run;
// with two threads a core, the second half are the second threads.
std::vector<CpuPlace> Machine(int cpus, int nodes, int threads, bool alternating) {
  std::vector<CpuPlace> out;
  const int cores = cpus / threads;
  for (int cpu = 0; cpu < cpus; ++cpu) {
    const int core = cpu % cores;
    out.push_back({cpu, alternating ? core % nodes : core * nodes / cores, core});
  }
  return out;
}

TEST(PlaceRanks, GivesRanksToNodesInEqualParts) {
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, false), 2, 2), Lists({{0, 1}, {4, 5}}));
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, false), 3, 1), Lists({{0}, {1}, {4}}));
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, false), 1, 4), Lists({{0, 1, 2, 3}}));
  EXPECT_EQ(PlaceRanks(Machine(8, 1, 1, false), 3, 2), Lists({{0, 1}, {2, 3}, {4, 5}}));
}

TEST(PlaceRanks, KeepsARankOnOneNodeHoweverCpusAreNumbered) {
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, true), 2, 2), Lists({{0, 2}, {1, 3}}));
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, true), 2, 4), Lists({{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(PlaceRanks(Machine(8, 4, 1, true), 4, 2), Lists({{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
}

TEST(PlaceRanks, GivesEachThreadACoreWhereThereAreEnough) {
  // CPUs 0 to 3 on node 0, 4 to 7 on node 1; 8 to 15 are the second threads of their cores.
  const std::vector<CpuPlace> machine = Machine(16, 2, 2, false);
  EXPECT_EQ(PlaceRanks(machine, 2, 4), Lists({{0, 1, 2, 3}, {4, 5, 6, 7}}));
  // 2 ranks of 5 threads share cores, but none with the other rank.
  EXPECT_EQ(PlaceRanks(machine, 2, 5), Lists({{0, 8, 1, 9, 2}, {4, 12, 5, 13, 6}}));
}

TEST(PlaceRanks, TakesNodeAfterNodeWhereEqualPartsDoNotFit) {
  // One rank needs more than a node, or the nodes are not alike.
  EXPECT_EQ(PlaceRanks(Machine(8, 2, 1, true), 1, 6), Lists({{0, 2, 4, 6, 1, 3}}));
  EXPECT_EQ(PlaceRanks({{0, 0, 0}, {1, 0, 1}, {2, 0, 2}, {3, 1, 3}}, 2, 2),
            Lists({{0, 1}, {2, 3}}));
}

TEST(PlaceRanks, UsesNoCpuTwiceAndOnlyGivenOnes) {
  for (const bool alternating : {false, true}) {
    for (const int per_core : {1, 2}) {
      for (int nodes = 1; nodes <= 4; ++nodes) {
        std::vector<CpuPlace> machine = Machine(24, nodes, per_core, alternating);
        machine.erase(machine.begin() + 5);  // a CPU that this process may not use
        std::set<int> given;
        for (const CpuPlace& place : machine) given.insert(place.cpu);
        for (int ranks = 1; ranks <= 24; ++ranks) {
          for (int threads = 1; threads <= 24; ++threads) {
            const Lists lists = PlaceRanks(machine, ranks, threads);
            if (ranks * threads > 23) {
              EXPECT_TRUE(lists.empty()) << ranks << "x" << threads;
              continue;
            }
            ASSERT_EQ(lists.size(), static_cast<size_t>(ranks));
            std::set<int> used;
            for (const std::vector<int>& list : lists) {
              ASSERT_EQ(list.size(), static_cast<size_t>(threads));
              used.insert(list.begin(), list.end());
            }
            EXPECT_EQ(used.size(), static_cast<size_t>(ranks * threads));
            EXPECT_TRUE(std::includes(given.begin(), given.end(), used.begin(), used.end()));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace causeway
