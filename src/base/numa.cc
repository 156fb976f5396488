#include "base/numa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <system_error>
#include <thread>
#include <tuple>

#include "base/check.h"
#include "base/thread_team.h"

namespace causeway {
namespace {

constexpr int kMaxIds = 1024;   // nodes and CPUs
constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of linux/mempolicy.h

// The first line of a file of the kernel; empty if there is none.
std::string LineOf(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What a control group leaves to this process; empty where the system does not say.
std::vector<int> AllowedNodes() {
  const std::string key = "Mems_allowed_list:";
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    return ParseIdList(line.substr(std::min(line.size(), key.size() + 1)));  // after a tab
  }
  return {};
}

// A CPU on each of the MemoryNodes that has one.
std::vector<int> CpuOfEachNode() {
  std::vector<int> out;
  const std::vector<CpuPlace> places = PlacesOf(AllowedCpus());
  for (const int node : MemoryNodes()) {
    const auto at = std::find_if(places.begin(), places.end(),
                                 [&](const CpuPlace& place) { return place.node == node; });
    if (at != places.end()) out.push_back(at->cpu);
  }
  return out;
}

// Writes to all pages, so that the huge pages, or what is in their place, lie on the nodes in turn.
void WriteFromNodes(char* data, int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t small_page = sysconf(_SC_PAGESIZE);
  const std::vector<int> cpus = CpuOfEachNode();
  const auto nodes = static_cast<int64_t>(cpus.size());
  const auto write = [&](int64_t index) {
    if (!PinThisThread(cpus[static_cast<size_t>(index)])) return;
    for (int64_t begin = index * kHugePage; begin < bytes; begin += nodes * kHugePage) {
      const int64_t end = std::min(bytes, begin + kHugePage);
      for (int64_t at = begin; at < end; at += small_page) {
        *static_cast<volatile char*>(data + at) = 0;
      }
    }
  };
  std::vector<std::thread> threads;
  try {
    for (int64_t index = 0; index < nodes; ++index) threads.emplace_back(write, index);
  } catch (const std::system_error&) {
    // No more threads: the rest lies where it is first written.
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

std::vector<int> ParseIdList(const std::string& text) {
  std::vector<int> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    auto read = std::from_chars(at, end, first);
    if (read.ec != std::errc() || first < 0) return {};
    int last = first;
    if (read.ptr < end && *read.ptr == '-') {
      read = std::from_chars(read.ptr + 1, end, last);
      if (read.ec != std::errc()) return {};
    }
    if (last < first || last >= kMaxIds) return {};
    for (int id = first; id <= last; ++id) ids.push_back(id);
    at = read.ptr;
    if (at == end) break;
    if (*at != ',' || at + 1 == end) return {};
    ++at;
  }
  return ids;
}

const std::vector<int>& MemoryNodes() {
  static const std::vector<int> nodes = [] {
    std::vector<int> out = ParseIdList(LineOf("/sys/devices/system/node/has_memory"));
    const std::vector<int> allowed = AllowedNodes();
    if (allowed.empty()) return out;
    out.erase(std::remove_if(out.begin(), out.end(),
                             [&](int node) {
                               return std::find(allowed.begin(), allowed.end(), node) ==
                                      allowed.end();
                             }),
              out.end());
    return out;
  }();
  return nodes;
}

void SpreadOverNodes(void* data, int64_t bytes) {
#ifdef SYS_mbind
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  if (MemoryNodes().size() < 2 || bytes <= 0) return;
  unsigned long mask[kMaxIds / kBits] = {};
  for (const int node : MemoryNodes()) {
    mask[static_cast<size_t>(node) / kBits] |= 1ul << static_cast<size_t>(node) % kBits;
  }
  if (syscall(SYS_mbind, data, static_cast<unsigned long>(bytes), kInterleave, mask,
              static_cast<unsigned long>(kMaxIds), 0) != 0) {
    WriteFromNodes(static_cast<char*>(data), bytes);
  }
#else
  (void)data;
  (void)bytes;
#endif
}

std::vector<CpuPlace> PlacesOf(const std::vector<int>& cpus) {
  std::map<int, int> nodes;  // of CPUs
  for (const int node : ParseIdList(LineOf("/sys/devices/system/node/has_cpu"))) {
    const std::string path = Text("/sys/devices/system/node/node", node, "/cpulist");
    for (const int cpu : ParseIdList(LineOf(path))) nodes[cpu] = node;
  }
  std::vector<CpuPlace> places;
  for (const int cpu : cpus) {
    const std::vector<int> siblings = ParseIdList(
        LineOf(Text("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list")));
    places.push_back(
        {cpu, nodes.count(cpu) > 0 ? nodes[cpu] : 0, siblings.empty() ? cpu : siblings.front()});
  }
  return places;
}

std::vector<std::vector<int>> PlaceRanks(std::vector<CpuPlace> cpus, int ranks, int threads) {
  CHECK(ranks >= 1 && threads >= 1, ranks, " ranks, ", threads, " threads");
  const auto each = static_cast<size_t>(threads);
  const size_t wanted = static_cast<size_t>(ranks) * each;
  if (wanted > cpus.size()) return {};
  std::sort(cpus.begin(), cpus.end(), [](const CpuPlace& a, const CpuPlace& b) {
    return std::tie(a.node, a.core, a.cpu) < std::tie(b.node, b.core, b.cpu);
  });
  std::vector<CpuPlace> cores = cpus;
  cores.erase(std::unique(cores.begin(), cores.end(),
                          [](const CpuPlace& a, const CpuPlace& b) {
                            return a.node == b.node && a.core == b.core;
                          }),
              cores.end());
  if (wanted <= cores.size()) cpus = std::move(cores);

  std::vector<size_t> begins;  // of each node in cpus, and the end
  for (size_t i = 0; i < cpus.size(); ++i) {
    if (i == 0 || cpus[i].node != cpus[i - 1].node) begins.push_back(i);
  }
  const size_t nodes = begins.size();
  begins.push_back(cpus.size());
  // 5 ranks on 2 nodes: ranks 0 to 2 on the first, 3 and 4 on the second.
  std::vector<size_t> firsts;  // of each rank in cpus
  std::vector<size_t> next = begins;
  bool fits = true;
  for (size_t rank = 0; rank < static_cast<size_t>(ranks); ++rank) {
    const size_t node = rank * nodes / static_cast<size_t>(ranks);
    firsts.push_back(next[node]);
    next[node] += each;
    fits = fits && next[node] <= begins[node + 1];
  }
  std::vector<std::vector<int>> out;
  for (size_t rank = 0; rank < static_cast<size_t>(ranks); ++rank) {
    std::vector<int>& mine = out.emplace_back();
    const size_t first = fits ? firsts[rank] : rank * each;
    for (size_t i = first; i < first + each; ++i) mine.push_back(cpus[i].cpu);
  }
  return out;
}

}  // namespace causeway
