#include "base/numa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

namespace causeway {
namespace {

constexpr int kMaxNodes = 1024;
constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of linux/mempolicy.h

const std::vector<int>& Nodes() {
  static const std::vector<int> nodes = [] {
    std::ifstream file("/sys/devices/system/node/has_memory");
    std::string line;
    std::getline(file, line);
    return ParseNodeList(line);
  }();
  return nodes;
}

}  // namespace

std::vector<int> ParseNodeList(const std::string& text) {
  std::vector<int> nodes;
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
    if (last < first || last >= kMaxNodes) return {};
    for (int node = first; node <= last; ++node) nodes.push_back(node);
    at = read.ptr;
    if (at == end) break;
    if (*at != ',' || at + 1 == end) return {};
    ++at;
  }
  return nodes;
}

void SpreadOverNodes(void* data, int64_t bytes) {
#ifdef SYS_mbind
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  if (Nodes().size() < 2 || bytes <= 0) return;
  unsigned long mask[kMaxNodes / kBits] = {};
  for (const int node : Nodes()) {
    mask[static_cast<size_t>(node) / kBits] |= 1ul << static_cast<size_t>(node) % kBits;
  }
  // A hint: if it fails, the pages lie where they are first written.
  syscall(SYS_mbind, data, static_cast<unsigned long>(bytes), kInterleave, mask,
          static_cast<unsigned long>(kMaxNodes), 0);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace causeway
