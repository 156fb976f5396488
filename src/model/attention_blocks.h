// Which rows of a step attend together, and which keys the ranks of a host expand for each other.
// Pure functions of the batch and its slices: every rank computes the same.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "parallel/layout.h"
#include "parallel/partition.h"

namespace causeway {

// Consecutive local rows of a rank that use the same form of attention.
struct AttentionBlock {
  int64_t begin = 0;
  int64_t end = 0;
  bool materialised = false;
  int64_t rows() const { return end - begin; }
};

// Where blocks end.
struct BlockLimits {
  int64_t materialised_end = 0;   // MaterialisedEnd: positions from here on are absorbed
  int64_t materialised_rows = 0;  // at most, of a block of materialised heads
};

// The rows of these slices, in order.
std::vector<AttentionBlock> BlocksOf(const Batch& batch, const std::vector<Slice>& slices,
                                     const BlockLimits& limits);

// The ranks that share memory, sequences and heads with `rank`: those of its host, data-parallel
// group and place in the TP group. Ascending, `rank` among them.
std::vector<int> ContextGroup(const Layout& layout, int rank);

// Keys of a sequence, positions [0, kPage * most()), that a context group expands once for all of
// its ranks.
struct SharedKeys {
  int32_t extend = 0;
  std::vector<int64_t> pages;  // how many each rank of the group reads; 0: none
  int64_t most() const;
};

// What the ranks of a context group expand together, by number of the block that each of them
// attends with then: as many rounds as the most materialised blocks of any rank. A rank without
// such a block takes part all the same. Empty for a group of one.
using KeySharing = std::vector<std::vector<SharedKeys>>;

// The most pages of any sequence among them.
int64_t MostSharedPages(const KeySharing& sharing);

KeySharing SharedKeysOf(const Batch& batch, const StepSlices& slices, const std::vector<int>& group,
                        const BlockLimits& limits);

}  // namespace causeway
