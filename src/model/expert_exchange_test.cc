#include "model/expert_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "parallel/simulated_hosts.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
constexpr int64_t kHidden = 6;
constexpr int64_t kActive = 3;
constexpr int64_t kExperts = 13;

TEST(ExpertOrder, GroupsSlotsByExpertAndKeepsTheirOrder) {
  std::mt19937 random(kSeed);
  for (int slots : {0, 1, 2, 17, 300}) {
    std::vector<int32_t> expert;
    std::vector<int32_t> row;
    for (int i = 0; i < slots; ++i) {
      expert.push_back(static_cast<int32_t>(random() % kExperts));
      row.push_back(i / 3);
    }
    const ExpertOrder order = ExpertOrder::Of(kExperts, expert, row);
    ASSERT_EQ(order.slots(), slots);
    ASSERT_EQ(order.first.size(), static_cast<size_t>(kExperts) + 1);
    EXPECT_EQ(order.first.front(), 0);
    EXPECT_EQ(order.first.back(), slots);
    for (int64_t e = 0; e < kExperts; ++e) {
      int32_t before = -1;
      for (int64_t at = order.first[static_cast<size_t>(e)];
           at < order.first[static_cast<size_t>(e) + 1]; ++at) {
        const int32_t slot = order.slot[static_cast<size_t>(at)];
        EXPECT_EQ(expert[static_cast<size_t>(slot)], e);
        EXPECT_EQ(order.row[static_cast<size_t>(at)], row[static_cast<size_t>(slot)]);
        EXPECT_GT(slot, before) << "slots of one expert stay in order";
        before = slot;
      }
    }
  }
}

// What "expert" e makes of a row whose values are all v: tells both.
float OutputOf(int32_t e, float v) { return v * 100.0f + static_cast<float>(e); }

struct Tokens {
  std::vector<float> values;  // [rows, hidden]
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

// Tokens of a rank; every value of a row is the row's own number.
Tokens TokensOf(int rank, int64_t rows) {
  std::mt19937 random(kSeed + static_cast<uint32_t>(rank));
  Tokens out;
  for (int64_t row = 0; row < rows; ++row) {
    out.values.insert(out.values.end(), kHidden, static_cast<float>(rank * 1000 + row));
    std::vector<int32_t> all(kExperts);
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    std::shuffle(all.begin(), all.end(), random);
    out.experts.insert(out.experts.end(), all.begin(), all.begin() + kActive);
    out.weights.insert(out.weights.end(), kActive, 0.5f);
  }
  return out;
}

TEST(ExpertExchange, EverySlotIsComputedWhereItsExpertLiesAndComesBackInOrder) {
  ModelConfig config;
  config.hidden_size = kHidden;
  config.n_routed_experts = kExperts;
  config.num_experts_per_tok = kActive;
  config.num_hidden_layers = 4;
  for (int world : {1, 2, 4, 6, 8}) {
    for (int ep = 1; ep <= world; ++ep) {
      const auto layout = Layout::Make({.world = world, .cp = world, .ep = ep});
      if (!layout.ok()) continue;
      SimulatedHosts hosts(*layout);
      const auto errors = hosts.Run([&](int rank, RankLink& link) {
        Arena arena;
        ReadCounts reads;
        ExpertExchange exchange(config, *layout, rank, {}, link, reads);
        for (int32_t layer = 0; layer < 4; ++layer) {
          const ArenaScope scope(arena);
          const int64_t rows = (rank * 5 + layer) % 7;  // some ranks have none
          std::vector<int64_t> all_rows;
          for (int other = 0; other < world; ++other) all_rows.push_back((other * 5 + layer) % 7);
          const Tokens mine = TokensOf(rank, rows);
          const Rows input{const_cast<float*>(mine.values.data()), DType::kF32, rows, kHidden,
                           kHidden};
          const auto work = exchange.Dispatch(
              layer, {{input}, rows, mine.experts.data(), mine.weights.data()}, all_rows, arena);
          const Range part = ShareOf(kExperts, layout->ExpertPartOf(rank), layout->ep);
          float* outputs = exchange.Outputs(work.slots());
          for (int64_t slot = 0; slot < work.slots(); ++slot) {
            const int32_t expert = work.expert[static_cast<size_t>(slot)];
            ASSERT_TRUE(part.Contains(expert)) << layout->ToString() << ", rank " << rank;
            const auto* row =
                static_cast<const float*>(work.input.rows.row(work.row[static_cast<size_t>(slot)]));
            for (int64_t c = 0; c < kHidden; ++c) {
              outputs[slot * kHidden + c] = OutputOf(expert, row[c]);
            }
          }
          const auto result = exchange.Combine(layer);
          ASSERT_EQ(result.size(), static_cast<size_t>(layout->ep));
          std::vector<int64_t> next(result.size(), 0);
          for (int64_t slot = 0; slot < rows * kActive; ++slot) {
            const int32_t expert = mine.experts[static_cast<size_t>(slot)];
            const auto of = static_cast<size_t>(exchange.PartOf(layer, expert));
            const float* found = result[of] + next[of]++ * kHidden;
            const float value = static_cast<float>(rank * 1000 + slot / kActive);
            for (int64_t c = 0; c < kHidden; ++c) {
              ASSERT_EQ(found[c], OutputOf(expert, value))
                  << layout->ToString() << ", rank " << rank << ", slot " << slot;
            }
          }
          link.Barrier({"read", layer});  // tokens may go now
        }
      });
      for (const std::string& error : errors) EXPECT_EQ(error, "");
    }
  }
}

}  // namespace
}  // namespace causeway
