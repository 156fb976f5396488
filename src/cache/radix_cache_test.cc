// The prefix cache against a reference that knows only a set of prefixes: after every operation
// both hold the same, and every page of the pool has exactly one owner.
#include "cache/radix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "cache/page_pool.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261126;
using Ids = std::vector<int32_t>;

// A cache, its pool, and sequences as the engine has them, beside the reference.
class Model {
 public:
  Model(int64_t page_tokens, int64_t capacity)
      : page_tokens_(page_tokens), pool_(capacity), tree_(page_tokens) {}

  size_t live() const { return live_.size(); }
  const RadixCache& tree() const { return tree_; }
  int64_t free() const { return pool_.available(); }

  // A sequence with these ids: locks what is cached, and takes pages for the rest, for which
  // others are evicted if they must. False, and nothing but the lock's use has changed, if there
  // are too few.
  bool Begin(const std::string& space, const Ids& ids) {
    const RadixKey key{space, ids};
    const int64_t expected = CachedPrefix(space, ids);
    EXPECT_EQ(tree_.Match(key), expected);
    Live sequence{.space = space, .ids = ids, .pages = {7777}, .shared = 0, .held = nullptr};
    sequence.held = tree_.Lock(key, sequence.pages);
    EXPECT_EQ(sequence.pages.front(), 7777) << "Lock appends";
    sequence.pages.erase(sequence.pages.begin());
    sequence.shared = static_cast<int64_t>(sequence.pages.size());
    EXPECT_EQ(sequence.shared, expected);
    EXPECT_EQ(sequence.held == nullptr, expected == 0);
    for (int64_t i = 0; i < expected; ++i) {
      EXPECT_EQ(sequence.pages[static_cast<size_t>(i)], cached_.at(PrefixOf(sequence, i + 1)));
    }
    live_.push_back(sequence);
    const int64_t needed =
        (static_cast<int64_t>(ids.size()) + page_tokens_ - 1) / page_tokens_ - expected;
    if (needed > pool_.available()) Evict(needed - pool_.available());
    if (needed > pool_.available()) {
      End(live_.size() - 1, 0);
      return false;
    }
    EXPECT_TRUE(pool_.Allocate(needed, live_.back().pages).ok());
    return true;
  }

  // Leaves the first `kept` pages to the tree, and ends the sequence.
  void End(size_t index, int64_t kept) {
    Publish(index, kept);
    Live sequence = live_[index];
    live_.erase(live_.begin() + static_cast<int64_t>(index));
    tree_.Unlock(sequence.held);
    std::vector<int32_t> own(sequence.pages.begin() + sequence.shared, sequence.pages.end());
    pool_.Free(own);
  }

  // The same for a sequence that goes on: it holds the tree's pages instead of its own.
  void Publish(size_t index, int64_t kept) {
    Live& sequence = live_[index];
    if (kept <= sequence.shared) return;
    const RadixKey key{sequence.space, sequence.ids};
    const std::vector<int32_t> given(sequence.pages.begin(), sequence.pages.begin() + kept);
    std::vector<int32_t> duplicates = tree_.Insert(key, given);
    std::set<int32_t> expected;
    for (int64_t i = 0; i < kept; ++i) {
      const int32_t page = given[static_cast<size_t>(i)];
      const auto [it, added] = cached_.emplace(PrefixOf(sequence, i + 1), page);
      if (it->second != page) expected.insert(page);
    }
    EXPECT_EQ(std::set<int32_t>(duplicates.begin(), duplicates.end()), expected);
    EXPECT_EQ(duplicates.size(), expected.size());
    std::vector<int32_t> pages;
    const auto whole = static_cast<size_t>(kept * page_tokens_);
    RadixNode* held = tree_.Lock({sequence.space, std::span(sequence.ids).first(whole)}, pages);
    EXPECT_EQ(static_cast<int64_t>(pages.size()), kept);
    tree_.Unlock(sequence.held);
    sequence.held = held;
    std::copy(pages.begin(), pages.end(), sequence.pages.begin());
    sequence.shared = kept;
    pool_.Free(duplicates);
  }

  void Evict(int64_t count) { Free(tree_.Evict(count), count); }
  void Clear() { Free(tree_.Clear(), tree_.pages() + pool_.capacity()); }

  // Whole pages of a sequence's ids.
  int64_t WholePages(size_t index) const {
    return static_cast<int64_t>(live_[index].ids.size()) / page_tokens_;
  }

  // False, with failures noted, if anything is not as it must be.
  bool Check() const {
    std::map<Prefix, int32_t> found;
    std::set<Prefix> locked;
    std::map<int32_t, int> owners;
    for (const RadixEntry& entry : tree_.Entries()) {
      EXPECT_TRUE(found.emplace(Prefix{entry.space, entry.ids}, entry.page).second);
      if (entry.locked) locked.insert({entry.space, entry.ids});
      ++owners[entry.page];
    }
    EXPECT_EQ(found, cached_);
    std::set<Prefix> held;
    for (const Live& sequence : live_) {
      for (size_t i = 0; i < sequence.pages.size(); ++i) {
        const auto pages = static_cast<int64_t>(i) + 1;
        if (pages > sequence.shared) {
          ++owners[sequence.pages[i]];
          continue;
        }
        // In use: it must be there, and be the same page.
        held.insert(PrefixOf(sequence, pages));
        const auto it = cached_.find(PrefixOf(sequence, pages));
        EXPECT_TRUE(it != cached_.end() && it->second == sequence.pages[i]);
      }
    }
    EXPECT_EQ(locked, held);
    EXPECT_EQ(tree_.locked_pages(), static_cast<int64_t>(held.size()));
    for (const auto& [page, count] : owners) EXPECT_EQ(count, 1) << "page " << page;
    EXPECT_EQ(static_cast<int64_t>(owners.size()) + pool_.available(), pool_.capacity());
    return !testing::Test::HasFailure();
  }

 private:
  using Prefix = std::pair<std::string, Ids>;
  struct Live {
    std::string space;
    Ids ids;
    std::vector<int32_t> pages;
    int64_t shared;
    RadixNode* held;
  };

  Prefix PrefixOf(const Live& sequence, int64_t pages) const {
    return {sequence.space, Ids(sequence.ids.begin(), sequence.ids.begin() + pages * page_tokens_)};
  }
  int64_t CachedPrefix(const std::string& space, const Ids& ids) const {
    int64_t pages = 0;
    for (auto end = page_tokens_; end <= static_cast<int64_t>(ids.size()); end += page_tokens_) {
      if (!cached_.contains({space, Ids(ids.begin(), ids.begin() + end)})) break;
      ++pages;
    }
    return pages;
  }

  // What eviction gave: as many as there are and were asked for, none of them locked, and nothing
  // stays whose beginning is gone.
  void Free(std::vector<int32_t> evicted, int64_t asked) {
    std::set<Prefix> held;
    for (const Live& sequence : live_) {
      for (int64_t i = 1; i <= sequence.shared; ++i) held.insert(PrefixOf(sequence, i));
    }
    const auto evictable = static_cast<int64_t>(cached_.size() - held.size());
    EXPECT_EQ(static_cast<int64_t>(evicted.size()), std::min(asked, evictable));
    const std::set<int32_t> pages(evicted.begin(), evicted.end());
    EXPECT_EQ(pages.size(), evicted.size());
    for (auto it = cached_.begin(); it != cached_.end();) {
      if (pages.contains(it->second)) {
        EXPECT_FALSE(held.contains(it->first)) << "evicted in use";
        it = cached_.erase(it);
      } else {
        ++it;
      }
    }
    for (const auto& [prefix, page] : cached_) {
      EXPECT_EQ(CachedPrefix(prefix.first, prefix.second) * page_tokens_,
                static_cast<int64_t>(prefix.second.size()));
    }
    pool_.Free(evicted);
  }

  const int64_t page_tokens_;
  PagePool pool_;
  RadixCache tree_;
  std::vector<Live> live_;
  std::map<Prefix, int32_t> cached_;  // the reference
};

// Every sequence of operations of this length over two ids: three of two or more pages, with
// common beginnings, and every way to end them.
TEST(RadixCache, EverySequenceOfSixOperationsKeepsEveryPageInOnePlace) {
  const std::vector<Ids> keys = {{1}, {1, 2}, {1, 1}, {1, 2, 1}, {2, 1}};
  struct Operation {
    std::string name;
    std::function<bool(Model&)> run;  // false: not possible here
  };
  std::vector<Operation> operations;
  for (const Ids& key : keys) {
    operations.push_back({Text("begin ", testing::PrintToString(key)),
                          [key](Model& m) { return m.live() < 3 && m.Begin("", key); }});
  }
  for (const bool first : {true, false}) {
    const auto index = [first](const Model& m) { return first ? 0 : m.live() - 1; };
    const auto any = [first](const Model& m) { return m.live() > (first ? 0u : 1u); };
    operations.push_back({Text(first ? "first" : "last", " finishes"), [=](Model& m) {
                            if (!any(m)) return false;
                            m.End(index(m), m.WholePages(index(m)));
                            return true;
                          }});
    operations.push_back({Text(first ? "first" : "last", " keeps one page"), [=](Model& m) {
                            if (!any(m)) return false;
                            m.End(index(m), 1);
                            return true;
                          }});
    operations.push_back({Text(first ? "first" : "last", " publishes"), [=](Model& m) {
                            if (!any(m)) return false;
                            m.Publish(index(m), m.WholePages(index(m)));
                            return true;
                          }});
  }
  for (const int64_t count : {1, 2}) {
    operations.push_back({Text("evict ", count), [count](Model& m) {
                            if (m.tree().pages() == 0) return false;
                            m.Evict(count);
                            return true;
                          }});
  }
  constexpr size_t kLength = 6;
  int64_t sequences = 0;
  std::vector<size_t> chosen(1, 0);
  // Depth first; every step runs the whole sequence anew, as a model can't be copied.
  while (!chosen.empty()) {
    Model model(1, 5);
    bool possible = true;
    for (const size_t operation : chosen) possible = possible && operations[operation].run(model);
    if (possible) {
      ++sequences;
      if (!model.Check()) {
        std::string names;
        for (const size_t operation : chosen) names += "; " + operations[operation].name;
        FAIL() << names;
      }
    }
    if (possible && chosen.size() < kLength) {
      chosen.push_back(0);
      continue;
    }
    while (!chosen.empty() && ++chosen.back() == operations.size()) chosen.pop_back();
  }
  std::printf("%lld sequences of operations\n", static_cast<long long>(sequences));
  EXPECT_GT(sequences, 20'000);
}

TEST(RadixCache, ALongRandomRunEndsWithEveryPageFree) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  const auto below = [&](size_t limit) { return random() % limit; };
  for (const int64_t page_tokens : {1, 2, 3, 64}) {
    const auto capacity = static_cast<int64_t>(6 + below(30));
    SCOPED_TRACE(Text("pages of ", page_tokens, ", ", capacity, " of them"));
    Model model(page_tokens, capacity);
    int64_t refused = 0;
    for (int step = 0; step < 4000; ++step) {
      const size_t live = model.live();
      const size_t what = below(10);
      if (what < 4 && live < 6) {
        Ids ids;
        // Whole pages of one id or another, so that beginnings are often equal, and odd ends.
        for (size_t pages = below(8); pages > 0; --pages) {
          ids.resize(ids.size() + static_cast<size_t>(page_tokens), static_cast<int32_t>(below(2)));
          if (below(6) == 0) ids.back() = 5;
        }
        ids.resize(ids.size() + below(static_cast<size_t>(page_tokens)), 3);
        if (ids.empty()) ids = {1};
        refused += model.Begin(below(4) == 0 ? "salt" : "", ids) ? 0 : 1;
      } else if (what < 7 && live > 0) {
        const size_t index = below(live);
        const int64_t whole = model.WholePages(index);
        model.End(index, below(3) == 0 ? static_cast<int64_t>(below(whole + 1)) : whole);
      } else if (what < 9 && live > 0) {
        const size_t index = below(live);
        model.Publish(index, static_cast<int64_t>(below(model.WholePages(index) + 1)));
      } else if (below(20) == 0) {
        model.Clear();
      } else {
        model.Evict(static_cast<int64_t>(below(4)));
      }
      ASSERT_TRUE(model.Check()) << "step " << step;
    }
    EXPECT_GT(refused, 0) << "pages were never short";
    while (model.live() > 0) model.End(0, model.WholePages(0));
    model.Clear();
    EXPECT_TRUE(model.Check());
    EXPECT_EQ(model.tree().pages(), 0);
    EXPECT_EQ(model.free(), capacity);
  }
}

// A tree of pages of two ids, and what it does not take.
class RadixCacheTest : public testing::Test {
 protected:
  std::vector<int32_t> Insert(const Ids& ids, const std::vector<int32_t>& pages,
                              const char* space = "") {
    return tree_.Insert({space, ids}, pages);
  }
  std::vector<int32_t> Found(const Ids& ids, const char* space = "") {
    std::vector<int32_t> pages;
    tree_.Unlock(tree_.Lock({space, ids}, pages));
    return pages;
  }
  RadixCache tree_{2};
};

using Pages = std::vector<int32_t>;

TEST_F(RadixCacheTest, OnlyWholePagesAreFound) {
  EXPECT_EQ(Insert({1, 2, 3, 4, 5, 6}, {10, 11, 12}), Pages());
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7}), (Pages{10, 11, 12}));
  EXPECT_EQ(Found({1, 2, 3, 4, 5}), (Pages{10, 11}));
  EXPECT_EQ(Found({1, 2, 3, 9}), Pages{10});
  EXPECT_EQ(Found({1, 9}), Pages());
  EXPECT_EQ(Found({1}), Pages());
  EXPECT_EQ(Found({}), Pages());
  EXPECT_EQ(tree_.counters().lookups, 6);
  EXPECT_EQ(tree_.counters().hits, 3);
  EXPECT_EQ(tree_.counters().hit_pages, 6);
  EXPECT_EQ(tree_.counters().inserted_pages, 3);
}

TEST_F(RadixCacheTest, PagesThatAreThereAlreadyAreGivenBack) {
  EXPECT_EQ(Insert({1, 2, 3, 4}, {10, 11}), Pages());
  EXPECT_EQ(Insert({1, 2, 3, 4, 5, 6}, {10, 21, 22}), Pages{21});
  EXPECT_EQ(Insert({1, 2, 7, 8}, {30, 31}), Pages{30});
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6}), (Pages{10, 11, 22}));
  EXPECT_EQ(Found({1, 2, 7, 8}), (Pages{10, 31}));
  EXPECT_EQ(tree_.pages(), 4);
}

TEST_F(RadixCacheTest, SpacesShareNothing) {
  EXPECT_EQ(Insert({1, 2}, {10}, "a"), Pages());
  EXPECT_EQ(Insert({1, 2}, {11}, "b"), Pages());
  EXPECT_EQ(Found({1, 2}, "a"), Pages{10});
  EXPECT_EQ(Found({1, 2}, "b"), Pages{11});
  EXPECT_EQ(Found({1, 2}), Pages());
}

TEST_F(RadixCacheTest, TheLeastRecentlyUsedEndsGoFirstAndWhatIsLockedStays) {
  EXPECT_EQ(Insert({1, 2, 3, 4}, {10, 11}), Pages());
  EXPECT_EQ(Insert({5, 6}, {20}), Pages());
  EXPECT_EQ(Insert({1, 2, 7, 8}, {10, 12}), Pages());
  EXPECT_EQ(Found({1, 2, 3, 4}), (Pages{10, 11}));
  EXPECT_EQ(tree_.Evict(2), (Pages{20, 12}));
  Pages pages;
  RadixNode* held = tree_.Lock({"", Ids{1, 2}}, pages);
  EXPECT_EQ(tree_.locked_pages(), 1);
  EXPECT_EQ(tree_.evictable_pages(), 1);
  EXPECT_EQ(tree_.Evict(9), Pages{11});
  EXPECT_EQ(tree_.Clear(), Pages());
  EXPECT_EQ(Found({1, 2}), Pages{10}) << "a flush leaves what is in use";
  tree_.Unlock(held);
  EXPECT_EQ(tree_.Clear(), Pages{10});
  EXPECT_EQ(tree_.pages(), 0);
  EXPECT_EQ(tree_.counters().evicted_pages, 4);
}

TEST_F(RadixCacheTest, ALongRunLosesItsEndFirst) {
  EXPECT_EQ(Insert({1, 2, 3, 4, 5, 6}, {10, 11, 12}), Pages());
  EXPECT_EQ(tree_.Evict(1), Pages{12});
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6}), (Pages{10, 11}));
  EXPECT_EQ(Insert({1, 2, 3, 4, 5, 6}, {30, 31, 32}), (Pages{31, 30}));
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6}), (Pages{10, 11, 32}));
}

TEST_F(RadixCacheTest, AHoldOutlivesTheSplitOfItsRun) {
  EXPECT_EQ(Insert({1, 2, 3, 4, 5, 6}, {10, 11, 12}), Pages());
  Pages pages;
  RadixNode* all = tree_.Lock({"", Ids{1, 2, 3, 4, 5, 6}}, pages);
  RadixNode* some = tree_.Lock({"", Ids{1, 2}}, pages);
  EXPECT_EQ(pages, (Pages{10, 11, 12, 10}));
  EXPECT_EQ(tree_.Clear(), Pages());
  tree_.Unlock(all);
  EXPECT_EQ(tree_.locked_pages(), 1);
  EXPECT_EQ(tree_.Clear(), (Pages{12, 11}));
  tree_.Unlock(some);
  EXPECT_EQ(tree_.Clear(), Pages{10});
}

TEST_F(RadixCacheTest, APageCannotBeInsertedInTwoPlaces) {
  EXPECT_EQ(Insert({1, 2}, {10}), Pages());
  EXPECT_DEATH((void)Insert({3, 4}, {10}), "page 10 is in the tree already");
  EXPECT_DEATH((void)Insert({3}, {11}), "check failed");
}

}  // namespace
}  // namespace causeway
