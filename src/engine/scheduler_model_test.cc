// The scheduler with its prefix cache against a model of what the pages hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "engine/scheduler.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
using Stage = Sequence::Stage;

// `first` is the first token, and each one after it is one more.
std::unique_ptr<Sequence> MakeSequence(const std::string& id, int64_t prompt, int64_t answer,
                                       int32_t first) {
  auto request = std::make_shared<Request>();
  request->id = id;
  for (int64_t i = 0; i < prompt; ++i) request->prompt.push_back(first + static_cast<int32_t>(i));
  request->sampling.max_new_tokens = answer;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  return sequence;
}

// The cache of each place, where every token leaves a value that depends on all before it and on
// how each was computed: whoever reads a wrong page finds a wrong value.
class Keys {
 public:
  // What an extend reads must be what the sequence would have written alone; then it writes.
  // Returns the value of the last token.
  uint64_t Run(const Extend& e, const Sequence& sequence, const SharingRules& rules) {
    auto& cells =
        places_[rules.places.empty() ? std::string() : rules.places[static_cast<size_t>(e.dp)]];
    uint64_t value = 1;
    for (int64_t p = 0; p < e.end(); ++p) {
      const bool answer = p >= sequence.prompt_tokens();
      const int32_t token = answer
                                ? sequence.output[static_cast<size_t>(p - sequence.prompt_tokens())]
                                : sequence.request->prompt[static_cast<size_t>(p)];
      value = Mix(value, token, answer && p < rules.decode_differs_below);
      const auto at =
          static_cast<size_t>(e.pages[static_cast<size_t>(p / kPage)] * kPage + p % kPage);
      if (cells.size() <= at) cells.resize(at + 1);
      uint64_t& cell = cells[at];
      if (p < e.begin) {
        EXPECT_EQ(cell, value) << sequence.request->id << " reads another's key at " << p;
        if (cell != value) return value;
      } else {
        EXPECT_EQ(e.tokens[static_cast<size_t>(p - e.begin)], token);
        EXPECT_EQ(e.decode, answer);
        cell = value;
      }
    }
    return value;
  }

  static int32_t Sampled(uint64_t value) { return static_cast<int32_t>(value >> 20) & 3; }
  static uint64_t Mix(uint64_t value, int32_t token, bool decoded) {
    value ^= static_cast<uint64_t>(token) * 2 + (decoded ? 1 : 0);
    value *= 0x9e3779b97f4a7c15u;
    return value ^ (value >> 29);
  }

 private:
  std::map<std::string, std::vector<uint64_t>> places_;  // [page, 64]
};

// What the request gets if it is the only one.
std::vector<int32_t> AnswerAlone(const Request& request, int64_t count, int64_t differs_below) {
  uint64_t value = 1;
  for (const int32_t token : request.prompt) value = Keys::Mix(value, token, false);
  std::vector<int32_t> answer;
  auto p = static_cast<int64_t>(request.prompt.size());
  while (static_cast<int64_t>(answer.size()) < count) {
    answer.push_back(Keys::Sampled(value));
    value = Keys::Mix(value, answer.back(), p++ < differs_below);
  }
  return answer;
}

// Requests of all sizes come, go, are retracted and cancelled at random; after every batch the
// state must be consistent.
TEST(SchedulerModel, ALongRandomRunLosesAndSharesNoPageByMistakeAndServesEveryRequestInOrder) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(limit));
  };
  int64_t retractions = 0;
  int64_t hits = 0;
  for (int run = 0; run < 36; ++run) {
    const int64_t capacity = 6 + below(30);
    const int64_t chunk = below(3) == 0 ? -1 : 1 + below(200);
    const int64_t most = 1 + below(8);
    const int groups = 1 + run % 4;
    SharingRules rules;
    rules.enabled = run % 6 != 5;
    rules.decode_differs_below = std::vector<int64_t>{0, 100, INT64_MAX}[below(3)];
    if (run % 3 == 0) {
      for (int g = 0; g < groups; ++g) rules.places.push_back(g < 2 ? "here" : "there");
    }
    const auto policy = run % 5 == 4 ? SchedulePolicy::kLpm : SchedulePolicy::kFcfs;
    const auto conservativeness = static_cast<double>(below(3));
    SCOPED_TRACE(Text("run ", run, ": ", capacity, " pages, chunk ", chunk, ", ", most,
                      " running, ", groups, " groups, decode differs below ",
                      rules.decode_differs_below, ", conservativeness ", conservativeness));
    PagePool pool(capacity);
    Scheduler scheduler(pool,
                        {.chunked_prefill_size = chunk,
                         .max_running_requests = most,
                         .schedule_conservativeness = conservativeness,
                         .policy = policy},
                        groups, rules);
    Keys keys;
    std::map<std::string, int32_t> group_of;  // of running sequences
    std::vector<std::vector<int32_t>> texts;  // prompts with their answers
    int64_t submitted = 0;
    int64_t ended = 0;
    int64_t last_admitted = -1;  // requests are numbered; admission must follow the numbers
    const auto end = [&](Sequence* sequence) {
      const Request& request = *sequence->request;
      EXPECT_EQ(sequence->output,
                AnswerAlone(request, static_cast<int64_t>(sequence->output.size()),
                            rules.decode_differs_below))
          << "request " << request.id << ", retracted " << sequence->retractions << " times";
      texts.push_back(request.prompt);
      texts.back().insert(texts.back().end(), sequence->output.begin(), sequence->output.end());
      scheduler.Remove(sequence);
      ++ended;
    };
    for (int step = 0; step < 20000 && (submitted < 80 || !scheduler.idle()); ++step) {
      while (submitted < 80 && below(3) == 0) {
        const int64_t tokens = 2 + below(capacity * kPage - 1);
        const int64_t answer = 1 + below(std::min<int64_t>(tokens - 1, 150));
        auto sequence = MakeSequence(std::to_string(submitted++), tokens - answer, answer,
                                     static_cast<int32_t>(below(3)));
        std::vector<int32_t>& prompt = sequence->request->prompt;
        if (!texts.empty() && below(2) == 0) {  // goes on from an earlier one
          const auto& text = texts[static_cast<size_t>(below(static_cast<int64_t>(texts.size())))];
          std::copy_n(text.begin(), std::min(prompt.size(), text.size()), prompt.begin());
        }
        scheduler.Add(std::move(sequence));
      }
      if (below(30) == 0 && !scheduler.idle()) {
        const auto all = scheduler.All();
        end(all[static_cast<size_t>(below(static_cast<int64_t>(all.size())))]);
      }
      if (below(200) == 0) scheduler.Flush();
      std::vector<Sequence*> owners;
      const Batch batch = scheduler.Next(step + 1, owners);
      ASSERT_EQ(batch.extends.empty(), scheduler.idle());

      // Every page is free, in the tree, or one sequence's own; who reads the tree's has them
      // locked; waiting sequences have none, running ones all they need.
      std::map<int32_t, int> owned;
      std::set<int32_t> in_tree;
      std::set<int32_t> locked;
      for (const RadixEntry& entry : scheduler.tree().Entries()) {
        in_tree.insert(entry.page);
        if (entry.locked) locked.insert(entry.page);
        ++owned[entry.page];
      }
      std::set<Sequence*> decoding;
      std::set<int32_t> read;
      for (Sequence* sequence : scheduler.All()) {
        const bool waits = sequence->stage == Stage::kWaiting;
        const auto pages = static_cast<int64_t>(sequence->pages.size());
        ASSERT_EQ(pages, waits ? 0 : (sequence->tokens() + kPage - 1) / kPage);
        ASSERT_LE(sequence->shared, pages);
        for (int64_t i = 0; i < pages; ++i) {
          const int32_t page = sequence->pages[static_cast<size_t>(i)];
          if (i < sequence->shared) {
            ASSERT_TRUE(locked.contains(page));
            read.insert(page);
          } else {
            ++owned[page];
          }
        }
        if (sequence->stage == Stage::kDecode) decoding.insert(sequence);
        if (waits) {
          group_of.erase(sequence->request->id);
        } else if (sequence->admitted_ns == step + 1) {
          const int64_t number = std::stoll(sequence->request->id);
          ASSERT_TRUE(policy == SchedulePolicy::kLpm || number > last_admitted);
          last_admitted = std::max(last_admitted, number);
        }
      }
      ASSERT_EQ(read, locked) << "pages are locked that nobody reads";
      for (const auto& [page, owners_of_it] : owned) ASSERT_EQ(owners_of_it, 1) << page;
      ASSERT_EQ(static_cast<int64_t>(owned.size()) + pool.available(), capacity);
      ASSERT_LE(static_cast<int64_t>(scheduler.running()), most);
      ASSERT_TRUE(rules.enabled || in_tree.empty());

      int64_t budgeted = 0;
      std::set<Sequence*> in_batch;
      for (size_t i = 0; i < owners.size(); ++i) {
        const Extend& e = batch.extends[i];
        Sequence& owner = *owners[i];
        ASSERT_TRUE(in_batch.insert(&owner).second) << "twice in one batch";
        ASSERT_FALSE(e.tokens.empty());
        ASSERT_TRUE(0 <= e.dp && e.dp < groups);
        ASSERT_EQ(group_of.emplace(owner.request->id, e.dp).first->second, e.dp)
            << "a sequence changed its group";
        ASSERT_EQ(e.begin, owner.cached);
        const bool decodes = decoding.erase(&owner) == 1;
        ASSERT_TRUE(!decodes || (e.decode && e.tokens.size() == 1));
        if (!decodes) budgeted += static_cast<int64_t>(e.tokens.size());
        const uint64_t value = keys.Run(e, owner, rules);
        ASSERT_FALSE(testing::Test::HasFailure());
        ASSERT_EQ(e.logits == LogitsWanted::kLast, e.end() == owner.tokens());
        if (e.logits == LogitsWanted::kNone) continue;
        owner.output.push_back(Keys::Sampled(value));
      }
      for (size_t i = 0; i < owners.size(); ++i) {
        Sequence& owner = *owners[i];
        scheduler.Computed(owner, batch.extends[i].end());
        if (batch.extends[i].logits == LogitsWanted::kNone) continue;
        owner.stage = Stage::kDecode;
        if (static_cast<int64_t>(owner.output.size()) == owner.request->sampling.max_new_tokens) {
          end(&owner);
        }
      }
      ASSERT_TRUE(decoding.empty()) << "a decoding sequence was left out";
      ASSERT_TRUE(chunk < 0 || budgeted <= chunk);
    }
    EXPECT_EQ(ended, submitted);
    EXPECT_TRUE(scheduler.idle());
    scheduler.Flush();
    EXPECT_EQ(pool.available(), capacity);
    retractions += scheduler.counters().retractions;
    hits += scheduler.counters().hit_tokens;
  }
  std::printf("%lld retractions, %lld tokens not computed\n", static_cast<long long>(retractions),
              static_cast<long long>(hits));
  EXPECT_GT(retractions, 100);
  EXPECT_GT(hits, 10'000);
}

}  // namespace
}  // namespace causeway
