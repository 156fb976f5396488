// The scheduler is data in, batches out: these tests play the model's part by hand.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "kernels/op_table.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
using Stage = Sequence::Stage;

std::unique_ptr<Sequence> MakeSequence(const std::string& id, int64_t prompt, int64_t answer) {
  auto request = std::make_shared<Request>();
  request->id = id;
  for (int64_t i = 0; i < prompt; ++i) request->prompt.push_back(static_cast<int32_t>(1000 + i));
  request->sampling.max_new_tokens = answer;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  return sequence;
}

// A scheduler with its pages, and what the engine does around it.
class SchedulerTest : public testing::Test {
 protected:
  void Start(int64_t pages, const SchedulerLimits& limits, int groups = 1) {
    pages_ = std::make_unique<PagePool>(pages);
    scheduler_ = std::make_unique<Scheduler>(*pages_, limits, groups);
  }
  void Add(const std::string& id, int64_t prompt, int64_t answer) {
    scheduler_->Add(MakeSequence(id, prompt, answer));
  }

  // One step: a batch, as text like "a:0+5 b:d17", and its consequences, with `token` sampled.
  std::string Step(int32_t token = 7) {
    std::vector<Sequence*> owners;
    const Batch batch = scheduler_->Next(++now_, owners);
    EXPECT_EQ(batch.extends.size(), owners.size());
    std::string out;
    for (size_t i = 0; i < owners.size(); ++i) {
      const Extend& e = batch.extends[i];
      out += Text(out.empty() ? "" : " ", owners[i]->request->id, ":");
      out += e.decode ? Text("d", e.begin) : Text(e.begin, "+", e.tokens.size());
      EXPECT_EQ(e.pages, owners[i]->pages);
      EXPECT_EQ(e.dp, owners[i]->dp);
      EXPECT_LE(e.end(), static_cast<int64_t>(e.pages.size()) * kPage);
      owners[i]->cached = e.end();
      if (e.logits == LogitsWanted::kNone) continue;
      owners[i]->stage = Stage::kDecode;
      owners[i]->output.push_back(token);
      if (static_cast<int64_t>(owners[i]->output.size()) ==
          owners[i]->request->sampling.max_new_tokens) {
        EXPECT_EQ(scheduler_->Remove(owners[i])->stage, Stage::kFinished);
      }
    }
    return out;
  }

  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<Scheduler> scheduler_;
  int64_t now_ = 0;
};

TEST_F(SchedulerTest, AnAdmittedSequenceJoinsTheGroupWithTheFewestTokensAheadAndStays) {
  Start(100, {.chunked_prefill_size = 40, .max_running_requests = 5}, /*groups=*/3);
  const auto group = [&](const char* id) { return scheduler_->Find(id)->dp; };
  Add("a", 100, 9);
  Add("b", 30, 9);
  Add("c", 20, 9);
  Add("d", 15, 9);
  EXPECT_EQ(Step(), "a:0+40");  // the budget is that of all groups together
  EXPECT_EQ(group("a"), 0);     // of equals the lowest
  EXPECT_EQ(group("b"), 1);
  EXPECT_EQ(group("c"), 2);
  EXPECT_EQ(group("d"), 2);
  EXPECT_EQ(Step(), "a:40+40");
  EXPECT_EQ(Step(), "a:80+20 b:0+20");
  // a decodes now: one token ahead, where b has 10 and c and d together 35.
  Add("e", 5, 9);
  EXPECT_EQ(Step(), "a:d100 b:20+10 c:0+20 d:0+10");
  EXPECT_EQ(group("e"), 0);
  EXPECT_EQ(Step(), "a:d101 b:d30 c:d20 d:10+5 e:0+5");
  for (int i = 0; i < 3; ++i) Step();
  EXPECT_EQ(group("a"), 0);
  EXPECT_EQ(group("b"), 1);
  EXPECT_EQ(group("d"), 2);
}

TEST_F(SchedulerTest, EqualRequestsSpreadEvenlyOverTheGroupsInEveryRunAlike) {
  for (const int groups : {1, 2, 3, 4, 8}) {
    std::vector<int32_t> first;
    for (int run = 0; run < 2; ++run) {
      Start(1000, {.max_running_requests = 24}, groups);
      for (int i = 0; i < 24; ++i) Add(std::to_string(i), 10, 5);
      Step();
      std::vector<int> count(static_cast<size_t>(groups), 0);
      std::vector<int32_t> chosen;
      for (const Sequence* sequence : scheduler_->All()) {
        chosen.push_back(sequence->dp);
        ++count[static_cast<size_t>(sequence->dp)];
      }
      EXPECT_EQ(count, std::vector<int>(static_cast<size_t>(groups), 24 / groups));
      if (run == 0) first = chosen;
      EXPECT_EQ(chosen, first) << groups << " groups";
    }
  }
}

TEST_F(SchedulerTest, NoGroupGetsMoreThanTheLeastLoadedAndOneRequest) {
  std::mt19937 random(kSeed);
  Start(100'000, {.max_running_requests = 200}, /*groups=*/4);
  int64_t longest = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 500);
    longest = std::max(longest, prompt);
    Add(std::to_string(i), prompt, 1);
  }
  std::vector<Sequence*> owners;
  scheduler_->Next(1, owners);
  std::vector<int64_t> tokens(4, 0);
  for (const Sequence* sequence : scheduler_->All()) {
    tokens[static_cast<size_t>(sequence->dp)] += sequence->prompt_tokens();
  }
  const auto [least, most] = std::minmax_element(tokens.begin(), tokens.end());
  EXPECT_LE(*most - *least, longest);
}

TEST_F(SchedulerTest, ARequestGoesThroughItsStagesAndGivesItsPagesBack) {
  Start(4, {.chunked_prefill_size = 40});
  Add("a", 100, 3);
  EXPECT_EQ(scheduler_->waiting(), 1u);
  EXPECT_EQ(scheduler_->Find("a")->stage, Stage::kWaiting);
  EXPECT_EQ(pages_->available(), 4);
  EXPECT_EQ(Step(), "a:0+40");
  EXPECT_EQ(scheduler_->Find("a")->stage, Stage::kPrefill);
  EXPECT_EQ(scheduler_->Find("a")->admitted_ns, 1);
  EXPECT_EQ(scheduler_->running(), 1u);
  EXPECT_EQ(pages_->available(), 2);  // 103 tokens
  EXPECT_EQ(Step(), "a:40+40");
  EXPECT_EQ(Step(), "a:80+20");
  EXPECT_EQ(scheduler_->Find("a")->stage, Stage::kDecode);
  EXPECT_EQ(Step(), "a:d100");
  EXPECT_FALSE(scheduler_->idle());
  EXPECT_EQ(Step(), "a:d101");  // the third token ends it
  EXPECT_TRUE(scheduler_->idle());
  EXPECT_EQ(scheduler_->Find("a"), nullptr);
  EXPECT_EQ(pages_->available(), 4);
  EXPECT_EQ(Step(), "");
}

TEST_F(SchedulerTest, AChunkHoldsThePromptsTokensAndADecodeStepTheLastSampledOne) {
  Start(4, {.chunked_prefill_size = 3});
  Add("a", 5, 2);
  std::vector<Sequence*> owners;
  Batch batch = scheduler_->Next(1, owners);
  EXPECT_EQ(batch.extends[0].tokens, (std::vector<int32_t>{1000, 1001, 1002}));
  EXPECT_EQ(batch.extends[0].logits, LogitsWanted::kNone);
  owners[0]->cached = 3;
  batch = scheduler_->Next(2, owners);
  EXPECT_EQ(batch.extends[0].tokens, (std::vector<int32_t>{1003, 1004}));
  EXPECT_EQ(batch.extends[0].logits, LogitsWanted::kLast);
  owners[0]->cached = 5;
  owners[0]->output = {42};
  owners[0]->stage = Stage::kDecode;
  batch = scheduler_->Next(3, owners);
  EXPECT_EQ(batch.extends[0].tokens, std::vector<int32_t>{42});
  EXPECT_TRUE(batch.extends[0].decode);
  EXPECT_EQ(batch.extends[0].logits, LogitsWanted::kLast);
}

TEST_F(SchedulerTest, TheTokenBudgetGoesToTheOldestPromptsAndDecodingIsNeverStarved) {
  Start(100, {.chunked_prefill_size = 50});
  Add("a", 30, 9);
  Add("b", 45, 9);
  Add("c", 500, 9);
  EXPECT_EQ(Step(), "a:0+30 b:0+20");
  EXPECT_EQ(Step(), "a:d30 b:20+25 c:0+25");
  EXPECT_EQ(Step(), "a:d31 b:d45 c:25+50");
  EXPECT_EQ(Step(), "a:d32 b:d46 c:75+50");
}

TEST_F(SchedulerTest, WithoutAChunkLimitAllPromptsGoInWhole) {
  for (const int64_t none : {0, -1}) {
    Start(100, {.chunked_prefill_size = none});
    Add("a", 1000, 1);
    Add("b", 2000, 1);
    EXPECT_EQ(Step(), "a:0+1000 b:0+2000");
    EXPECT_TRUE(scheduler_->idle());
  }
}

TEST_F(SchedulerTest, NoMoreRunThanAllowedAndAtLeastOneDoes) {
  for (const int64_t most : {2, 1, 0, -5}) {
    Start(100, {.max_running_requests = most});
    for (const char* id : {"a", "b", "c"}) Add(id, 10, 1);
    EXPECT_EQ(Step(), most == 2 ? "a:0+10 b:0+10" : "a:0+10");
    EXPECT_EQ(Step(), most == 2 ? "c:0+10" : "b:0+10");
  }
}

TEST_F(SchedulerTest, WhoDoesNotFitWaitsAndIsNotOvertaken) {
  Start(4, {});
  Add("a", 100, 2);  // 2 pages
  Add("b", 150, 2);  // 3 pages
  Add("c", 10, 2);   // 1 page: it would fit, but b came first
  EXPECT_EQ(Step(), "a:0+100");
  EXPECT_EQ(scheduler_->waiting(), 2u);
  EXPECT_EQ(Step(), "a:d100");  // ends
  EXPECT_EQ(Step(), "b:0+150 c:0+10");
}

TEST_F(SchedulerTest, PagesCoverThePromptAndTheLongestAnswer) {
  EXPECT_EQ(Scheduler::PagesFor(*MakeSequence("a", 1, 1)), 1);
  EXPECT_EQ(Scheduler::PagesFor(*MakeSequence("a", 60, 4)), 1);
  EXPECT_EQ(Scheduler::PagesFor(*MakeSequence("a", 60, 5)), 2);
}

TEST_F(SchedulerTest, RemovingASequenceInAnyStageFreesItsPagesAndLeavesTheOthers) {
  Start(10, {.chunked_prefill_size = 20, .max_running_requests = 3});
  Add("decoding", 10, 50);
  Add("prefilling", 100, 50);
  Add("kept", 5, 50);
  Add("waiting", 5, 50);
  EXPECT_EQ(Step(), "decoding:0+10 prefilling:0+10");
  EXPECT_EQ(scheduler_->All().size(), 4u);
  EXPECT_EQ(pages_->available(), 10 - 1 - 3 - 1);
  struct Case {
    const char* id;
    int64_t available;
  };
  for (const Case& c : {Case{"waiting", 5}, Case{"prefilling", 8}, Case{"decoding", 9}}) {
    Sequence* sequence = scheduler_->Find(c.id);
    ASSERT_NE(sequence, nullptr) << c.id;
    const auto removed = scheduler_->Remove(sequence);
    EXPECT_EQ(removed->stage, Stage::kFinished);
    EXPECT_TRUE(removed->pages.empty());
    EXPECT_EQ(scheduler_->Find(c.id), nullptr);
    EXPECT_EQ(pages_->available(), c.available) << c.id;
  }
  EXPECT_EQ(Step(), "kept:0+5");
  EXPECT_EQ(Step(), "kept:d5");
}

// Requests of all sizes come, go and are cancelled at random; after every batch the state must be
// consistent.
TEST_F(SchedulerTest, ALongRandomRunLosesAndSharesNoPageAndServesEveryRequestInOrder) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(limit));
  };
  for (int run = 0; run < 30; ++run) {
    const int64_t capacity = 8 + below(40);
    const int64_t chunk = below(3) == 0 ? -1 : 1 + below(200);
    const int64_t most = 1 + below(8);
    const int groups = 1 + run % 4;
    SCOPED_TRACE(Text("run ", run, ": ", capacity, " pages, chunk ", chunk, ", ", most,
                      " running, ", groups, " groups"));
    Start(capacity, {.chunked_prefill_size = chunk, .max_running_requests = most}, groups);
    std::map<Sequence*, int32_t> group_of;  // of running sequences
    int64_t submitted = 0;
    int64_t ended = 0;
    int64_t last_admitted = -1;  // requests are numbered; admission must follow the numbers
    for (int step = 0; step < 20000 && (submitted < 150 || !scheduler_->idle()); ++step) {
      while (submitted < 150 && below(3) == 0) {
        const int64_t tokens = 2 + below(capacity * kPage - 1);
        const int64_t answer = 1 + below(std::min<int64_t>(tokens - 1, 30));
        Add(std::to_string(submitted++), tokens - answer, answer);
      }
      if (below(10) == 0 && !scheduler_->idle()) {
        const auto all = scheduler_->All();
        scheduler_->Remove(all[static_cast<size_t>(below(static_cast<int64_t>(all.size())))]);
        ++ended;
      }
      std::vector<Sequence*> owners;
      const Batch batch = scheduler_->Next(step, owners);
      ASSERT_EQ(batch.extends.empty(), scheduler_->idle());

      // Pages: waiting sequences own none, running ones all they need, no page has two owners.
      std::set<int32_t> owned;
      int64_t count = 0;
      std::set<Sequence*> decoding;
      for (Sequence* sequence : scheduler_->All()) {
        const auto pages = static_cast<int64_t>(sequence->pages.size());
        const bool waits = sequence->stage == Stage::kWaiting;
        ASSERT_EQ(pages, waits ? 0 : Scheduler::PagesFor(*sequence));
        owned.insert(sequence->pages.begin(), sequence->pages.end());
        count += pages;
        if (sequence->stage == Stage::kDecode) decoding.insert(sequence);
        if (!waits) {
          const int64_t number = std::stoll(sequence->request->id);
          if (sequence->admitted_ns == step && sequence->cached == 0) {
            EXPECT_GT(number, last_admitted);
            last_admitted = std::max(last_admitted, number);
          }
        }
      }
      ASSERT_EQ(static_cast<int64_t>(owned.size()), count);
      ASSERT_EQ(count + pages_->available(), capacity);
      ASSERT_LE(static_cast<int64_t>(scheduler_->running()), most);

      int64_t prompt_tokens = 0;
      std::set<Sequence*> in_batch;
      for (size_t i = 0; i < owners.size(); ++i) {
        const Extend& e = batch.extends[i];
        ASSERT_TRUE(in_batch.insert(owners[i]).second) << "twice in one batch";
        ASSERT_FALSE(e.tokens.empty());
        ASSERT_TRUE(0 <= e.dp && e.dp < groups);
        if (e.begin == 0) group_of[owners[i]] = e.dp;
        ASSERT_EQ(group_of.at(owners[i]), e.dp) << "a sequence changed its group";
        ASSERT_EQ(e.begin, owners[i]->cached);
        ASSERT_EQ(e.decode, decoding.erase(owners[i]) == 1);
        if (!e.decode) {
          prompt_tokens += static_cast<int64_t>(e.tokens.size());
          ASSERT_EQ(e.tokens[0], 1000 + e.begin);
          ASSERT_EQ(e.tokens.back(), 1000 + e.end() - 1);
        }
        owners[i]->cached = e.end();
        if (e.logits == LogitsWanted::kNone) continue;
        owners[i]->stage = Stage::kDecode;
        owners[i]->output.push_back(1);
        if (static_cast<int64_t>(owners[i]->output.size()) ==
            owners[i]->request->sampling.max_new_tokens) {
          scheduler_->Remove(owners[i]);
          ++ended;
        }
      }
      ASSERT_TRUE(decoding.empty()) << "a decoding sequence was left out";
      ASSERT_TRUE(chunk < 0 || prompt_tokens <= chunk);
    }
    EXPECT_EQ(ended, submitted);
    EXPECT_TRUE(scheduler_->idle());
    EXPECT_EQ(pages_->available(), capacity);
  }
}

}  // namespace
}  // namespace causeway
