// NUMA nodes: on which of them memory and threads lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace causeway {

// The numbers in a list as files of Linux have it, "0-2,5"; empty if `text` is not such a list, or
// has a number of 1024 or more.
std::vector<int> ParseIdList(const std::string& text);

// The nodes with memory that this process may use, as they were at the first call; empty where the
// system does not say.
const std::vector<int>& MemoryNodes();

// Places the pages of [data, data + bytes), none of which has been written yet, on all MemoryNodes
// in turn, so that no node serves all readers alone. Where the system refuses to do so whenever a
// page is first written, as in containers without CAP_SYS_NICE, zeros are written to all pages
// here, from a thread on each node. Without effect on one node. data: on a border of huge pages.
void SpreadOverNodes(void* data, int64_t bytes);

// Where a CPU lies. `core`: the lowest of the CPUs that are hardware threads of the same core.
struct CpuPlace {
  int cpu;
  int node;
  int core;
};

// As the system says; where it does not, each CPU is a core of its own on node 0.
std::vector<CpuPlace> PlacesOf(const std::vector<int>& cpus);

// A CPU for each of the `threads` threads of `ranks` ranks; empty if there are fewer. One for each
// core where there are enough cores. Ranks side by side are given to the nodes in equal parts if
// the CPUs of each node are enough for its part, else CPUs are taken node after node.
std::vector<std::vector<int>> PlaceRanks(std::vector<CpuPlace> cpus, int ranks, int threads);

}  // namespace causeway
