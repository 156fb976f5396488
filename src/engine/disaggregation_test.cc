// A prefill engine and a decode engine in one process, joined by a real transfer: together they
// give the tokens of one engine, whatever the layouts, chunks, caches and failures.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "engine/engine.h"
#include "engine/engine_client.h"
#include "engine/row_conversions.h"
#include "transfer/ucx_memory.h"

namespace causeway {
namespace {

// Fewer of what takes seconds under the thread sanitizer.
#if defined(__SANITIZE_THREAD__)
constexpr bool kSlow = true;
#else
constexpr bool kSlow = false;
#endif

constexpr char kModel[] = CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16";

TransferOptions OptionsOf(ModelHost& host) {
  TransferOptions options;
  options.model = "tiny";
  options.layout = host.ranks().layout();
  options.checksum = true;
  options.run_tokens = 40;  // several runs a layer
  options.bootstrap_timeout_ms = kWaitMs;
  options.waiting_timeout_ms = kWaitMs;
  return options;
}

struct ServerSetup {
  HostSetup host = {};
  int64_t chunk = 8192;
  bool prefix_cache = true;
  TransferBackend backend = TransferBackend::kAuto;
  double failure_probability = 0;
};

// Why keys can't go by UCX here; ok: they can.
Status UcxProblem() {
  static const Status problem =
      UcxReader::Make([](const std::function<void()>&) {}, 1'000).status();
  return problem;
}

EngineOptions EngineOptionsOf(const ServerSetup& setup) {
  return {.limits = {.chunked_prefill_size = setup.chunk, .schedule_conservativeness = 0},
          .prefix_cache = setup.prefix_cache};
}

// Everything of one prefill server.
class PrefillServer {
 public:
  explicit PrefillServer(const ServerSetup& setup) : host_(Load(setup)) {
    TransferOptions options = OptionsOf(*host_);
    options.backend = setup.backend;
    options.failure_probability = setup.failure_probability;
    auto rooms = PrefillRooms::Make(options, host_->cache());
    EXPECT_TRUE(rooms.ok()) << rooms.status().message();
    rooms_ = std::move(rooms).value();
    rooms_->Attach(host_->ranks());
    EngineOptions engine = EngineOptionsOf(setup);
    engine.prefill_rooms = rooms_.get();
    engine_ = std::make_unique<Engine>(*host_, engine);
  }
  ~PrefillServer() {
    engine_.reset();
    EXPECT_EQ(host_->pages().available(), host_->pages().capacity());
  }

  Engine& engine() { return *engine_; }
  int port() { return rooms_->sender().port(); }
  const TransferCounters& counters() { return rooms_->sender().counters(); }

 private:
  static std::unique_ptr<ModelHost> Load(const ServerSetup& setup) {
    HostSetup host = setup.host;
    host.kv_memory = KvMemory::kShared;
    return LoadModel(kModel, host);
  }

  std::unique_ptr<ModelHost> host_;
  std::unique_ptr<PrefillRooms> rooms_;
  std::unique_ptr<Engine> engine_;
};

class DecodeServer {
 public:
  explicit DecodeServer(const ServerSetup& setup) : host_(LoadModel(kModel, setup.host)) {
    TransferOptions options = OptionsOf(*host_);
    options.backend = setup.backend;
    auto rooms = DecodeRooms::Make(options, host_->cache(), ToInt8(host_->ops(), host_->config()));
    EXPECT_TRUE(rooms.ok()) << rooms.status().message();
    rooms_ = std::move(rooms).value();
    rooms_->Attach(host_->ranks());
    EngineOptions engine = EngineOptionsOf(setup);
    engine.decode_rooms = rooms_.get();
    engine_ = std::make_unique<Engine>(*host_, engine);
  }
  ~DecodeServer() {
    engine_.reset();
    EXPECT_EQ(host_->pages().available(), host_->pages().capacity());
  }

  Engine& engine() { return *engine_; }
  const TransferCounters& counters() { return rooms_->receiver().counters(); }

 private:
  std::unique_ptr<ModelHost> host_;
  std::unique_ptr<DecodeRooms> rooms_;
  std::unique_ptr<Engine> engine_;
};

// One request as both servers get it.
struct Pair {
  std::unique_ptr<Client> prefill;
  std::unique_ptr<Client> decode;
};

Pair MakePair(int64_t room, const std::vector<int32_t>& prompt, const SamplingParams& sampling,
              int port) {
  Pair out;
  for (std::unique_ptr<Client>* client : {&out.prefill, &out.decode}) {
    *client = std::make_unique<Client>(std::to_string(room), prompt, sampling);
    (*client)->request()->bootstrap = Bootstrap{"127.0.0.1", port, room};
  }
  return out;
}

// Requests that share prefixes, of all lengths, greedy and random; some stop early.
struct Wanted {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};
std::vector<Wanted> Requests() {
  std::vector<Wanted> out;
  std::mt19937 random(kSeed);
  for (uint32_t i = 0; i < 16; ++i) {
    SamplingParams sampling = Greedy(1 + random() % 30);
    if (i % 2 == 1) {
      sampling.temperature = 1.0;
      sampling.ignore_eos = false;
      sampling.frequency_penalty = 0.5;
      sampling.logprobs = 2;
      for (int32_t id = 0; id < 256; id += 8) sampling.stop_token_ids.push_back(id);
    }
    sampling.seed = i;
    const int64_t lengths[] = {1, 40, 64, 65, 129, 200};
    out.push_back({Prompt(lengths[i % 6], i % 4), sampling});
  }
  return out;
}

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
  RequestResult result;
};
Answer AnswerOf(const Client& client) {
  Answer out{client.tokens(), {}, client.result()};
  for (const TokenOutput& one : client.outputs()) {
    out.logprobs.push_back(one.logprob);
    for (const TokenLogprob& top : one.top) out.logprobs.push_back(top.logprob);
  }
  return out;
}

const std::vector<Answer>& AnswersOfOneServer() {
  static const std::vector<Answer> answers = [] {
    const auto host = LoadModel(kModel, {});
    Engine engine(*host, {.limits = {}});
    std::vector<std::unique_ptr<Client>> clients;
    for (const Wanted& wanted : Requests()) {
      clients.push_back(
          std::make_unique<Client>(std::to_string(clients.size()), wanted.prompt, wanted.sampling));
      EXPECT_TRUE(engine.Submit(clients.back()->request()).ok());
    }
    std::vector<Answer> out;
    for (const auto& client : clients) {
      EXPECT_TRUE(client->WaitForFinish());
      out.push_back(AnswerOf(*client));
    }
    return out;
  }();
  return answers;
}

void ExpectTheAnswersOfOneServer(const ServerSetup& prefill_setup,
                                 const ServerSetup& decode_setup) {
  PrefillServer prefill(prefill_setup);
  DecodeServer decode(decode_setup);
  std::vector<Pair> pairs;
  for (const Wanted& wanted : Requests()) {
    const auto room = static_cast<int64_t>(pairs.size());
    pairs.push_back(MakePair(room, wanted.prompt, wanted.sampling, prefill.port()));
    // In either order.
    Engine* engines[] = {&prefill.engine(), &decode.engine()};
    const std::shared_ptr<Request> requests[] = {pairs.back().prefill->request(),
                                                 pairs.back().decode->request()};
    for (const int i : {static_cast<int>(room % 2), static_cast<int>(1 - room % 2)}) {
      const Status status = engines[i]->Submit(requests[i]);
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    ASSERT_TRUE(pairs[i].decode->WaitForFinish()) << i;
    ASSERT_TRUE(pairs[i].prefill->WaitForFinish()) << i;
    const Answer& wanted = AnswersOfOneServer()[i];
    const Answer answer = AnswerOf(*pairs[i].decode);
    EXPECT_TRUE(answer.result.status.ok()) << answer.result.status.message();
    EXPECT_TRUE(pairs[i].prefill->result().status.ok());
    EXPECT_EQ(answer.tokens, wanted.tokens) << "request " << i;
    EXPECT_EQ(answer.logprobs, wanted.logprobs) << "request " << i;
    EXPECT_EQ(answer.result.reason, wanted.result.reason) << "request " << i;
    EXPECT_EQ(answer.result.completion_tokens, wanted.result.completion_tokens);
  }
  for (Engine* engine : {&prefill.engine(), &decode.engine()}) {
    const EngineLoad load = engine->load();
    EXPECT_EQ(load.running + load.waiting + load.used_tokens, 0);
    EXPECT_EQ(load.rooms.bootstrapping + load.rooms.sending + load.rooms.allocating +
                  load.rooms.receiving,
              0);
  }
}

TEST(Disaggregation, AnyLayoutsOnBothSidesGiveTheTokensOfOneServer) {
  std::vector<HostSetup> layouts = {{}, {.cp = 2}, {.dp = 2}, {.cp = 2, .tp = 2}};
  if (kSlow) layouts = {{.cp = 2, .tp = 2}, {.dp = 2}};
  for (const HostSetup& prefill : layouts) {
    for (const HostSetup& decode : layouts) {
      SCOPED_TRACE(Text("prefill cp", prefill.cp, " dp", prefill.dp, " tp", prefill.tp,
                        ", decode cp", decode.cp, " dp", decode.dp, " tp", decode.tp));
      ExpectTheAnswersOfOneServer({.host = prefill, .chunk = 50}, {.host = decode});
    }
  }
}

TEST(Disaggregation, KeysByUcxGiveTheTokensOfOneServerInOtherLayoutsToo) {
  if (!UcxProblem().ok()) GTEST_SKIP() << "ucx: " << UcxProblem().message();
  constexpr TransferBackend kUcx = TransferBackend::kUcx;
  const std::pair<HostSetup, HostSetup> layouts[] = {{{.cp = 2}, {.tp = 2}},
                                                     {{.cp = 2, .tp = 2}, {.dp = 2}}};
  for (const auto& [prefill, decode] : layouts) {
    ExpectTheAnswersOfOneServer({.host = prefill, .chunk = 50, .backend = kUcx},
                                {.host = decode, .backend = kUcx});
  }
}

TEST(Disaggregation, AnyBackendChunkAndCacheGiveTheTokensOfOneServer) {
  std::vector<TransferBackend> backends = {TransferBackend::kTcp, TransferBackend::kSharedMemory};
  if (UcxProblem().ok()) {
    backends.push_back(TransferBackend::kUcx);
  } else {
    std::cout << "[  SKIPPED ] ucx: " << UcxProblem().message() << "\n";
  }
  for (const TransferBackend backend : backends) {
    for (const int64_t chunk : {7, 64, 8192}) {
      if (kSlow && chunk == 64) continue;
      for (const bool prefix_cache : {false, true}) {
        SCOPED_TRACE(Text(NameOf(backend), " chunk ", chunk, " prefix cache ", prefix_cache));
        ExpectTheAnswersOfOneServer(
            {.chunk = chunk, .prefix_cache = prefix_cache, .backend = backend},
            {.prefix_cache = prefix_cache, .backend = backend});
      }
    }
  }
}

// Retractions on the decode side, and rooms that wait for pages on both.
TEST(Disaggregation, FewPagesGiveTheTokensOfOneServer) {
  for (const bool prefix_cache : {false, true}) {
    ExpectTheAnswersOfOneServer({.host = {.total_tokens = 320}, .prefix_cache = prefix_cache},
                                {.host = {.total_tokens = 320}, .prefix_cache = prefix_cache});
  }
}

// What comes out differs from both bf16 and int8 throughout, and not by layout, chunk or backend.
TEST(Disaggregation, KeysMayBecomeInt8OnTheirWay) {
  const auto tokens = [](const ServerSetup& prefill_setup, ServerSetup decode_setup) {
    decode_setup.host.int8_cache = true;
    PrefillServer prefill(prefill_setup);
    DecodeServer decode(decode_setup);
    const Pair pair = MakePair(3, Prompt(150, 4), Greedy(20), prefill.port());
    EXPECT_TRUE(prefill.engine().Submit(pair.prefill->request()).ok());
    EXPECT_TRUE(decode.engine().Submit(pair.decode->request()).ok());
    EXPECT_TRUE(pair.decode->WaitForFinish());
    EXPECT_TRUE(pair.prefill->WaitForFinish());
    EXPECT_TRUE(pair.decode->result().status.ok()) << pair.decode->result().status.message();
    return pair.decode->tokens();
  };
  const std::vector<int32_t> alone = tokens({}, {});
  EXPECT_EQ(alone.size(), 20u);
  EXPECT_EQ(tokens({.host = {.cp = 2}, .chunk = 33, .backend = TransferBackend::kTcp},
                   {.host = {.tp = 2}, .backend = TransferBackend::kTcp}),
            alone);
}

TEST(Disaggregation, KeysThatCanNotBecomeTheOthersAreRefusedWithBothTypes) {
  PrefillServer prefill({.host = {.int8_cache = true}});
  DecodeServer decode({});
  const Pair pair = MakePair(3, Prompt(20, 4), Greedy(20), prefill.port());
  ASSERT_TRUE(prefill.engine().Submit(pair.prefill->request()).ok());
  ASSERT_TRUE(decode.engine().Submit(pair.decode->request()).ok());
  ASSERT_TRUE(pair.decode->WaitForFinish());
  const std::string message = pair.decode->result().status.message();
  EXPECT_NE(message.find("int8"), std::string::npos) << message;
  EXPECT_NE(message.find("bfloat16"), std::string::npos) << message;
  prefill.engine().Cancel("3");
  ASSERT_TRUE(pair.prefill->WaitForFinish());
}

TEST(Disaggregation, ADecodeServersPrefixIsNotSentAgain) {
  PrefillServer prefill({});
  DecodeServer decode({});
  const auto run = [&](int64_t room) {
    const Pair pair = MakePair(room, Prompt(200, 9), Greedy(4), prefill.port());
    EXPECT_TRUE(prefill.engine().Submit(pair.prefill->request()).ok());
    EXPECT_TRUE(decode.engine().Submit(pair.decode->request()).ok());
    EXPECT_TRUE(pair.prefill->WaitForFinish());
    EXPECT_TRUE(pair.decode->WaitForFinish());
    return std::pair(pair.decode->tokens(), decode.counters().bytes.load());
  };
  const auto [first, first_bytes] = run(1);
  const auto [second, both_bytes] = run(2);
  EXPECT_EQ(first, second);
  // 192 of 200 tokens are whole pages that both servers have.
  EXPECT_EQ((both_bytes - first_bytes) * 200, first_bytes * 8);
}

TEST(Disaggregation, ARequestWithoutARoomIsComputedHere) {
  PrefillServer prefill({});
  DecodeServer decode({});
  for (Engine* engine : {&prefill.engine(), &decode.engine()}) {
    Client client("alone", Prompt(70, 3), Greedy(5));
    ASSERT_TRUE(engine->Submit(client.request()).ok());
    ASSERT_TRUE(client.WaitForFinish());
    EXPECT_EQ(client.tokens().size(), 5u);
  }
}

TEST(Disaggregation, WhoeverIsCancelledTheOtherSideEndsToo) {
  PrefillServer prefill({.chunk = 16});
  DecodeServer decode({});
  for (const bool cancel_prefill : {false, true}) {
    const Pair pair = MakePair(7, Prompt(250, 1), Greedy(4), prefill.port());
    Client& cancelled = cancel_prefill ? *pair.prefill : *pair.decode;
    Engine& engine = cancel_prefill ? prefill.engine() : decode.engine();
    ASSERT_TRUE(prefill.engine().Submit(pair.prefill->request()).ok());
    ASSERT_TRUE(decode.engine().Submit(pair.decode->request()).ok());
    engine.Cancel("7");
    ASSERT_TRUE(cancelled.WaitForFinish());
    ASSERT_TRUE(pair.prefill->WaitForFinish());
    ASSERT_TRUE(pair.decode->WaitForFinish());
    // It may have been done before.
    if (!cancelled.result().status.ok()) {
      EXPECT_EQ(cancelled.result().reason, FinishReason::kCancelled);
    }
    EXPECT_EQ(prefill.engine().load().used_tokens, 0);
    EXPECT_EQ(decode.engine().load().used_tokens, 0);
  }
}

// Before it has pages, so that its room is never opened.
TEST(Disaggregation, WhoeverLeavesTheQueueOfTheDecodeServerIsNotWaitedFor) {
  PrefillServer prefill({});
  DecodeServer decode({.host = {.total_tokens = 256}});
  for (const bool decode_first : {false, true}) {
    const int64_t room = decode_first ? 20 : 10;
    const Pair large = MakePair(room, Prompt(200, 1), Greedy(50), prefill.port());
    const Pair waiting = MakePair(room + 1, Prompt(200, 2), Greedy(50), prefill.port());
    ASSERT_TRUE(decode.engine().Submit(large.decode->request()).ok());  // takes all pages
    ASSERT_TRUE(decode.engine().Submit(waiting.decode->request()).ok());
    if (!decode_first) {
      ASSERT_TRUE(prefill.engine().Submit(waiting.prefill->request()).ok());
    }
    decode.engine().Cancel(std::to_string(room + 1));
    ASSERT_TRUE(waiting.decode->WaitForFinish());
    if (decode_first) {
      ASSERT_TRUE(prefill.engine().Submit(waiting.prefill->request()).ok());
    }
    ASSERT_TRUE(waiting.prefill->WaitForFinish());
    EXPECT_FALSE(waiting.prefill->result().status.ok());
    ASSERT_TRUE(prefill.engine().Submit(large.prefill->request()).ok());
    ASSERT_TRUE(large.decode->WaitForFinish());
    ASSERT_TRUE(large.prefill->WaitForFinish());
    EXPECT_TRUE(large.decode->result().status.ok()) << large.decode->result().status.message();
  }
}

TEST(Disaggregation, WithoutTheOtherSideARequestIsCancelledLikeAnyOther) {
  PrefillServer prefill({});
  DecodeServer decode({});
  const Pair pair = MakePair(1, Prompt(20, 1), Greedy(4), prefill.port());
  ASSERT_TRUE(prefill.engine().Submit(pair.prefill->request()).ok());
  prefill.engine().Cancel("1");
  ASSERT_TRUE(pair.prefill->WaitForFinish());
  EXPECT_EQ(pair.prefill->result().reason, FinishReason::kCancelled);
  // Nobody listens at this port.
  const Pair lost = MakePair(2, Prompt(20, 1), Greedy(4), /*port=*/1);
  ASSERT_TRUE(decode.engine().Submit(lost.decode->request()).ok());
  ASSERT_TRUE(lost.decode->WaitForFinish());
  EXPECT_EQ(lost.decode->result().reason, FinishReason::kError);
  EXPECT_NE(lost.decode->result().status.message().find("127.0.0.1:1"), std::string::npos)
      << lost.decode->result().status.message();
}

TEST(Disaggregation, ARoomThatIsInUseIsRefused) {
  PrefillServer prefill({});
  const Pair first = MakePair(5, Prompt(20, 1), Greedy(4), prefill.port());
  const Pair second = MakePair(5, Prompt(30, 2), Greedy(4), prefill.port());
  second.prefill->request()->id = "other";
  ASSERT_TRUE(prefill.engine().Submit(first.prefill->request()).ok());
  ASSERT_TRUE(prefill.engine().Submit(second.prefill->request()).ok());
  ASSERT_TRUE(second.prefill->WaitForFinish());
  EXPECT_NE(second.prefill->result().status.message().find("room 5"), std::string::npos);
  EXPECT_EQ(first.prefill->finishes(), 0) << "undisturbed";
  prefill.engine().Cancel("5");
  ASSERT_TRUE(first.prefill->WaitForFinish());
}

TEST(Disaggregation, OneServerAloneRefusesARoom) {
  const auto host = LoadModel(kModel, {});
  Engine engine(*host, {.limits = {}});
  const Pair pair = MakePair(5, Prompt(20, 1), Greedy(4), 1);
  EXPECT_EQ(engine.Submit(pair.prefill->request()).code(), StatusCode::kInvalidArgument);
}

// Each run fails with some probability: requests end well or with an error on both sides, and no
// page is lost.
TEST(Disaggregation, FailedTransfersFailTheirRequestsAndNothingElse) {
  PrefillServer prefill({.chunk = 50, .failure_probability = 0.01});
  DecodeServer decode({});
  const std::vector<Wanted> requests = Requests();
  int failed = 0;
  int served = 0;
  for (int64_t round = 0; round < 4; ++round) {
    std::vector<Pair> pairs;
    for (const Wanted& wanted : requests) {
      const auto room = round * 100 + static_cast<int64_t>(pairs.size());
      pairs.push_back(MakePair(room, wanted.prompt, wanted.sampling, prefill.port()));
      ASSERT_TRUE(prefill.engine().Submit(pairs.back().prefill->request()).ok());
      ASSERT_TRUE(decode.engine().Submit(pairs.back().decode->request()).ok());
    }
    for (size_t i = 0; i < pairs.size(); ++i) {
      ASSERT_TRUE(pairs[i].prefill->WaitForFinish());
      ASSERT_TRUE(pairs[i].decode->WaitForFinish());
      const Answer answer = AnswerOf(*pairs[i].decode);
      EXPECT_EQ(answer.result.status.ok(), pairs[i].prefill->result().status.ok()) << i;
      if (answer.result.status.ok()) {
        EXPECT_EQ(answer.tokens, AnswersOfOneServer()[i].tokens);
        ++served;
      } else {
        EXPECT_EQ(answer.result.reason, FinishReason::kError);
        EXPECT_TRUE(answer.tokens.empty());
        ++failed;
      }
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(served, 0);
}

}  // namespace
}  // namespace causeway
