#include "model/attention_blocks.h"

#include <algorithm>

#include "kernels/op_table.h"
#include "model/scratch.h"

namespace causeway {

std::vector<AttentionBlock> BlocksOf(const Batch& batch, const std::vector<Slice>& slices,
                                     const BlockLimits& limits) {
  std::vector<AttentionBlock> blocks;
  int64_t row = 0;
  for (const Slice& slice : slices) {
    const bool decode = batch.extends[static_cast<size_t>(slice.extend)].decode;
    for (int64_t p = slice.begin; p < slice.end;) {
      const bool materialised = !decode && p < limits.materialised_end;
      const int64_t limit = materialised ? limits.materialised_rows : kAbsorbedRows;
      if (blocks.empty() || blocks.back().materialised != materialised ||
          blocks.back().rows() == limit) {
        blocks.push_back({row, row, materialised});
      }
      const int64_t form_end =
          materialised ? std::min(slice.end, limits.materialised_end) : slice.end;
      const int64_t rows = std::min(form_end - p, limit - blocks.back().rows());
      blocks.back().end += rows;
      row += rows;
      p += rows;
    }
  }
  return blocks;
}

std::vector<int> ContextGroup(const Layout& layout, int rank) {
  const RankPlace place = layout.PlaceOf(rank);
  std::vector<int> group;
  for (int cp = 0; cp < layout.cp; ++cp) {
    const int other = layout.RankAt({place.dp, cp, place.tp});
    if (layout.HostOf(other) == layout.HostOf(rank)) group.push_back(other);
  }
  return group;
}

int64_t SharedKeys::most() const { return *std::max_element(pages.begin(), pages.end()); }

int64_t MostSharedPages(const KeySharing& sharing) {
  int64_t most = 0;
  for (const auto& round : sharing) {
    for (const SharedKeys& keys : round) most = std::max(most, keys.most());
  }
  return most;
}

KeySharing SharedKeysOf(const Batch& batch, const StepSlices& slices, const std::vector<int>& group,
                        const BlockLimits& limits) {
  KeySharing rounds;
  if (group.size() == 1) return rounds;
  for (size_t member = 0; member < group.size(); ++member) {
    const std::vector<Slice>& mine = slices[static_cast<size_t>(group[member])];
    const std::vector<AttentionBlock> blocks = BlocksOf(batch, mine, limits);
    for (size_t b = 0; b < blocks.size(); ++b) {
      if (!blocks[b].materialised) continue;
      if (rounds.size() <= b) rounds.resize(b + 1);
      int64_t row = 0;  // the first of the slice
      for (const Slice& slice : mine) {
        const int64_t rows = slice.end - slice.begin;
        const int64_t end = std::min(row + rows, blocks[b].end);
        if (std::max(row, blocks[b].begin) < end) {
          // The slice's rows in the block, the last of which sees most keys.
          const int64_t pages = (slice.begin + end - row - 1) / kPage + 1;
          auto keys = std::find_if(rounds[b].begin(), rounds[b].end(),
                                   [&](const SharedKeys& k) { return k.extend == slice.extend; });
          if (keys == rounds[b].end()) {
            keys = rounds[b].insert(keys, {slice.extend, std::vector<int64_t>(group.size())});
          }
          keys->pages[member] = std::max(keys->pages[member], pages);
        }
        row += rows;
      }
    }
  }
  return rounds;
}

}  // namespace causeway
