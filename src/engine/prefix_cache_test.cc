// The prefix cache and retraction over a tiny real model: neither may change a bit of an answer.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/engine.h"
#include "engine/engine_client.h"
#include "kernels/op_table.h"
#include "model/cost.h"

namespace causeway {
namespace {

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

// Tokens and log-probabilities, which are functions of all logits.
void ExpectTheSameBits(const Client& expected, const Client& found, const std::string& what) {
  const std::vector<TokenOutput> a = expected.outputs();
  const std::vector<TokenOutput> b = found.outputs();
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].token, b[i].token) << what << ", token " << i;
    ASSERT_EQ(a[i].logprob, b[i].logprob) << what << ", token " << i;
    ASSERT_EQ(a[i].top.size(), b[i].top.size()) << what;
    for (size_t j = 0; j < a[i].top.size(); ++j) {
      ASSERT_EQ(a[i].top[j].token, b[i].top[j].token) << what << ", token " << i;
      ASSERT_EQ(a[i].top[j].logprob, b[i].top[j].logprob) << what << ", token " << i;
    }
  }
}

// Random answers of `tokens` tokens with the log-probabilities of 20.
std::unique_ptr<Client> Watched(const std::string& id, std::vector<int32_t> prompt,
                                int64_t tokens) {
  SamplingParams sampling = Greedy(tokens);
  sampling.temperature = 0.8;
  sampling.seed = prompt.size();
  sampling.logprobs = 20;
  return std::make_unique<Client>(id, std::move(prompt), sampling);
}

void Send(Engine& engine, const Client& client) {
  const Status status = engine.Submit(client.request());
  ASSERT_TRUE(status.ok()) << status.message();
}

// Of each, alone and without a prefix cache, on one rank.
std::vector<std::unique_ptr<Client>> ColdRuns(const std::vector<std::vector<int32_t>>& prompts,
                                              int64_t tokens) {
  const auto host = LoadHost({});
  Engine engine(*host, {.limits = {.chunked_prefill_size = -1}, .prefix_cache = false});
  std::vector<std::unique_ptr<Client>> clients;
  for (const auto& prompt : prompts) {
    clients.push_back(Watched("cold", prompt, tokens));
    Send(engine, *clients.back());
    EXPECT_TRUE(clients.back()->WaitForFinish());
    EXPECT_EQ(clients.back()->result().cached_tokens, 0);
  }
  return clients;
}

class PrefixCache : public testing::TestWithParam<HostSetup> {};

TEST_P(PrefixCache, AHitOfAnyLengthGivesTheBitsOfAColdRun) {
  struct Case {
    int64_t common;  // tokens that the prompt has in common with the first one
    int64_t length;
  };
  const std::vector<Case> cases = {{200, 200}, {193, 193}, {192, 192}, {200, 240}, {191, 230},
                                   {128, 129}, {129, 200}, {150, 160}, {127, 140}, {64, 65},
                                   {65, 66},   {64, 64},   {63, 100},  {100, 210}, {1, 90}};
  const std::vector<int32_t> first = Prompt(200, 77);
  std::vector<std::vector<int32_t>> prompts;
  for (const Case& c : cases) {
    prompts.push_back(Prompt(c.length, static_cast<uint32_t>(1000 + prompts.size())));
    std::copy_n(first.begin(), c.common, prompts.back().begin());
    if (c.common < c.length) {  // the tokens after it differ for certain
      int32_t& next = prompts.back()[static_cast<size_t>(c.common)];
      if (c.common < 200 && next == first[static_cast<size_t>(c.common)]) next ^= 1;
    }
  }
  const auto cold = ColdRuns(prompts, 5);
  HostSetup setup = GetParam();
  setup.total_tokens = 4096;  // nothing has to be evicted
  const auto host = LoadHost(setup);
  for (const int64_t chunk : {-1, 50}) {
    Engine engine(*host, {.limits = {.chunked_prefill_size = chunk}});
    const auto begin = Watched("first", first, 3);
    Send(engine, *begin);
    ASSERT_TRUE(begin->WaitForFinish());
    EXPECT_EQ(begin->result().cached_tokens, 0);
    for (size_t i = 0; i < cases.size(); ++i) {
      const std::string what =
          Text("chunk ", chunk, ", ", cases[i].common, " common tokens of ", cases[i].length);
      const auto client = Watched("warm", prompts[i], 5);
      Send(engine, *client);
      ASSERT_TRUE(client->WaitForFinish());
      EXPECT_EQ(client->result().cached_tokens,
                std::min(cases[i].common, cases[i].length - 1) / kPage * kPage)
          << what;
      EXPECT_EQ(client->outputs()[0].cached_tokens, client->result().cached_tokens);
      ExpectTheSameBits(*cold[i], *client, what);
    }
    // All at once, which spreads them over groups and batches.
    std::vector<std::unique_ptr<Client>> together;
    for (size_t i = 0; i < cases.size(); ++i) {
      together.push_back(Watched(std::to_string(i), prompts[i], 5));
      Send(engine, *together.back());
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      ASSERT_TRUE(together[i]->WaitForFinish());
      EXPECT_EQ(together[i]->result().cached_tokens, (cases[i].length - 1) / kPage * kPage);
      ExpectTheSameBits(*cold[i], *together[i], Text("chunk ", chunk, ", together, ", i));
    }
  }
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
}

TEST_P(PrefixCache, AConversationGoesOnWithTheBitsOfAColdRun) {
  const auto host = LoadHost(GetParam());
  const int64_t border = MaterialisedEnd(host->config());
  ASSERT_LT(border, 140);
  Engine engine(*host, {.limits = {.chunked_prefill_size = 50}});
  for (const int64_t length : {int64_t{40}, int64_t{100}, border - 1, border, int64_t{140}}) {
    const auto turn = Watched("turn", Prompt(length, 5), 90);
    Send(engine, *turn);
    ASSERT_TRUE(turn->WaitForFinish());
    // The whole conversation and something new, as a client sends it.
    std::vector<int32_t> next = turn->request()->prompt;
    const std::vector<int32_t> answer = turn->tokens();
    next.insert(next.end(), answer.begin(), answer.end());
    const std::vector<int32_t> question = Prompt(10, 6);
    next.insert(next.end(), question.begin(), question.end());
    const auto warm = Watched("next", next, 5);
    Send(engine, *warm);
    ASSERT_TRUE(warm->WaitForFinish());
    // The last token of an answer is never computed; what decode has computed counts where it has
    // the bits of prefill.
    EXPECT_EQ(warm->result().cached_tokens,
              (length < border ? length : length + 90 - 1) / kPage * kPage)
        << length;
    const auto cold = ColdRuns({next}, 5);
    ExpectTheSameBits(*cold[0], *warm, Text("prompt of ", length));
    engine.FlushCache();
  }
}

TEST_P(PrefixCache, RetractedRequestsGetTheTokensThatEachGetsAlone) {
  HostSetup setup = GetParam();
  setup.total_tokens = 6 * kPage;  // about two requests at their longest
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 12; ++i) {
    const int64_t lengths[] = {1, 20, 40, 63, 64, 90, 128};
    prompts.push_back(Prompt(lengths[i % 7], i % 5));  // some begin alike
  }
  const auto cold = ColdRuns(prompts, 100);
  const auto host = LoadHost(setup);
  for (const bool prefix_cache : {true, false}) {
    int64_t retractions = 0;
    {
      Engine engine(*host, {.limits = {.chunked_prefill_size = 30,
                                       .max_running_requests = 6,
                                       .schedule_conservativeness = 0},
                            .prefix_cache = prefix_cache});
      std::vector<std::unique_ptr<Client>> clients;
      for (size_t i = 0; i < prompts.size(); ++i) {
        clients.push_back(Watched(std::to_string(i), prompts[i], 100));
        Send(engine, *clients.back());
      }
      for (size_t i = 0; i < clients.size(); ++i) {
        ASSERT_TRUE(clients[i]->WaitForFinish());
        const RequestResult result = clients[i]->result();
        ASSERT_TRUE(result.status.ok()) << result.status.message();
        ExpectTheSameBits(*cold[i], *clients[i],
                          Text("request ", i, ", retracted ", result.retractions, " times"));
        retractions += result.retractions;
      }
      for (const auto& client : clients) EXPECT_EQ(client->finishes(), 1);
    }
    EXPECT_GT(retractions, 5);
    EXPECT_EQ(host->pages().available(), host->pages().capacity());
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, PrefixCache,
                         testing::Values(HostSetup{}, HostSetup{.cp = 3}, HostSetup{.tp = 2},
                                         HostSetup{.dp = 2},
                                         HostSetup{.cp = 2, .dp = 2, .threads_per_rank = 2},
                                         HostSetup{.cp = 2, .tp = 2, .ep = 4}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           const HostSetup& setup = info.param;
                           return Text("cp", setup.cp, "dp", setup.dp, "tp", setup.tp, "ep",
                                       setup.ep);
                         });

TEST(PrefixCacheFlags, AFlushAndTheFlagLeaveNothingToHit) {
  const auto host = LoadHost({});
  for (const bool prefix_cache : {true, false}) {
    Engine engine(*host, {.limits = {}, .prefix_cache = prefix_cache});
    const auto hit = [&] {
      const auto client = Watched("client", Prompt(150, 1), 3);
      Send(engine, *client);
      EXPECT_TRUE(client->WaitForFinish());
      return client->result().cached_tokens;
    };
    EXPECT_EQ(hit(), 0);
    EXPECT_EQ(hit(), prefix_cache ? 128 : 0);
    engine.FlushCache();
    EXPECT_EQ(hit(), 0);
    EXPECT_EQ(hit(), prefix_cache ? 128 : 0);
  }
}

// A cancelled request has computed its prompt as any other.
TEST(PrefixCacheFlags, ACancelledRequestLeavesWhatItHasComputed) {
  const auto host = LoadHost({});
  Engine engine(*host, {});
  const auto cancelled = Watched("cancelled", Prompt(150, 1), 100);
  cancelled->Hold();
  Send(engine, *cancelled);
  ASSERT_TRUE(cancelled->WaitForTokens(1));
  engine.Cancel("cancelled");
  cancelled->Release();
  ASSERT_TRUE(cancelled->WaitForFinish());
  EXPECT_EQ(cancelled->result().reason, FinishReason::kCancelled);
  const auto next = Watched("next", Prompt(150, 1), 3);
  Send(engine, *next);
  ASSERT_TRUE(next->WaitForFinish());
  EXPECT_EQ(next->result().cached_tokens, 128);
  EXPECT_EQ(engine.load().cache_hit_rate, 128.0 / 150.0);
  EXPECT_EQ(engine.load().retracted, 0);
}

}  // namespace
}  // namespace causeway
