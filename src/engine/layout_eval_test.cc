#include "engine/layout_eval.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace causeway {
namespace {

constexpr int64_t kVocab = 10;
const std::vector<std::vector<int32_t>> kPrompts = {{1}, {2, 3, 4}, {5, 6}};

std::vector<float> SomeLogits() {
  std::vector<float> logits;
  for (int i = 0; i < 6 * kVocab; ++i) logits.push_back(static_cast<float>(i) - 20.0f);
  return logits;
}

std::vector<LayoutCase> SomeCases() {
  std::vector<LayoutCase> cases;
  for (int cp : {1, 2, 3, 4}) {
    LayoutCase one;
    one.layout.cp = cp;
    one.chunk = 7 * cp;
    cases.push_back(one);
  }
  return cases;
}

TEST(LayoutEval, EqualBitsAreCountedCaseByCase) {
  int64_t calls = 0;
  const auto result = CompareCases(
      SomeCases(), kPrompts, SomeLogits(),
      [](const LayoutCase&) -> StatusOr<std::vector<float>> { return SomeLogits(); },
      [&](const EvalResult& so_far) { EXPECT_EQ(so_far.ran, ++calls); });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(result->ran, 4);
  EXPECT_EQ(result->equal, 4);
  EXPECT_FALSE(result->first.has_value());
}

TEST(LayoutEval, EveryGroupGetsTheSamePartOfASampleAsFarAsItHasCases) {
  const auto group = [](int hosts, int64_t size) {
    std::vector<LayoutCase> cases(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      cases[static_cast<size_t>(i)] = {.layout = {.hosts = hosts}, .chunk = i};
    }
    return cases;
  };
  const auto sizes = [&](const std::vector<int64_t>& of_groups, int64_t count) {
    std::vector<std::vector<LayoutCase>> groups;
    for (size_t i = 0; i < of_groups.size(); ++i) {
      groups.push_back(group(1 << i, of_groups[i]));
    }
    std::vector<int64_t> out;
    const auto sample = SampleGroups(groups, count, 5);
    for (size_t i = 0; i < sample.size(); ++i) {
      out.push_back(static_cast<int64_t>(sample[i].size()));
      std::set<int64_t> different;
      for (const LayoutCase& one : sample[i]) {
        EXPECT_EQ(one.layout.hosts, 1 << i);
        different.insert(one.chunk);
      }
      EXPECT_EQ(different.size(), sample[i].size()) << "a case is drawn once at most";
    }
    return out;
  };
  EXPECT_EQ(sizes({1000, 500, 100}, 30), (std::vector<int64_t>{10, 10, 10}));
  EXPECT_EQ(sizes({1000, 500, 100}, 200), (std::vector<int64_t>{67, 67, 66}));
  EXPECT_EQ(sizes({1000, 500, 10}, 210), (std::vector<int64_t>{100, 100, 10}));
  EXPECT_EQ(sizes({20, 5, 10}, 100), (std::vector<int64_t>{20, 5, 10}));
  EXPECT_EQ(sizes({20}, 7), (std::vector<int64_t>{7}));
}

TEST(LayoutEval, TheSeedSaysWhichCasesOfAGroupAreDrawn) {
  std::vector<LayoutCase> cases(200);
  for (size_t i = 0; i < cases.size(); ++i) cases[i].chunk = static_cast<int64_t>(i);
  const auto drawn = [&](uint64_t seed) {
    std::vector<int64_t> chunks;
    for (const auto& group : SampleGroups({cases, cases}, 20, seed)) {
      for (const LayoutCase& one : group) chunks.push_back(one.chunk);
    }
    return chunks;
  };
  EXPECT_EQ(drawn(1), drawn(1));
  EXPECT_NE(drawn(1), drawn(2));
}

TEST(LayoutEval, OneOtherBitIsFoundAndNamedWithItsPlaceAndFlags) {
  const auto result = CompareCases(
      SomeCases(), kPrompts, SomeLogits(),
      [](const LayoutCase& one) -> StatusOr<std::vector<float>> {
        auto logits = SomeLogits();
        // Row 3 is position 2 of the second prompt; the value at 20 is 0.
        if (one.layout.cp == 2) logits[3 * kVocab + 7] = std::nextafter(17.0f, 18.0f);
        if (one.layout.cp == 4) logits[20] = -0.0f;
        return logits;
      },
      nullptr);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->ran, 4);
  EXPECT_EQ(result->equal, 2);
  ASSERT_TRUE(result->first.has_value());
  EXPECT_EQ(result->first->one.layout.cp, 2);
  EXPECT_EQ(result->first->prompt, 1);
  EXPECT_EQ(result->first->position, 2);
  EXPECT_EQ(result->first->id, 7);
  EXPECT_EQ(result->first->ToString(),
            "--tp 2 --cp-size 2 --dp-size 1 --ep-size 1 --moe-a2a-backend none --cp-partition "
            "balanced --threads-per-rank 1 --chunked-prefill-size 14: prompt 1, position 2, id 7: "
            "17.0000019, one rank 17");
}

TEST(LayoutEval, AnErrorEndsTheRunAndNamesTheCase) {
  const auto result = CompareCases(
      SomeCases(), kPrompts, SomeLogits(),
      [](const LayoutCase& one) -> StatusOr<std::vector<float>> {
        if (one.layout.cp == 3) return InternalError("rank 2 has stopped");
        return SomeLogits();
      },
      nullptr);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("--cp-size 3"), std::string::npos);
  EXPECT_NE(result.status().message().find("rank 2 has stopped"), std::string::npos);
}

}  // namespace
}  // namespace causeway
