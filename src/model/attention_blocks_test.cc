#include "model/attention_blocks.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kernels/op_table.h"
#include "model/scratch.h"

namespace causeway {
namespace {

Extend ExtendOf(int64_t begin, int64_t count, bool decode, int dp) {
  Extend extend;
  extend.begin = begin;
  extend.tokens.resize(static_cast<size_t>(count));
  extend.decode = decode;
  extend.dp = dp;
  return extend;
}

TEST(AttentionBlocks, AContextGroupHasTheSameHostSequencesAndHeads) {
  const Layout one{.cp = 3, .dp = 2, .tp = 2};
  EXPECT_EQ(ContextGroup(one, 0), (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(ContextGroup(one, 5), (std::vector<int>{1, 3, 5}));
  EXPECT_EQ(ContextGroup(one, 8), (std::vector<int>{6, 8, 10}));
  const Layout hosts{.cp = 4, .tp = 2, .hosts = 2};
  EXPECT_EQ(ContextGroup(hosts, 1), (std::vector<int>{1, 3}));
  EXPECT_EQ(ContextGroup(hosts, 6), (std::vector<int>{4, 6}));
  const Layout wide{.cp = 2, .tp = 4, .hosts = 4};  // a TP group fills two hosts
  EXPECT_EQ(ContextGroup(wide, 5), (std::vector<int>{5}));
}

// Counted token by token.
TEST(AttentionBlocks, EveryMaterialisedRowFindsItsKeysInTheRoundOfItsBlock) {
  std::mt19937 random(5);
  const auto below = [&](int64_t n) {
    return std::uniform_int_distribution<int64_t>(0, n - 1)(random);
  };
  for (int round = 0; round < 300; ++round) {
    Layout layout{.cp = static_cast<int>(1 + below(4)), .dp = static_cast<int>(1 + below(2))};
    layout.tp = static_cast<int>(1 + below(2));
    if (layout.cp % 2 == 0 && below(2) == 0) layout.hosts = 2;
    layout.partition = static_cast<PartitionKind>(below(3));
    Batch batch;
    for (int64_t i = 1 + below(4); i > 0; --i) {
      const bool decode = below(3) == 0;
      batch.extends.push_back(ExtendOf(below(500), decode ? 1 : 1 + below(900), decode,
                                       static_cast<int>(below(layout.dp))));
    }
    const StepSlices slices = SlicesOf(batch, layout, {1.0, 0.001});
    const BlockLimits limits{100 + below(900), 1 + below(300)};
    for (int rank = 0; rank < layout.world(); ++rank) {
      const std::vector<int> group = ContextGroup(layout, rank);
      const KeySharing rounds = SharedKeysOf(batch, slices, group, limits);
      const auto& mine = slices[static_cast<size_t>(rank)];
      const std::vector<AttentionBlock> blocks = BlocksOf(batch, mine, limits);
      int64_t row = 0;
      size_t block = 0;
      std::map<std::pair<size_t, int32_t>, int64_t> want;  // pages by block and extend
      for (const Slice& slice : mine) {
        for (int64_t p = slice.begin; p < slice.end; ++p, ++row) {
          while (row == blocks[block].end) ++block;
          const bool materialised = !batch.extends[static_cast<size_t>(slice.extend)].decode &&
                                    p < limits.materialised_end;
          ASSERT_EQ(blocks[block].materialised, materialised);
          ASSERT_LE(blocks[block].rows(), materialised ? limits.materialised_rows : kAbsorbedRows);
          if (!materialised) continue;
          int64_t& pages = want[{block, slice.extend}];
          pages = std::max(pages, p / kPage + 1);
        }
      }
      EXPECT_EQ(blocks.empty() ? 0 : blocks.back().end, row);
      if (group.size() == 1) {
        EXPECT_TRUE(rounds.empty());
        continue;
      }
      const auto member = std::find(group.begin(), group.end(), rank) - group.begin();
      std::map<std::pair<size_t, int32_t>, int64_t> found;
      for (size_t b = 0; b < rounds.size(); ++b) {
        for (const SharedKeys& keys : rounds[b]) {
          const int64_t pages = keys.pages[static_cast<size_t>(member)];
          EXPECT_LE(pages, keys.most());
          EXPECT_LE(keys.most(), MostSharedPages(rounds));
          if (pages > 0) found[{b, keys.extend}] = pages;
        }
      }
      EXPECT_EQ(found, want);
      // All of the group do the same at the same time.
      for (const int other : group) {
        const KeySharing theirs = SharedKeysOf(batch, slices, ContextGroup(layout, other), limits);
        ASSERT_EQ(theirs.size(), rounds.size());
        for (size_t b = 0; b < rounds.size(); ++b) {
          ASSERT_EQ(theirs[b].size(), rounds[b].size());
          for (size_t i = 0; i < rounds[b].size(); ++i) {
            EXPECT_EQ(theirs[b][i].extend, rounds[b][i].extend);
            EXPECT_EQ(theirs[b][i].pages, rounds[b][i].pages);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace causeway
