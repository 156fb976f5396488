// Memory that threads on all NUMA nodes read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace causeway {

// The numbers in a list as /sys/devices/system/node/has_memory has it, "0-2,5"; empty if `text` is
// not such a list.
std::vector<int> ParseNodeList(const std::string& text);

// Asks the system to place the pages of [data, data + bytes), none of which has been written yet,
// on all nodes with memory in turn, so that no node serves all readers alone. Without effect on one
// node, or where the system does not allow it. data: on a page border.
void SpreadOverNodes(void* data, int64_t bytes);

}  // namespace causeway
