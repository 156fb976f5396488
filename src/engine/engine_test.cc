// The engine over a tiny real model: many requests at once, and everything that can end one.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <random>
#include <thread>

#include "engine/engine_client.h"

namespace causeway {
namespace {

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

Client MakeClient(const std::string& id, int64_t prompt, int64_t tokens) {
  return Client(id, Prompt(prompt, static_cast<uint32_t>(prompt)), Greedy(tokens));
}

// Requests of many lengths, greedy and random, each of which gives its own fixed tokens.
std::vector<std::unique_ptr<Client>> ManyClients() {
  std::vector<std::unique_ptr<Client>> clients;
  std::mt19937 random(kSeed);
  for (uint32_t i = 0; i < 24; ++i) {
    SamplingParams sampling = Greedy(1 + random() % 12);
    if (i % 3 != 0) sampling.temperature = 0.8;
    if (i % 3 == 2) sampling.top_k = 20;
    sampling.seed = i;
    const int64_t lengths[] = {1, 2, 17, 63, 64, 65, 130, 200};
    clients.push_back(
        std::make_unique<Client>(std::to_string(i), Prompt(lengths[i % 8], i), sampling));
  }
  return clients;
}

// The tokens of each of ManyClients(), alone on one rank, prompts whole.
const std::vector<std::vector<int32_t>>& ExpectedTokens() {
  static const auto* expected = [] {
    auto* tokens = new std::vector<std::vector<int32_t>>;
    const auto host = LoadHost({});
    Engine engine(*host, {.limits = {.chunked_prefill_size = -1}});
    for (const auto& client : ManyClients()) {
      EXPECT_TRUE(engine.Submit(client->request()).ok());
      EXPECT_TRUE(client->WaitForFinish());
      tokens->push_back(client->tokens());
    }
    return tokens;
  }();
  return *expected;
}

// All of ManyClients() at once, from several threads, on few pages.
void ExpectTheTokensThatEachGetsAlone(HostSetup setup) {
  setup.total_tokens = 640;  // three or four of them at a time: pages are contended
  const auto host = LoadHost(setup);
  {
    Engine engine(*host, {.limits = {.chunked_prefill_size = 40, .max_running_requests = 5}});
    const auto clients = ManyClients();
    std::vector<std::thread> submitters;
    for (size_t thread = 0; thread < 4; ++thread) {
      submitters.emplace_back([&, thread] {
        for (size_t i = thread; i < clients.size(); i += 4) {
          const Status status = engine.Submit(clients[i]->request());
          EXPECT_TRUE(status.ok()) << status.message();
        }
      });
    }
    for (std::thread& thread : submitters) thread.join();
    for (size_t i = 0; i < clients.size(); ++i) {
      ASSERT_TRUE(clients[i]->WaitForFinish()) << i;
      const RequestResult result = clients[i]->result();
      EXPECT_TRUE(result.status.ok()) << result.status.message();
      EXPECT_EQ(result.reason, FinishReason::kLength);
      EXPECT_EQ(clients[i]->tokens(), ExpectedTokens()[i]) << "request " << i;
      EXPECT_EQ(result.prompt_tokens, static_cast<int64_t>(clients[i]->request()->prompt.size()));
      EXPECT_EQ(result.completion_tokens, clients[i]->request()->sampling.max_new_tokens);
      EXPECT_GE(result.timing.queue_seconds, 0.0);
      EXPECT_GT(result.timing.prefill_seconds, 0.0);
    }
    for (const auto& client : clients) EXPECT_EQ(client->finishes(), 1);
  }
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
}

class EngineTest : public testing::TestWithParam<int> {
 protected:
  static HostSetup Ranks() { return {.cp = GetParam()}; }
};

TEST_P(EngineTest, ManyRequestsAtOnceGetTheTokensThatEachGetsAlone) {
  ExpectTheTokensThatEachGetsAlone(Ranks());
}

TEST_P(EngineTest, CancelEndsARequestInAnyStageAndNoOther) {
  const auto host = LoadHost(Ranks());
  Engine engine(*host, {.limits = {.chunked_prefill_size = 16, .max_running_requests = 2}});
  Client kept = MakeClient("kept", 20, 60);
  Client decoding = MakeClient("decoding", 5, 200);
  Client waiting = MakeClient("waiting", 5, 200);
  kept.Hold();
  for (Client* client : {&kept, &decoding, &waiting}) {
    ASSERT_TRUE(engine.Submit(client->request()).ok());
  }
  ASSERT_TRUE(kept.WaitForTokens(1));  // the engine stands still, two run and one waits
  for (const char* id : {"waiting", "no such request", "decoding", "waiting"}) engine.Cancel(id);
  kept.Release();
  for (Client* client : {&decoding, &waiting}) {
    ASSERT_TRUE(client->WaitForFinish());
    EXPECT_EQ(client->result().reason, FinishReason::kCancelled);
    EXPECT_EQ(client->result().status.code(), StatusCode::kCancelled);
  }
  EXPECT_LT(decoding.tokens().size(), 200u);
  EXPECT_TRUE(waiting.tokens().empty());
  ASSERT_TRUE(kept.WaitForFinish());
  EXPECT_EQ(kept.result().reason, FinishReason::kLength);
  EXPECT_EQ(kept.tokens().size(), 60u);
  for (const Client* client : {&kept, &decoding, &waiting}) EXPECT_EQ(client->finishes(), 1);
}

TEST_P(EngineTest, TheQueueTakesAsManyWaitingRequestsAsItSaysBesideTheRunningOnes) {
  const auto host = LoadHost(Ranks());
  Engine engine(*host, {.limits = {.max_running_requests = 1}, .max_queued_requests = 2});
  Client running = MakeClient("running", 5, 3);
  running.Hold();
  ASSERT_TRUE(engine.Submit(running.request()).ok());
  ASSERT_TRUE(running.WaitForTokens(1));
  Client first = MakeClient("first", 5, 3);
  Client second = MakeClient("second", 5, 3);
  Client third = MakeClient("third", 5, 3);
  EXPECT_TRUE(engine.Submit(first.request()).ok());
  EXPECT_TRUE(engine.Submit(second.request()).ok());
  const Status full = engine.Submit(third.request());
  EXPECT_EQ(full.code(), StatusCode::kUnavailable);
  EXPECT_EQ(full.message(), "the queue is full: 2 requests are waiting");
  engine.Cancel("first");
  engine.Cancel("second");
  running.Release();
  ASSERT_TRUE(first.WaitForFinish());
  ASSERT_TRUE(second.WaitForFinish());
  ASSERT_TRUE(running.WaitForFinish());
  // Both gave their places back.
  EXPECT_TRUE(engine.Submit(third.request()).ok());
  ASSERT_TRUE(third.WaitForFinish());
  EXPECT_EQ(third.result().reason, FinishReason::kLength);
  EXPECT_EQ(third.finishes(), 1);
}

TEST_P(EngineTest, TheLoadFollowsTheRequests) {
  const auto host = LoadHost(Ranks());
  Engine engine(*host, {.limits = {.max_running_requests = 1}});
  EXPECT_EQ(engine.load().running, 0);
  EXPECT_EQ(engine.load().max_total_tokens, 2048);
  EXPECT_EQ(engine.load().max_running_requests, 1);
  Client running = MakeClient("running", 70, 3);
  Client waiting = MakeClient("waiting", 5, 3);
  running.Hold();
  ASSERT_TRUE(engine.Submit(running.request()).ok());
  ASSERT_TRUE(running.WaitForTokens(1));
  ASSERT_TRUE(engine.Submit(waiting.request()).ok());
  EXPECT_EQ(engine.load().running, 1);
  EXPECT_EQ(engine.load().waiting, 1);
  EXPECT_EQ(engine.load().used_tokens, 128) << "two pages of 64";
  running.Release();
  ASSERT_TRUE(running.WaitForFinish());
  ASSERT_TRUE(waiting.WaitForFinish());
  EXPECT_EQ(engine.load().running, 0);
  EXPECT_EQ(engine.load().waiting, 0);
  EXPECT_EQ(engine.load().used_tokens, 0);
  const std::vector<RankSeconds> ranks = engine.load().ranks;
  ASSERT_EQ(ranks.size(), static_cast<size_t>(GetParam()));
  for (const RankSeconds& rank : ranks) {
    EXPECT_GT(rank.compute, 0.0);
    EXPECT_GE(rank.wait, 0.0);
    EXPECT_EQ(rank.exchange, 0.0) << "without expert parallelism";
  }
}

TEST_P(EngineTest, RequestsThatCanNeverBeServedAreRefusedWithTheNumbers) {
  HostSetup setup = Ranks();
  setup.total_tokens = 128;
  const auto host = LoadHost(setup);
  Engine engine(*host, {});
  EXPECT_EQ(engine.context_length(), 256);
  struct Case {
    std::vector<int32_t> prompt;
    int64_t answer;
    std::string message;
  };
  const auto vocab = static_cast<int32_t>(host->config().vocab_size);
  for (const Case& c : {
           Case{{}, 5, "the prompt has no tokens"},
           Case{{1}, 0, "max_tokens is 0; it must be at least 1"},
           Case{{1}, -3, "max_tokens is -3; it must be at least 1"},
           Case{Prompt(250, 1), 7,
                "the prompt has 250 tokens and max_tokens is 7; together they must not exceed the "
                "context length of 256"},
           Case{{1, 2},
                INT64_MAX,
                "the prompt has 2 tokens and max_tokens is 9223372036854775807; together they must "
                "not exceed the context length of 256"},
           Case{Prompt(100, 1), 29,
                "the request needs 192 tokens of KV cache; it has 128 (--max-total-tokens)"},
           Case{{1, vocab}, 1, Text("prompt token 1 is ", vocab, "; ids are 0 to ", vocab - 1)},
           Case{{-1}, 1, Text("prompt token 0 is -1; ids are 0 to ", vocab - 1)},
       }) {
    Client client("refused", c.prompt, Greedy(c.answer));
    const Status status = engine.Submit(client.request());
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), c.message);
    EXPECT_EQ(client.finishes(), 0);
  }
  Client longest("longest", Prompt(100, 1), Greedy(28));
  EXPECT_TRUE(engine.Submit(longest.request()).ok());
  EXPECT_TRUE(longest.WaitForFinish());
  EXPECT_EQ(longest.tokens().size(), 28u);
}

TEST_P(EngineTest, StopTokensEndAnAnswerAndAreNotSent) {
  const auto host = LoadHost(Ranks());
  Engine engine(*host, {});
  Client plain = MakeClient("plain", 40, 12);
  ASSERT_TRUE(engine.Submit(plain.request()).ok());
  ASSERT_TRUE(plain.WaitForFinish());
  const std::vector<int32_t> all = plain.tokens();
  ASSERT_EQ(all.size(), 12u);
  const auto until = std::find(all.begin(), all.end(), all[5]);  // where the token comes first
  SamplingParams sampling = Greedy(12);
  sampling.stop_token_ids = {-5, all[5], 1 << 30};  // ids that do not exist are harmless
  Client stopped("stopped", Prompt(40, 40), sampling);
  ASSERT_TRUE(engine.Submit(stopped.request()).ok());
  ASSERT_TRUE(stopped.WaitForFinish());
  EXPECT_EQ(stopped.result().reason, FinishReason::kStop);
  EXPECT_TRUE(stopped.result().status.ok());
  EXPECT_EQ(stopped.tokens(), std::vector<int32_t>(all.begin(), until));
  EXPECT_EQ(stopped.result().completion_tokens, until - all.begin() + 1);
  EXPECT_EQ(stopped.result().stop_token.token, all[5]);
  EXPECT_EQ(plain.result().stop_token.token, -1);

  // Before min_new_tokens the stop token can't be chosen.
  sampling.min_new_tokens = 12;
  Client longer("longer", Prompt(40, 40), sampling);
  ASSERT_TRUE(engine.Submit(longer.request()).ok());
  ASSERT_TRUE(longer.WaitForFinish());
  EXPECT_EQ(longer.result().reason, FinishReason::kLength);
  const std::vector<int32_t> tokens = longer.tokens();
  EXPECT_EQ(tokens.size(), 12u);
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), all[5]), 0);
}

TEST_P(EngineTest, IdsWithoutTextAreNeverSampled) {
  const auto host = LoadHost(Ranks());
  constexpr int64_t kLimit = 7;
  Engine engine(*host, {.limits = {}, .vocab_limit = kLimit});
  SamplingParams sampling = Greedy(40);
  sampling.temperature = 5.0;
  Client client("client", Prompt(10, 3), sampling);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  ASSERT_EQ(client.tokens().size(), 40u);
  for (const int32_t token : client.tokens()) EXPECT_LT(token, kLimit);
}

TEST_P(EngineTest, DrainRefusesNewRequestsAndWaitsForTheOthersUntilItsDeadline) {
  const auto host = LoadHost(Ranks());
  Engine engine(*host, {});
  Client running = MakeClient("running", 20, 30);
  running.Hold();
  ASSERT_TRUE(engine.Submit(running.request()).ok());
  ASSERT_TRUE(running.WaitForTokens(1));
  EXPECT_FALSE(engine.Drain(Deadline::AfterMs(30)));
  Client late = MakeClient("late", 5, 5);
  const Status refused = engine.Submit(late.request());
  EXPECT_EQ(refused.code(), StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(), "the server is shutting down");
  running.Release();
  EXPECT_TRUE(engine.Drain(Deadline::AfterMs(kWaitMs)));
  EXPECT_EQ(running.finishes(), 1);
  EXPECT_EQ(running.tokens().size(), 30u);
  EXPECT_TRUE(engine.healthy());
}

TEST_P(EngineTest, TheDestructorAnswersRunningAndWaitingRequests) {
  const auto host = LoadHost(Ranks());
  Client running = MakeClient("running", 20, 200);
  Client waiting = MakeClient("waiting", 20, 200);
  {
    Engine engine(*host, {.limits = {.max_running_requests = 1}});
    ASSERT_TRUE(engine.Submit(running.request()).ok());
    ASSERT_TRUE(engine.Submit(waiting.request()).ok());
    ASSERT_TRUE(running.WaitForTokens(2));
  }
  for (const Client* client : {&running, &waiting}) {
    EXPECT_EQ(client->finishes(), 1);
    EXPECT_EQ(client->result().reason, FinishReason::kCancelled);
    EXPECT_EQ(client->result().status.message(), "the server is shutting down");
  }
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
  // The host serves the next engine.
  Engine engine(*host, {});
  Client next = MakeClient("next", 20, 3);
  ASSERT_TRUE(engine.Submit(next.request()).ok());
  ASSERT_TRUE(next.WaitForFinish());
  EXPECT_TRUE(next.result().status.ok());
}

TEST_P(EngineTest, AFailedStepEndsEveryRequestOnceWithTheCauseAndRefusesNewOnes) {
  HostSetup setup = Ranks();
  setup.fault_rank = setup.cp - 1;
  // Each step has 5 collectives in a model of 3 layers: the step after the first few fails.
  setup.fault = {.kind = Fault::Kind::kThrow, .from = 23};
  const auto host = LoadHost(setup);
  Engine engine(*host, {.limits = {.max_running_requests = 1}});
  Client running = MakeClient("running", 20, 200);
  Client waiting = MakeClient("waiting", 20, 200);
  ASSERT_TRUE(engine.Submit(running.request()).ok());
  ASSERT_TRUE(engine.Submit(waiting.request()).ok());
  ASSERT_TRUE(running.WaitForFinish());
  ASSERT_TRUE(waiting.WaitForFinish());
  EXPECT_EQ(running.result().reason, FinishReason::kError);
  EXPECT_EQ(running.result().status.code(), StatusCode::kInternal);
  const std::string message = running.result().status.message();
  EXPECT_NE(message.find(Text("rank ", setup.cp - 1, ": injected fault in ")), std::string::npos)
      << message;
  EXPECT_FALSE(running.tokens().empty());
  EXPECT_EQ(waiting.result().reason, FinishReason::kError);
  EXPECT_EQ(waiting.result().status.message(), "the engine has failed and is shutting down");
  EXPECT_FALSE(engine.healthy());
  EXPECT_EQ(engine.Submit(running.request()).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(engine.Drain(Deadline::AfterMs(kWaitMs)));
  EXPECT_EQ(running.finishes(), 1);
  EXPECT_EQ(waiting.finishes(), 1);
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
}

TEST_P(EngineTest, EveryRequestTakenAroundAFailureGetsExactlyOneAnswer) {
  HostSetup setup = Ranks();
  setup.fault_rank = 0;
  setup.fault = {.kind = Fault::Kind::kThrow, .from = 40};
  const auto host = LoadHost(setup);
  Engine engine(*host, {});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 400; ++i) {
    clients.push_back(std::make_unique<Client>(std::to_string(i), Prompt(3, 1), Greedy(30)));
  }
  std::vector<std::atomic<bool>> taken(clients.size());
  std::vector<std::thread> submitters;
  for (size_t thread = 0; thread < 2; ++thread) {
    submitters.emplace_back([&, thread] {
      for (size_t i = thread; i < clients.size(); i += 2) {
        taken[i] = engine.Submit(clients[i]->request()).ok();
        // Until the failure the pace is the engine's, then as fast as possible.
        if (taken[i]) std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
  }
  for (std::thread& thread : submitters) thread.join();
  ASSERT_TRUE(engine.Drain(Deadline::AfterMs(kWaitMs)));
  for (size_t i = 0; i < clients.size(); ++i) {
    EXPECT_EQ(clients[i]->finishes(), taken[i] ? 1 : 0) << "request " << i;
  }
  EXPECT_FALSE(engine.healthy());
}

TEST_P(EngineTest, AStepBeyondTheWatchdogEndsAtItsNextCollectiveWithAnError) {
  HostSetup setup = Ranks();
  setup.fault_rank = setup.cp - 1;
  // Late at a collective of the first step, and from then on.
  setup.fault = {.kind = Fault::Kind::kDelay, .from = 1, .delay_ms = 500};
  setup.watchdog_timeout_ms = 100;
  const auto host = LoadHost(setup);
  Engine engine(*host, {});
  Client client = MakeClient("client", 20, 50);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  EXPECT_EQ(client.result().reason, FinishReason::kError);
  const std::string message = client.result().status.message();
  EXPECT_NE(message.find("was aborted: the step exceeded --watchdog-timeout of 0.1 s"),
            std::string::npos)
      << message;
  EXPECT_TRUE(client.tokens().empty());
  EXPECT_FALSE(engine.healthy());
}

INSTANTIATE_TEST_SUITE_P(ContextParallel, EngineTest, testing::Values(1, 3),
                         [](const testing::TestParamInfo<int>& info) {
                           return Text("cp", info.param);
                         });

// Sequences are spread over data-parallel groups as they come, and that must not show.
class EngineLayouts : public testing::TestWithParam<HostSetup> {};

TEST_P(EngineLayouts, ManyRequestsAtOnceGetTheTokensThatEachGetsAlone) {
  ExpectTheTokensThatEachGetsAlone(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Products, EngineLayouts,
                         testing::Values(HostSetup{.dp = 2}, HostSetup{.tp = 2},
                                         HostSetup{.cp = 2, .dp = 2}, HostSetup{.cp = 2, .ep = 2},
                                         HostSetup{.dp = 2, .tp = 2, .ep = 4}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           const HostSetup& setup = info.param;
                           return Text("cp", setup.cp, "dp", setup.dp, "tp", setup.tp, "ep",
                                       setup.ep);
                         });

TEST(EngineIdle, WaitingForRequestsTakesNoProcessorTime) {
  const auto host = LoadHost({.cp = 2, .dp = 2, .tp = 2, .threads_per_rank = 2});
  Engine engine(*host, {});
  Client client = MakeClient("client", 40, 5);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  // Spinning ends soon after the last step, wherever the scheduler had put the threads.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const std::clock_t begin = std::clock();  // processor time of the whole process
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  // One thread that never slept would take 1 s.
  EXPECT_LT(seconds, 0.1);
  Client next = MakeClient("next", 40, 5);
  ASSERT_TRUE(engine.Submit(next.request()).ok());
  ASSERT_TRUE(next.WaitForFinish());
  EXPECT_EQ(next.result().reason, FinishReason::kLength);
}

TEST(EngineFault, ARankThatHangsIsNamedWithItsOperationWithinTheTimeout) {
  const auto host = LoadHost({.cp = 3,
                              .fault_rank = 1,
                              .fault = {.kind = Fault::Kind::kNeverArrive, .from = 7},
                              .collective_timeout_ms = 200});
  Engine engine(*host, {});
  Client client = MakeClient("client", 20, 200);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  EXPECT_EQ(client.result().reason, FinishReason::kError);
  const std::string message = client.result().status.message();
  EXPECT_NE(message.find("of layer "), std::string::npos) << message;
  EXPECT_NE(message.find("rank 1"), std::string::npos) << message;
  EXPECT_FALSE(engine.healthy());
}

}  // namespace
}  // namespace causeway
