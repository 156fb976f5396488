#include "router/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace causeway {
namespace {

// What the tree stands for, done by looking at every text.
size_t LongestCommon(const std::vector<std::string>& texts, const std::string& text) {
  size_t best = 0;
  for (const std::string& one : texts) {
    const size_t most = std::min(one.size(), text.size());
    size_t same = 0;
    while (same < most && one[same] == text[same]) ++same;
    best = std::max(best, same);
  }
  return best;
}

TEST(PrefixTree, MatchesAreThoseOfAPlainListOfTexts) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    PrefixTree tree(int64_t{1} << 30);
    std::vector<std::string> texts;
    for (int i = 0; i < 200; ++i) {
      // Few letters and shared beginnings: edges are cut everywhere.
      std::string text;
      if (!texts.empty() && random() % 2 == 0) {
        text = texts[random() % texts.size()];
        text.resize(random() % (text.size() + 1));
      }
      const size_t more = random() % 12;
      for (size_t k = 0; k < more; ++k) text += static_cast<char>('a' + random() % 3);
      ASSERT_EQ(tree.Match(text), LongestCommon(texts, text)) << text;
      tree.Insert(text);
      texts.push_back(text);
      ASSERT_EQ(tree.Match(text), text.size()) << text;
    }
  }
}

TEST(PrefixTree, ItsSizeStaysWithinTheLimit) {
  constexpr int64_t kLimit = 20'000;
  std::mt19937 random(7);
  PrefixTree tree(kLimit);
  for (int i = 0; i < 5'000; ++i) {
    std::string text(random() % 400, ' ');
    for (char& c : text) c = static_cast<char>(random() % 4);
    tree.Insert(text);
    ASSERT_LE(tree.size(), kLimit);
    ASSERT_EQ(tree.Match(text), text.size());  // the newest is never the one that goes
  }
  EXPECT_GT(tree.size(), kLimit / 2);
}

TEST(PrefixTree, WhatIsUsedStaysAndWhatIsNotGoes) {
  PrefixTree tree(10 * (PrefixTree::kNodeSize + 100));
  const std::string kept = "kept" + std::string(96, 'k');
  const std::string lost = "lost" + std::string(96, 'l');
  tree.Insert(lost);
  tree.Insert(kept);
  for (int i = 0; i < 100; ++i) {
    std::string other = std::to_string(1000 + i) + std::string(96, 'x');
    tree.Insert(other);
    EXPECT_EQ(tree.Match(kept), kept.size());
  }
  EXPECT_EQ(tree.Match(lost), 0U);
}

TEST(PrefixTree, ATextBeyondTheLimitDoesNotEmptyTheTree) {
  PrefixTree tree(10'000);
  tree.Insert("a short one");
  tree.Insert(std::string(1 << 20, 'z'));
  EXPECT_LE(tree.size(), 10'000);
  EXPECT_EQ(tree.Match("a short one"), 11U);
  EXPECT_GT(tree.Match(std::string(1 << 20, 'z')), 4'000U);
}

TEST(PrefixTree, APathOfManyNodesCanBeFreed) {
  auto tree = std::make_unique<PrefixTree>(int64_t{1} << 30);
  std::string text;
  for (int i = 0; i < 20'000; ++i) {
    text += 'a';
    tree->Insert(text);
  }
  EXPECT_EQ(tree->Match(text), text.size());
  tree.reset();
}

}  // namespace
}  // namespace causeway
