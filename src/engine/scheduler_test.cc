// The scheduler is data in, batches out: these tests play the model's part by hand.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/op_table.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
using Stage = Sequence::Stage;

// `first` is the first token, and each one after it is one more.
std::unique_ptr<Sequence> MakeSequence(const std::string& id, int64_t prompt, int64_t answer,
                                       int32_t first = 1000) {
  auto request = std::make_shared<Request>();
  request->id = id;
  for (int64_t i = 0; i < prompt; ++i) request->prompt.push_back(first + static_cast<int32_t>(i));
  request->sampling.max_new_tokens = answer;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  return sequence;
}

// A scheduler with its pages, and what the engine does around it.
class SchedulerTest : public testing::Test {
 protected:
  void Start(int64_t pages, const SchedulerLimits& limits, int groups = 1,
             const SharingRules& rules = {}) {
    scheduler_.reset();  // it gives its pages back
    pages_ = std::make_unique<PagePool>(pages);
    scheduler_ = std::make_unique<Scheduler>(*pages_, limits, groups, rules);
  }
  // With a prompt that begins like no other.
  void Add(const std::string& id, int64_t prompt, int64_t answer) {
    Add(id, prompt, answer, next_first_);
    next_first_ += 10'000;
  }
  void Add(const std::string& id, int64_t prompt, int64_t answer, int32_t first) {
    scheduler_->Add(MakeSequence(id, prompt, answer, first));
  }

  // One step: a batch, as text like "a:0+5 b:d17", and its consequences, with `token` sampled. A
  // decode step of several tokens is "b:d17+3".
  std::string Step(int32_t token = 7) {
    std::vector<Sequence*> owners;
    const Batch batch = scheduler_->Next(++now_, owners);
    EXPECT_EQ(batch.extends.size(), owners.size());
    std::string out;
    for (size_t i = 0; i < owners.size(); ++i) {
      const Extend& e = batch.extends[i];
      out += Text(out.empty() ? "" : " ", owners[i]->request->id, ":");
      out += e.decode && e.tokens.size() == 1
                 ? Text("d", e.begin)
                 : Text(e.decode ? "d" : "", e.begin, "+", e.tokens.size());
      EXPECT_EQ(e.pages, owners[i]->pages);
      EXPECT_EQ(e.dp, owners[i]->dp);
      EXPECT_LE(e.end(), static_cast<int64_t>(e.pages.size()) * kPage);
      scheduler_->Computed(*owners[i], e.end());
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
  // Steps until nothing is left.
  void RunAll() {
    for (int i = 0; i < 10'000 && !scheduler_->idle(); ++i) Step();
    EXPECT_TRUE(scheduler_->idle());
  }
  // Pages that a request can have, at once or by eviction.
  int64_t Available() const { return pages_->available() + scheduler_->tree().evictable_pages(); }

  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<Scheduler> scheduler_;
  int64_t now_ = 0;
  int32_t next_first_ = 1000;
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
  Start(100'000, {.max_prefill_tokens = -1, .max_running_requests = 200}, /*groups=*/4);
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
  EXPECT_EQ(pages_->available(), 2);  // the prompt's 100 tokens, and room for its answer in them
  EXPECT_EQ(Step(), "a:40+40");
  EXPECT_EQ(Step(), "a:80+20");
  EXPECT_EQ(scheduler_->Find("a")->stage, Stage::kDecode);
  EXPECT_EQ(Step(), "a:d100");
  EXPECT_FALSE(scheduler_->idle());
  EXPECT_EQ(Step(), "a:d101");  // the third token ends it
  EXPECT_TRUE(scheduler_->idle());
  EXPECT_EQ(scheduler_->Find("a"), nullptr);
  EXPECT_EQ(Available(), 4);
  EXPECT_EQ(scheduler_->tree().pages(), 1) << "its one whole page of prompt";
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

TEST_F(SchedulerTest, ChunksShrinkUntilDecodingWaitsNoLongerThanAllowed) {
  constexpr int64_t kTokenNs = 1'000'000;
  for (const int64_t decode_ns : {0, 5'000'000, 90'000'000, 300'000'000}) {
    Start(200, {.chunked_prefill_size = 1000, .decode_gap_ns = 100'000'000});
    Add("a", 50, 500);
    Add("long", 6000, 5);
    int64_t now = 1'000'000'000;
    int64_t steps = 0;
    for (; scheduler_->Find("long") != nullptr; ++steps) {
      ASSERT_LT(steps, 6000 / 16 + 20);
      std::vector<Sequence*> owners;
      const Batch batch = scheduler_->Next(now, owners);
      const bool decodes = batch.extends[0].decode;
      int64_t tokens = 0;
      for (size_t i = 0; i < owners.size(); ++i) {
        const Extend& e = batch.extends[i];
        if (!e.decode) tokens += static_cast<int64_t>(e.tokens.size());
        scheduler_->Computed(*owners[i], e.end());
        if (e.logits == LogitsWanted::kNone) continue;
        owners[i]->stage = Stage::kDecode;
        owners[i]->output.push_back(7);
        if (owners[i]->output.size() == 5 && i == 1) scheduler_->Remove(owners[i]);
      }
      const int64_t took = tokens * kTokenNs + (decodes ? decode_ns : 0);
      // The first step with a decoding one knows nothing of what that one takes.
      if (decodes && tokens > 16 && steps > 1) {
        EXPECT_LE(took, 101'000'000 + (steps < 10 ? decode_ns : 0)) << "step " << steps;
      }
      scheduler_->StepTook(scheduler_->budgeted(), took);
      now += took;
    }
    EXPECT_LT(steps, decode_ns == 0 ? 60 + 10 : 400) << "the time is used";
  }
}

// What docs/serving.md says of the time between two tokens, with a clock that the test moves: a
// step takes kTokenNs for each prompt token and kDecodeNs for the decoding requests.
TEST_F(SchedulerTest, ADecodingRequestWaitsForAtMostOneStepWhateverComes) {
  constexpr int64_t kTokenNs = 1'000'000;
  constexpr int64_t kDecodeNs = 5'000'000;
  for (const int64_t gap_ms : {0, 60}) {
    constexpr int64_t kChunk = 200;
    Start(4000, {.chunked_prefill_size = kChunk, .decode_gap_ns = gap_ms * 1'000'000});
    std::mt19937 random(kSeed);
    Add("first", 10, 300);
    int64_t longest = 0;
    int64_t since_token = 0;
    for (int step = 0; scheduler_->Find("first") != nullptr; ++step) {
      ASSERT_LT(step, 301);
      if (random() % 2 == 0) Add(std::to_string(step), 1 + random() % 700, 1 + random() % 20);
      std::vector<Sequence*> owners;
      const Batch batch = scheduler_->Next(step + 1, owners);
      ASSERT_EQ(owners[0]->request->id, "first") << "in every step";
      int64_t took = kDecodeNs;
      for (size_t i = 0; i < owners.size(); ++i) {
        const Extend& e = batch.extends[i];
        if (!e.decode) took += static_cast<int64_t>(e.tokens.size()) * kTokenNs;
        scheduler_->Computed(*owners[i], e.end());
        if (e.logits == LogitsWanted::kNone) continue;
        owners[i]->stage = Stage::kDecode;
        owners[i]->output.push_back(7);
        if (static_cast<int64_t>(owners[i]->output.size()) ==
            owners[i]->request->sampling.max_new_tokens) {
          scheduler_->Remove(owners[i]);
        }
      }
      EXPECT_LE(took, kChunk * kTokenNs + kDecodeNs);
      scheduler_->StepTook(scheduler_->budgeted(), took);
      // Every step gives it a token, so that the longest step is the longest gap. The target of
      // --decode-gap-ms holds once a step with decoding requests has been timed.
      since_token = took;
      if (step > 4) longest = std::max(longest, since_token);
    }
    EXPECT_LE(longest, gap_ms == 0 ? 205'000'000 : 65'000'000);
    EXPECT_GT(longest, gap_ms == 0 ? 190'000'000 : 30'000'000) << "the time is used";
  }
}

TEST_F(SchedulerTest, ALongPromptAdvancesInEveryStepHoweverManyShortOnesCome) {
  Start(2000, {.chunked_prefill_size = 50, .max_running_requests = 1000});
  for (int i = 0; i < 10; ++i) Add(Text("before", i), 20, 3);
  Add("long", 3000, 5);
  int64_t cached = 0;
  int steps = 0;
  for (; scheduler_->Find("long")->stage != Stage::kDecode; ++steps) {
    ASSERT_LT(steps, 3000 / 50 + 200 / 50 + 1);
    for (int i = 0; i < 3; ++i) Add(Text("short", steps, "-", i), 20, 3);
    Step();
    const int64_t now = scheduler_->Find("long")->cached;
    // The budget is the oldest prompts': those before it have 200 tokens.
    if (steps >= 200 / 50) {
      EXPECT_EQ(now - cached, 50) << "step " << steps;
    }
    cached = now;
  }
}

TEST_F(SchedulerTest, NoMoreTokensAreAdmittedToAStepThanAllowedButAtLeastOnePrompt) {
  Start(100, {.chunked_prefill_size = -1, .max_prefill_tokens = 100});
  Add("a", 60, 9);
  Add("b", 30, 9);
  Add("c", 30, 9);
  Add("d", 500, 9);
  Add("e", 10, 9);
  EXPECT_EQ(Step(), "a:0+60 b:0+30");
  EXPECT_EQ(Step(), "a:d60 b:d30 c:0+30");
  EXPECT_EQ(Step(), "a:d61 b:d31 c:d30 d:0+500");
  EXPECT_EQ(Step(), "a:d62 b:d32 c:d31 d:d500 e:0+10");
  // What the cache has is not computed, and does not count.
  scheduler_.reset();
  Start(100, {.max_prefill_tokens = 100});
  Add("a", 70, 9, 5000);
  EXPECT_EQ(Step(), "a:0+70");
  Add("b", 150, 9, 5000);
  Add("c", 14, 9);
  Add("d", 1, 9);
  EXPECT_EQ(Step(), "a:d70 b:64+86 c:0+14");
}

// As the engine does while a step runs: the step that a batch was planned for comes after one that
// gives tokens which are not known yet.
TEST_F(SchedulerTest, ABatchCanBePlannedBeforeTheTokensOfTheLastAreThere) {
  Start(10, {.chunked_prefill_size = 50});
  Add("a", 40, 3);
  Add("b", 5, 1);
  std::vector<Sequence*> owners;
  const auto launch = [&](const Batch& batch) {
    for (size_t i = 0; i < owners.size(); ++i) {
      scheduler_->Computed(*owners[i], batch.extends[i].end());
      owners[i]->stage = Stage::kDecode;
      owners[i]->output.push_back(-1);
      owners[i]->pending = true;
    }
  };
  launch(scheduler_->Next(1, owners));
  ASSERT_EQ(owners.size(), 2u);
  Sequence* b = owners[1];
  EXPECT_TRUE(b->ending());
  EXPECT_FALSE(owners[0]->ending());
  Add("c", 60, 2);
  Batch batch = scheduler_->Next(2, owners);
  ASSERT_EQ(owners.size(), 2u) << "b has had its last step";
  EXPECT_EQ(owners[0]->request->id, "a");
  EXPECT_EQ(batch.extends[0].tokens, std::vector<int32_t>{-1});
  EXPECT_EQ(batch.extends[0].begin, 40);
  EXPECT_EQ(owners[1]->request->id, "c");
  EXPECT_EQ(batch.extends[1].tokens.size(), 50u);
  EXPECT_EQ(scheduler_->budgeted(), 50);
  // Who comes later joins, as far as the budget goes.
  scheduler_->Remove(b);
  Add("d", 7, 2);
  scheduler_->TopUp(3, batch, owners);
  EXPECT_EQ(owners.size(), 2u) << "nothing is left of the budget";
  EXPECT_EQ(scheduler_->Find("d")->stage, Stage::kPrefill);
  owners[0]->pending = false;
  owners[0]->output.back() = 7;
  launch(batch);
  owners[1]->pending = false;  // a chunk that does not end its prompt has no token
  owners[1]->stage = Stage::kPrefill;
  owners[1]->output.clear();
  batch = scheduler_->Next(4, owners);
  ASSERT_EQ(owners.size(), 3u);
  EXPECT_EQ(batch.extends[1].begin, 50);
  Add("e", 20, 2);
  scheduler_->TopUp(5, batch, owners);
  ASSERT_EQ(owners.size(), 4u);
  EXPECT_EQ(batch.extends[3].tokens.size(), 20u);
  EXPECT_EQ(scheduler_->budgeted(), 10 + 7 + 20);
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
  EXPECT_EQ(pages_->available(), 10 - 1 - 2 - 1);
  struct Case {
    const char* id;
    int64_t available;
  };
  for (const Case& c : {Case{"waiting", 6}, Case{"prefilling", 8}, Case{"decoding", 9}}) {
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

TEST_F(SchedulerTest, AnswersTakeTheirPagesWhenTheyNeedThem) {
  Start(4, {});
  Add("a", 60, 100);
  EXPECT_EQ(Step(), "a:0+60");
  EXPECT_EQ(pages_->available(), 3);
  for (int64_t p = 60; p < 64; ++p) EXPECT_EQ(Step(), Text("a:d", p));
  EXPECT_EQ(pages_->available(), 3);
  EXPECT_EQ(Step(), "a:d64");
  EXPECT_EQ(pages_->available(), 2);
}

TEST_F(SchedulerTest, OnlyWholePagesOfAPrefixAreSparedAndNeverTheLastToken) {
  struct Case {
    int64_t prompt;
    const char* step;
  };
  for (const Case& c :
       {Case{200, "b:192+8"}, Case{193, "b:192+1"}, Case{192, "b:128+64"}, Case{150, "b:128+22"},
        Case{65, "b:64+1"}, Case{64, "b:0+64"}, Case{1, "b:0+1"}, Case{300, "b:192+108"}}) {
    Start(10, {});
    Add("a", 200, 3, 5000);
    RunAll();
    EXPECT_EQ(scheduler_->tree().pages(), 3);
    Add("b", c.prompt, 3, 5000);
    EXPECT_EQ(Step(), c.step);
    const int64_t hit = (c.prompt - 1) / kPage * kPage;
    EXPECT_EQ(scheduler_->Find("b")->prompt_hit, std::min<int64_t>(hit, 192));
    EXPECT_EQ(scheduler_->counters().hit_tokens, std::min<int64_t>(hit, 192));
    EXPECT_EQ(scheduler_->counters().prompt_tokens, 200 + c.prompt);
    Add("c", 200, 3, 6000);
    EXPECT_EQ(Step(), Text("b:d", c.prompt, " c:0+200")) << "another prompt";
    RunAll();
    EXPECT_EQ(Available(), 10);
  }
}

TEST_F(SchedulerTest, WhatARunningRequestHasComputedOthersUseAtOnce) {
  Start(20, {.chunked_prefill_size = 64});
  Add("a", 200, 9, 5000);
  Add("b", 200, 9, 5000);
  Add("c", 140, 9, 5000);
  EXPECT_EQ(Step(), "a:0+64");
  EXPECT_EQ(Step(), "a:64+64");
  EXPECT_EQ(Step(), "a:128+64");
  EXPECT_EQ(Step(), "a:192+8 b:192+8 c:128+12");
  // Each prompt's end, and the three pages that they have in common.
  EXPECT_EQ(pages_->available(), 20 - 3 - 3);
  EXPECT_EQ(scheduler_->tree().locked_pages(), 3);
}

TEST_F(SchedulerTest, ARequestThatIsBehindTakesOverInTheMiddleOfItsPrompt) {
  Start(20, {.chunked_prefill_size = 100});
  Add("a", 460, 9, 5000);
  EXPECT_EQ(Step(), "a:0+100");
  Add("b", 460, 9, 5000);
  EXPECT_EQ(Step(), "a:100+100");
  EXPECT_EQ(Step(), "a:200+100");
  EXPECT_EQ(Step(), "a:300+100");
  EXPECT_EQ(Step(), "a:400+60 b:384+40");
  EXPECT_EQ(Step(), "a:d460 b:448+12");
  EXPECT_EQ(scheduler_->Find("b")->prompt_hit, 384 + 24);
  RunAll();
  EXPECT_EQ(Available(), 20);
}

TEST_F(SchedulerTest, AnAnswerIsPartOfAPrefixOnlyWhereDecodeWritesTheBitsOfPrefill) {
  for (const int64_t border : {int64_t{0}, int64_t{100}, int64_t{101}, INT64_MAX}) {
    Start(10, {}, 1, {.decode_differs_below = border});
    Add("a", 100, 101, 5000);
    while (!scheduler_->idle()) Step(7);
    // The same text as a prompt: 100 tokens, the answer, and something new.
    auto next = MakeSequence("b", 100, 1, 5000);
    next->request->prompt.resize(201, 7);
    scheduler_->Add(std::move(next));
    EXPECT_EQ(Step(), border <= 100 ? "b:192+9" : "b:64+137") << border;
  }
}

TEST_F(SchedulerTest, WhenPagesRunOutTheYoungestWaitsAndGoesOnWhereItWas) {
  Start(4, {.max_running_requests = 3, .schedule_conservativeness = 0});
  Add("a", 60, 190);
  Add("b", 100, 100);
  EXPECT_EQ(Step(1), "a:0+60 b:0+100");
  std::string step;
  for (int i = 0; i < 100 && scheduler_->counters().retractions == 0; ++i) step = Step(2);
  // a needs its second page at 64 and its third at 128, b its third at 128: 4 are too few. When b
  // stands at 128, a is at 88.
  EXPECT_EQ(step, "a:d88");
  Sequence* b = scheduler_->Find("b");
  EXPECT_EQ(b->stage, Stage::kWaiting);
  EXPECT_EQ(b->retractions, 1);
  EXPECT_EQ(b->output.size(), 29u);
  EXPECT_TRUE(b->pages.empty());
  EXPECT_EQ(scheduler_->retracted(), 1u);
  EXPECT_EQ(scheduler_->tree().evictable_pages(), 2) << "what b has computed is still there";
  Add("c", 5, 2);  // would fit, but b came first
  for (int64_t p = 89; p < 249; ++p) ASSERT_EQ(Step(3), Text("a:d", p)) << "alone until it ends";
  // Its answer is computed again, as decoded tokens, and goes on.
  EXPECT_EQ(Step(4), "b:0+100 c:0+5");
  EXPECT_EQ(Step(4), "b:d100+29 c:d5");
  EXPECT_EQ(b->output.size(), 30u);
  EXPECT_EQ(b->output[28], 2);
  EXPECT_EQ(b->output[29], 4);
  EXPECT_EQ(Step(4), "b:d129");
  EXPECT_EQ(scheduler_->retracted(), 0u);
  RunAll();
  EXPECT_EQ(Available(), 4);
}

TEST_F(SchedulerTest, ARetractedRequestFindsItsOwnPagesUnlessTheyWereNeeded) {
  Start(6, {.schedule_conservativeness = 0});
  Add("a", 120, 12);
  Add("b", 240, 40);
  Step();
  for (int i = 0; i < 100 && scheduler_->counters().retractions == 0; ++i) Step();
  // a took its third page, for which b's last one went.
  EXPECT_EQ(scheduler_->Find("b")->retractions, 1);
  EXPECT_EQ(scheduler_->tree().evictable_pages(), 3);
  while (scheduler_->Find("a") != nullptr) Step();
  EXPECT_EQ(Step(), "b:192+48");
  EXPECT_EQ(scheduler_->Find("b")->prompt_hit, 0) << "its own pages are no hit";
  RunAll();
}

TEST_F(SchedulerTest, ConservativenessKeepsPagesFreeForAnswers) {
  struct Case {
    double conservativeness;
    const char* step;
  };
  for (const Case& c :
       {Case{0, "a:0+60 b:0+60 c:0+60 d:0+60"}, Case{1, "a:0+60 b:0+60"}, Case{3, "a:0+60"},
        Case{-1, "a:0+60 b:0+60 c:0+60 d:0+60"}, Case{1e9, "a:0+60"}}) {
    Start(4, {.schedule_conservativeness = c.conservativeness});
    for (const char* id : {"a", "b", "c", "d"}) Add(id, 60, 150);
    EXPECT_EQ(Step(), c.step) << c.conservativeness;
    RunAll();
  }
}

TEST_F(SchedulerTest, TheLongestPrefixGoesFirstWhereThePolicySaysSo) {
  for (const auto policy : {SchedulePolicy::kFcfs, SchedulePolicy::kLpm}) {
    Start(40, {.max_running_requests = 1, .policy = policy});
    Add("first", 200, 1, 5000);
    RunAll();
    Add("a", 150, 1);
    Add("b", 100, 1, 5000);
    Add("c", 200, 1, 5000);
    Add("d", 220, 1, 5000);
    std::string order;
    while (!scheduler_->idle()) order += Step().substr(0, 1);
    EXPECT_EQ(order, policy == SchedulePolicy::kFcfs ? "abcd" : "cdba");
  }
}

TEST_F(SchedulerTest, ARetractedRequestGoesBeforeAnyPrefix) {
  Start(4, {.schedule_conservativeness = 0, .policy = SchedulePolicy::kLpm});
  Add("a", 60, 190);
  Add("b", 100, 100);
  while (scheduler_->counters().retractions == 0) ASSERT_NE(Step(), "");
  Add("c", 65, 1, scheduler_->Find("b")->request->prompt[0]);  // all of it but a token is cached
  while (scheduler_->Find("a") != nullptr) EXPECT_EQ(Step().substr(0, 1), "a");
  EXPECT_EQ(Step().substr(0, 1), "b");
  RunAll();
}

TEST_F(SchedulerTest, AHitCountsOnlyWhereTheGroupHasTheKeysAndDrawsARequestThere) {
  Start(20, {}, /*groups=*/3, {.places = {"host 0", "host 1", "host 1"}});
  Add("a", 10, 2);
  Add("b", 200, 2, 5000);
  Add("c", 300, 3, 6000);
  EXPECT_EQ(Step(), "a:0+10 b:0+200 c:0+300");
  EXPECT_EQ(scheduler_->Find("b")->dp, 1);
  EXPECT_EQ(scheduler_->Find("c")->dp, 2);
  RunAll();
  Add("busy", 10, 9);  // groups 1 and 2 have nothing to do
  Add("d", 200, 9, 5000);
  Add("e", 200, 9, 6000);
  Add("f", 200, 9, 6000);
  EXPECT_EQ(Step(), "busy:0+10 d:192+8 e:192+8 f:192+8");
  EXPECT_EQ(scheduler_->Find("busy")->dp, 0);
  EXPECT_EQ(scheduler_->Find("d")->dp, 1);
  EXPECT_EQ(scheduler_->Find("e")->dp, 2);
  RunAll();
  // Groups that do not share compute the same prompt twice.
  Start(40, {}, /*groups=*/2, {.places = {"host 0", "host 1"}});
  Add("a", 200, 2, 5000);
  RunAll();
  Add("b", 1000, 9);
  Add("c", 200, 9, 5000);
  EXPECT_EQ(Step(), "b:0+1000 c:0+200");
  EXPECT_EQ(scheduler_->Find("b")->dp, 0);
  EXPECT_EQ(scheduler_->Find("c")->dp, 1) << "group 0 has the keys, and too much to do";
}

TEST_F(SchedulerTest, WithoutSharingEveryPageComesBackAtOnce) {
  Start(10, {}, 1, {.enabled = false});
  Add("a", 200, 3, 5000);
  RunAll();
  EXPECT_EQ(pages_->available(), 10);
  Add("b", 200, 3, 5000);
  EXPECT_EQ(Step(), "b:0+200");
  EXPECT_EQ(scheduler_->tree().pages(), 0);
}

TEST_F(SchedulerTest, AFlushFreesWhatNobodyUses) {
  Start(10, {});
  Add("a", 200, 2, 5000);
  RunAll();
  Add("b", 100, 9, 5000);
  EXPECT_EQ(Step(), "b:64+36");
  EXPECT_EQ(scheduler_->Flush(), 2);
  EXPECT_EQ(scheduler_->tree().pages(), 1) << "b reads it";
  RunAll();
  EXPECT_EQ(scheduler_->Flush(), 1);
  EXPECT_EQ(pages_->available(), 10);
}

TEST_F(SchedulerTest, AfterAFailureNothingThatIsCachedIsUsed) {
  Start(10, {});
  Add("a", 200, 2, 5000);
  RunAll();
  Add("b", 200, 9, 5000);
  Step();
  scheduler_->StopSharing();
  scheduler_->Remove(scheduler_->Find("b"), /*keep=*/false);
  EXPECT_EQ(pages_->available(), 10);
  Add("c", 200, 9, 5000);
  EXPECT_EQ(Step(), "c:0+200");
}

}  // namespace
}  // namespace causeway
