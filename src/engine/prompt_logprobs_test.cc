// Log-probabilities of prompts: the same bits in every layout, chunk and batch, whatever the prefix
// cache has, from few rows of logits at a time.
#include <gtest/gtest.h>

#include "engine/engine_client.h"
#include "engine/sampler.h"

namespace causeway {
namespace {

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

SamplingParams Asking(int64_t from, int64_t tokens = 3) {
  SamplingParams sampling = Greedy(tokens);
  sampling.logprobs = 3;
  sampling.logprob_ids = {5, 7};
  sampling.prompt_logprobs_from = from;
  return sampling;
}

// From all logits of one prefill of the whole prompt on one rank.
std::vector<TokenOutput> Reference(const std::vector<int32_t>& prompt, int64_t from) {
  const auto host = LoadHost({});
  auto run = SequenceRun::Make(*host, static_cast<int64_t>(prompt.size()));
  EXPECT_TRUE(run.ok());
  std::vector<float> logits;
  const Status status = (*run)->Prefill(prompt, -1, LogitsWanted::kAll, logits);
  EXPECT_TRUE(status.ok()) << status.message();
  const int64_t vocab = host->config().vocab_size;
  std::vector<TokenOutput> out;
  for (int64_t p = from; p + 1 < static_cast<int64_t>(prompt.size()); ++p) {
    TokenOutput one{.token = prompt[static_cast<size_t>(p + 1)]};
    AddLogprobs(logits.data() + p * vocab, vocab, vocab, 3, {5, 7}, one);
    out.push_back(one);
  }
  return out;
}

void ExpectTheSame(const TokenOutput& first, const std::vector<TokenOutput>& expected,
                   const std::string& what) {
  ASSERT_NE(first.prompt, nullptr) << what;
  ASSERT_EQ(first.prompt->size(), expected.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) {
    const TokenOutput& one = (*first.prompt)[i];
    EXPECT_EQ(one.token, expected[i].token) << what << ", " << i;
    EXPECT_EQ(one.logprob, expected[i].logprob) << what << ", " << i;
    for (const auto list : {&TokenOutput::top, &TokenOutput::listed}) {
      ASSERT_EQ((one.*list).size(), (expected[i].*list).size()) << what << ", " << i;
      for (size_t k = 0; k < (one.*list).size(); ++k) {
        EXPECT_EQ((one.*list)[k].token, (expected[i].*list)[k].token) << what << ", " << i;
        EXPECT_EQ((one.*list)[k].logprob, (expected[i].*list)[k].logprob) << what << ", " << i;
      }
    }
  }
}

class PromptLogprobs : public testing::TestWithParam<HostSetup> {};

TEST_P(PromptLogprobs, AreThoseOfAllLogitsWhateverTheChunkAndTheCache) {
  const std::vector<int32_t> prompt = Prompt(150, 1);
  const std::vector<TokenOutput> all = Reference(prompt, 0);
  const auto host = LoadHost(GetParam());
  for (const int64_t chunk : {-1, 7, 64, 100}) {
    Engine engine(*host, {.limits = {.chunked_prefill_size = chunk}});
    // The cache has the whole prompt, from a request that asks for nothing.
    Client plain("plain", prompt, Greedy(3));
    ASSERT_TRUE(engine.Submit(plain.request()).ok());
    ASSERT_TRUE(plain.WaitForFinish());
    for (const int64_t from : {0, 1, 63, 64, 70, 128, 148, 149}) {
      const std::string what = Text("chunk ", chunk, ", from ", from);
      Client client("client", prompt, Asking(from));
      ASSERT_TRUE(engine.Submit(client.request()).ok());
      ASSERT_TRUE(client.WaitForFinish());
      const RequestResult result = client.result();
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      const std::vector<TokenOutput> expected(all.begin() + from, all.end());
      ExpectTheSame(client.outputs()[0], expected, what);
      EXPECT_EQ(client.tokens(), plain.tokens()) << what;
      EXPECT_EQ(result.cached_tokens, std::min<int64_t>(from, 149) / kPage * kPage) << what;
      for (size_t i = 1; i < client.outputs().size(); ++i) {
        EXPECT_EQ(client.outputs()[i].prompt, nullptr) << what;
      }
    }
  }
  EXPECT_EQ(host->pages().available(), host->pages().capacity());
}

TEST_P(PromptLogprobs, ManyAtOnceAndAfterRetractionsAreTheSame) {
  HostSetup setup = GetParam();
  setup.total_tokens = 6 * kPage;  // too few for all: requests are retracted
  const auto host = LoadHost(setup);
  Engine engine(*host, {.limits = {.chunked_prefill_size = 30,
                                   .max_running_requests = 6,
                                   .schedule_conservativeness = 0}});
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 10; ++i) {
    const int64_t lengths[] = {1, 2, 40, 64, 65, 120};
    prompts.push_back(Prompt(lengths[i % 6], i % 3));
    clients.push_back(std::make_unique<Client>(std::to_string(i), prompts.back(),
                                               i % 4 == 3 ? Greedy(80) : Asking(0, 80)));
    ASSERT_TRUE(engine.Submit(clients.back()->request()).ok());
  }
  int64_t retractions = 0;
  for (size_t i = 0; i < clients.size(); ++i) {
    ASSERT_TRUE(clients[i]->WaitForFinish());
    ASSERT_TRUE(clients[i]->result().status.ok()) << clients[i]->result().status.message();
    retractions += clients[i]->result().retractions;
    if (i % 4 == 3) {
      EXPECT_EQ(clients[i]->outputs()[0].prompt, nullptr);
    } else {
      ExpectTheSame(clients[i]->outputs()[0], Reference(prompts[i], 0), Text("request ", i));
    }
  }
  EXPECT_GT(retractions, 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, PromptLogprobs,
                         testing::Values(HostSetup{}, HostSetup{.cp = 3}, HostSetup{.dp = 2},
                                         HostSetup{.cp = 2, .tp = 2, .ep = 4}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           const HostSetup& setup = info.param;
                           return Text("cp", setup.cp, "dp", setup.dp, "tp", setup.tp, "ep",
                                       setup.ep);
                         });

// Without an engine: what the scheduler asks the ranks for.
TEST(PromptLogprobRows, NoStepHasMoreRowsOfLogitsThanTheLimit) {
  PagePool pages(100);
  Scheduler scheduler(pages, {.chunked_prefill_size = 4096, .max_running_requests = 8}, 1);
  for (int i = 0; i < 3; ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = std::make_shared<Request>();
    sequence->request->prompt = Prompt(1000, static_cast<uint32_t>(i));
    sequence->request->sampling = Asking(i * 100);
    scheduler.Add(std::move(sequence));
  }
  std::vector<int64_t> rows(3, 0);
  std::vector<Sequence*> owners;
  for (int step = 0; step < 100; ++step) {
    const Batch batch = scheduler.Next(step + 1, owners);
    int64_t of_step = 0;
    bool prefill = false;
    for (size_t i = 0; i < owners.size(); ++i) {
      const Extend& extend = batch.extends[i];
      Sequence& owner = *owners[i];
      scheduler.Computed(owner, extend.end());
      if (extend.decode) continue;
      prefill = true;
      if (extend.logits == LogitsWanted::kAll) {
        const int64_t count = extend.end() - extend.begin;
        of_step += count;
        // As the engine does.
        const int64_t known = std::min(extend.end(), int64_t{999}) - extend.begin;
        owner.prompt_logprobs.resize(owner.prompt_logprobs.size() + static_cast<size_t>(known));
      } else {
        EXPECT_LE(extend.end(), owner.request->sampling.prompt_logprobs_from);
        EXPECT_EQ(extend.logits, LogitsWanted::kNone);
      }
      if (extend.end() == 1000) {
        owner.stage = Sequence::Stage::kDecode;
        owner.output.push_back(1);
        EXPECT_EQ(static_cast<int64_t>(owner.prompt_logprobs.size()),
                  999 - owner.request->sampling.prompt_logprobs_from);
        owner.prompt_logprobs_sent = true;
      }
    }
    EXPECT_LE(of_step, kPromptLogprobRows);
    if (!prefill) {
      EXPECT_GT(step, 8) << "2,700 rows take 11 steps";
      return;
    }
  }
  FAIL() << "the prompts never end";
}

}  // namespace
}  // namespace causeway
