// Where copies of experts go and who uses them, over every small case.
#include "model/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;

// A model of one dense and `layers` - 1 MoE layers.
ModelConfig Model(int64_t experts, int64_t layers) {
  ModelConfig config;
  config.num_hidden_layers = layers;
  config.first_k_dense_replace = 1;
  config.n_routed_experts = experts;
  return config;
}

Layout Parts(int ep, int copies) {
  Layout layout;
  layout.cp = ep * copies;
  layout.ep = ep;
  return layout;
}

int CopiesOf(const ExpertPlacement& placement, const Layout& layout, int64_t layer,
             int32_t expert) {
  int copies = 0;
  for (int part = 0; part < layout.ep; ++part) copies += placement.Holds(part, layer, expert);
  return copies;
}

TEST(ExpertPlacement, WithoutCopiesEveryExpertIsWhereTheLayoutCutsIt) {
  for (const int64_t experts : {4, 12, 13, 256}) {
    for (const int ep : {1, 2, 3, 4}) {
      const Layout layout = Parts(ep, 2);
      const ExpertPlacement placement(Model(experts, 2), layout, {});
      for (int part = 0; part < ep; ++part) {
        const Range range = ShareOf(experts, part, ep);
        for (int32_t e = 0; e < experts; ++e) {
          EXPECT_EQ(placement.Holds(part, 1, e), range.Contains(e));
          if (!range.Contains(e)) continue;
          for (int home = 0; home < layout.world(); ++home) {
            EXPECT_EQ(placement.PartOf(1, e, home), part);
          }
        }
      }
    }
  }
}

// Random counts with many equal ones, for every number of copies.
TEST(ExpertPlacement, TheHottestExpertsOfEachLayerHaveTwoPartsAndEveryHomeIsSentToOneThatHoldsIt) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  for (const int64_t experts : {4, 7, 12}) {
    for (const int ep : {2, 3, 4}) {
      for (const int copies : {1, 2}) {
        const ModelConfig config = Model(experts, 4);
        const Layout layout = Parts(ep, copies);
        for (int64_t redundant = 0; redundant <= experts; ++redundant) {
          RedundantExperts wanted{redundant, ExpertCounts(4)};
          for (size_t layer = 1; layer < 4; ++layer) {
            for (int64_t e = 0; e < experts; ++e) wanted.counts[layer].push_back(random() % 6);
          }
          ASSERT_TRUE(wanted.Check(config, layout).ok());
          const ExpertPlacement placement(config, layout, wanted);
          for (int64_t layer = 1; layer < 4; ++layer) {
            const std::vector<int64_t>& counts = wanted.counts[static_cast<size_t>(layer)];
            int64_t twice = 0;
            int64_t coldest_copied = INT64_MAX;
            int64_t hottest_single = -1;
            for (int32_t e = 0; e < experts; ++e) {
              const int held = CopiesOf(placement, layout, layer, e);
              ASSERT_TRUE(held == 1 || held == 2) << held;
              int64_t& bound = held == 2 ? coldest_copied : hottest_single;
              const int64_t count = counts[static_cast<size_t>(e)];
              bound = held == 2 ? std::min(bound, count) : std::max(bound, count);
              twice += held == 2;
              std::map<int, int> served;  // homes, by part
              for (int home = 0; home < layout.world(); ++home) {
                const int part = placement.PartOf(layer, e, home);
                ASSERT_TRUE(placement.Holds(part, layer, e));
                // Who holds it computes it.
                const int own = layout.ExpertPartOf(home);
                ASSERT_TRUE(part == own || !placement.Holds(own, layer, e));
                ++served[part];
              }
              if (held == 2 && ep % 2 == 0) {
                for (const auto& [part, homes] : served) EXPECT_EQ(homes, layout.world() / 2);
              }
            }
            EXPECT_EQ(twice, redundant);
            EXPECT_GE(coldest_copied, hottest_single);  // holds too where there are none of a kind
          }
        }
      }
    }
  }
}

TEST(ExpertPlacement, ACopyGoesToThePartWithTheLeastLoadAndTakesHalfOfItsExperts) {
  const Layout layout = Parts(4, 1);
  // Parts have 2 experts each and loads 100 + 40, 30 + 10, 20 + 0, 25 + 0.
  RedundantExperts redundant{2, {{}, {100, 40, 30, 10, 20, 0, 25, 0}}};
  const ExpertPlacement placement(Model(8, 2), layout, redundant);
  EXPECT_TRUE(placement.Holds(2, 1, 0));  // the hottest: 50 leave part 0 for part 2, of load 20
  EXPECT_TRUE(placement.Holds(3, 1, 1));  // then part 3 has the least, 25
  // The other homes take the two in turn, so that each serves two of four.
  EXPECT_EQ(placement.PartOf(1, 0, /*home=*/0), 0);
  EXPECT_EQ(placement.PartOf(1, 0, /*home=*/1), 0);
  EXPECT_EQ(placement.PartOf(1, 0, /*home=*/2), 2);
  EXPECT_EQ(placement.PartOf(1, 0, /*home=*/3), 2);
  EXPECT_EQ(placement.PartOf(1, 1, /*home=*/1), 0);
  EXPECT_EQ(placement.PartOf(1, 1, /*home=*/2), 3);
}

TEST(ExpertPlacement, WithoutCountsTheFirstExpertsOfEveryLayerAreCopied) {
  const Layout layout = Parts(2, 2);
  const ExpertPlacement placement(Model(8, 3), layout, {3, {}});
  for (int64_t layer : {1, 2}) {
    for (int32_t e = 0; e < 8; ++e) {
      EXPECT_EQ(CopiesOf(placement, layout, layer, e), e < 3 ? 2 : 1);
    }
  }
}

TEST(ExpertPlacement, ImpossibleCopiesAreRefusedByTheirFlag) {
  const ModelConfig config = Model(8, 2);
  const Layout two = Parts(2, 1);
  const auto message = [&](const RedundantExperts& redundant, const Layout& layout) {
    return redundant.Check(config, layout).message();
  };
  EXPECT_EQ(message({9, {}}, two),
            "--ep-num-redundant-experts is 9; expected 0 to n_routed_experts = 8");
  EXPECT_EQ(message({-1, {}}, two),
            "--ep-num-redundant-experts is -1; expected 0 to n_routed_experts = 8");
  EXPECT_EQ(message({1, {}}, Parts(1, 4)),
            "--ep-num-redundant-experts is 1: it needs experts in several parts (--ep-size above "
            "1)");
  EXPECT_EQ(message({1, {{}}}, two), "--init-expert-location has 1 layers; the model has 2");
  EXPECT_EQ(message({1, {{}, {1, 2}}}, two),
            "--init-expert-location: layer 1 has 2 experts; the model's has 8");
  EXPECT_EQ(message({1, {{1}, {1, 1, 1, 1, 1, 1, 1, 1}}}, two),
            "--init-expert-location: layer 0 has 1 experts; the model's has 0");
  EXPECT_TRUE(RedundantExperts({8, {}}).Check(config, two).ok());
  EXPECT_TRUE(RedundantExperts({0, {}}).Check(config, Parts(1, 1)).ok());
}

}  // namespace
}  // namespace causeway
