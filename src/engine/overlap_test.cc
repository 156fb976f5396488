// Planning a step while another runs changes no token, and really happens meanwhile.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "engine/engine.h"
#include "engine/engine_client.h"

namespace causeway {
namespace {

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

// Requests that share prefixes, of all lengths, greedy and random; some stop early.
std::vector<std::unique_ptr<Client>> Clients() {
  std::vector<std::unique_ptr<Client>> clients;
  std::mt19937 random(kSeed);
  for (uint32_t i = 0; i < 20; ++i) {
    SamplingParams sampling = Greedy(1 + random() % 40);
    if (i % 2 == 1) {
      sampling.temperature = 1.0;
      sampling.ignore_eos = false;
      // Every eighth id ends an answer: most end before their length, in a step that was planned.
      for (int32_t id = 0; id < 256; id += 8) sampling.stop_token_ids.push_back(id);
    }
    sampling.seed = i;
    const int64_t lengths[] = {1, 40, 64, 65, 129, 200};
    clients.push_back(
        std::make_unique<Client>(std::to_string(i), Prompt(lengths[i % 6], i % 4), sampling));
  }
  return clients;
}

struct Answers {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<RequestResult> results;
};

Answers RunAll(HostSetup setup, bool overlap, int64_t total_tokens, int64_t chunk) {
  setup.total_tokens = total_tokens;
  const auto host = LoadHost(setup);
  Answers out;
  {
    Engine engine(*host, {.limits = {.chunked_prefill_size = chunk,
                                     .max_prefill_tokens = 300,
                                     .schedule_conservativeness = 0},
                          .overlap_schedule = overlap});
    const auto clients = Clients();
    for (const auto& client : clients) {
      const Status status = engine.Submit(client->request());
      EXPECT_TRUE(status.ok()) << status.message();
      if (chunk == 7) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
    for (const auto& client : clients) {
      EXPECT_TRUE(client->WaitForFinish());
      EXPECT_EQ(client->finishes(), 1);
      out.tokens.push_back(client->tokens());
      out.results.push_back(client->result());
    }
    EXPECT_EQ(engine.load().running, 0);
    EXPECT_EQ(engine.load().waiting, 0);
    EXPECT_EQ(engine.load().used_tokens, 0);
  }
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
  return out;
}

class Overlap : public testing::TestWithParam<HostSetup> {};

TEST_P(Overlap, ChangesNoTokenNorWhyAnAnswerEnds) {
  const Answers alone = RunAll(HostSetup{}, /*overlap=*/false, 8192, /*chunk=*/-1);
  int stops = 0;
  int64_t retractions = 0;
  // Few pages: retractions between a plan and its step.
  for (const bool overlap : {false, true}) {
    for (const int64_t total : {384, 4096}) {
      for (const int64_t chunk : {7, 64}) {
        SCOPED_TRACE(Text("overlap ", overlap, ", ", total, " tokens of cache, chunk ", chunk));
        const Answers answers = RunAll(GetParam(), overlap, total, chunk);
        ASSERT_EQ(answers.tokens.size(), alone.tokens.size());
        for (size_t i = 0; i < alone.tokens.size(); ++i) {
          EXPECT_EQ(answers.tokens[i], alone.tokens[i]) << "request " << i;
          EXPECT_EQ(answers.results[i].reason, alone.results[i].reason) << "request " << i;
          EXPECT_EQ(answers.results[i].completion_tokens, alone.results[i].completion_tokens);
          stops += answers.results[i].reason == FinishReason::kStop ? 1 : 0;
          if (overlap) retractions += answers.results[i].retractions;
        }
      }
    }
  }
  EXPECT_GT(stops, 20);
  EXPECT_GT(retractions, 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Overlap,
                         testing::Values(HostSetup{}, HostSetup{.cp = 2}, HostSetup{.dp = 2}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           return Text("cp", info.param.cp, "dp", info.param.dp);
                         });

// Whether a rank begins something while the engine hands on a token. Every step but the first takes
// a second, so that it can't be missed.
bool RanksRunDuringATokensDelivery(bool overlap) {
  const auto host = LoadHost(
      {.fault_rank = 0, .fault = {.kind = Fault::Kind::kDelay, .from = 5, .delay_ms = 200}});
  Engine engine(*host, {.limits = {}, .overlap_schedule = overlap});
  std::atomic<bool> ran{false};
  Client client("client", Prompt(20, 1), Greedy(2));
  const auto keep = client.request()->on_token;
  client.request()->on_token = [&](const TokenOutput& output) {
    const int64_t called_ns = NowNs();
    const Deadline deadline = Deadline::AfterMs(2000);
    while (client.tokens().empty() && !ran.load() && !deadline.Passed()) {
      ran.store(host->ranks().lanes()[0]->now().since_ns > called_ns);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    keep(output);
  };
  EXPECT_TRUE(engine.Submit(client.request()).ok());
  EXPECT_TRUE(client.WaitForFinish());
  EXPECT_EQ(client.tokens().size(), 2u);
  return ran.load();
}

TEST(OverlapSchedule, RanksComputeTheNextStepWhileResultsAreHandedOnUnlessItIsTurnedOff) {
  EXPECT_TRUE(RanksRunDuringATokensDelivery(true));
  EXPECT_FALSE(RanksRunDuringATokensDelivery(false));
}

TEST(OverlapSchedule, ARequestThatComesDuringAStepIsInTheNextOne) {
  for (const bool overlap : {true, false}) {
    const auto host = LoadHost({});
    Engine engine(*host, {.limits = {}, .overlap_schedule = overlap});
    Client running("running", Prompt(20, 1), Greedy(200));
    Client late("late", Prompt(20, 2), Greedy(1));
    running.Hold();
    ASSERT_TRUE(engine.Submit(running.request()).ok());
    ASSERT_TRUE(running.WaitForTokens(1));
    ASSERT_TRUE(engine.Submit(late.request()).ok());
    // With overlap the second step runs already, and the late request is in the third.
    std::atomic<size_t> tokens_before{0};
    late.request()->on_finish = [&, keep = late.request()->on_finish](const RequestResult& result) {
      tokens_before.store(running.tokens().size());
      keep(result);
    };
    running.Release();
    ASSERT_TRUE(late.WaitForFinish());
    EXPECT_LE(tokens_before.load(), overlap ? 4u : 3u);
    engine.Cancel("running");
    ASSERT_TRUE(running.WaitForFinish());
  }
}

TEST(OverlapSchedule, ACancelledRequestGetsNoMoreTokensAndItsPagesComeBack) {
  const auto host = LoadHost({.total_tokens = 512});
  Engine engine(*host, {});
  std::mt19937 random(kSeed);
  for (int round = 0; round < 30; ++round) {
    Client cancelled("cancelled", Prompt(60, 1), Greedy(150));
    Client kept("kept", Prompt(30, 2), Greedy(10));
    ASSERT_TRUE(engine.Submit(cancelled.request()).ok());
    ASSERT_TRUE(engine.Submit(kept.request()).ok());
    ASSERT_TRUE(cancelled.WaitForTokens(random() % 8));
    engine.Cancel("cancelled");
    ASSERT_TRUE(cancelled.WaitForFinish());
    EXPECT_EQ(cancelled.result().reason, FinishReason::kCancelled);
    EXPECT_EQ(cancelled.result().completion_tokens,
              static_cast<int64_t>(cancelled.tokens().size()));
    ASSERT_TRUE(kept.WaitForFinish());
    EXPECT_EQ(kept.tokens().size(), 10u);
  }
  EXPECT_EQ(engine.load().used_tokens, 0);
  EXPECT_EQ(engine.load().waiting, 0);
}

}  // namespace
}  // namespace causeway
