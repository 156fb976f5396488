// Penalties, bias and seeds give a request the same tokens in every layout, chunk and batch, and
// after retractions.
#include <gtest/gtest.h>

#include "engine/engine_client.h"

namespace causeway {
namespace {

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

SamplingParams Varied(uint32_t i) {
  SamplingParams sampling = Greedy(70);
  sampling.temperature = i % 2 == 0 ? 0.0 : 0.9;
  sampling.seed = i;
  sampling.frequency_penalty = i % 3 == 0 ? 0.4 : 0.0;
  sampling.presence_penalty = i % 3 == 1 ? 0.6 : 0.0;
  sampling.repetition_penalty = i % 3 == 2 ? 1.2 : 1.0;
  sampling.min_new_tokens = i % 4 == 0 ? 5 : 0;
  if (i % 5 == 0) sampling.logit_bias = {{7, 3.0}, {9, -100.0}};
  sampling.logprobs = 2;
  return sampling;
}

std::vector<std::unique_ptr<Client>> Clients() {
  std::vector<std::unique_ptr<Client>> clients;
  for (uint32_t i = 0; i < 10; ++i) {
    const int64_t lengths[] = {1, 20, 63, 64, 100};
    clients.push_back(
        std::make_unique<Client>(std::to_string(i), Prompt(lengths[i % 5], i % 4), Varied(i)));
  }
  return clients;
}

using Bits = std::vector<std::pair<int32_t, double>>;

Bits BitsOf(const Client& client) {
  Bits out;
  for (const TokenOutput& one : client.outputs()) out.emplace_back(one.token, one.logprob);
  return out;
}

const std::vector<Bits>& Alone() {
  static const auto* alone = [] {
    auto* out = new std::vector<Bits>;
    const auto host = LoadHost({});
    Engine engine(*host, {.limits = {.chunked_prefill_size = -1}});
    for (const auto& client : Clients()) {
      EXPECT_TRUE(engine.Submit(client->request()).ok());
      EXPECT_TRUE(client->WaitForFinish());
      out->push_back(BitsOf(*client));
    }
    return out;
  }();
  return *alone;
}

class SamplingIdentity : public testing::TestWithParam<HostSetup> {};

TEST_P(SamplingIdentity, ChangedLogitsGiveTheSameTokensInEveryBatchAndAfterRetractions) {
  HostSetup setup = GetParam();
  setup.total_tokens = 6 * kPage;  // too few for all: requests are retracted
  const auto host = LoadHost(setup);
  Engine engine(*host, {.limits = {.chunked_prefill_size = 30,
                                   .max_running_requests = 5,
                                   .schedule_conservativeness = 0}});
  const auto clients = Clients();
  for (const auto& client : clients) ASSERT_TRUE(engine.Submit(client->request()).ok());
  int64_t retractions = 0;
  for (size_t i = 0; i < clients.size(); ++i) {
    ASSERT_TRUE(clients[i]->WaitForFinish());
    EXPECT_EQ(BitsOf(*clients[i]), Alone()[i]) << "request " << i;
    retractions += clients[i]->result().retractions;
  }
  EXPECT_GT(retractions, 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, SamplingIdentity,
                         testing::Values(HostSetup{}, HostSetup{.cp = 2},
                                         HostSetup{.cp = 2, .tp = 2, .ep = 4}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           const HostSetup& setup = info.param;
                           return Text("cp", setup.cp, "tp", setup.tp, "ep", setup.ep);
                         });

TEST(SamplingEffects, ABiasedTokenIsChosenAndABannedOneNever) {
  const auto host = LoadHost({});
  Engine engine(*host, {});
  SamplingParams sampling = Greedy(20);
  sampling.logit_bias = {{42, 100.0}};
  Client wanted("wanted", Prompt(20, 1), sampling);
  ASSERT_TRUE(engine.Submit(wanted.request()).ok());
  ASSERT_TRUE(wanted.WaitForFinish());
  EXPECT_EQ(wanted.tokens(), std::vector<int32_t>(20, 42));
  // With a frequency penalty the same token can't stay the best one for ever.
  sampling.logit_bias = {{42, 5.0}};
  sampling.frequency_penalty = 2.0;
  Client varied("varied", Prompt(20, 1), sampling);
  ASSERT_TRUE(engine.Submit(varied.request()).ok());
  ASSERT_TRUE(varied.WaitForFinish());
  EXPECT_NE(varied.tokens(), std::vector<int32_t>(20, 42));
}

}  // namespace
}  // namespace causeway
