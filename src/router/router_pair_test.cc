// Pairs of a prefill and a decode worker: one request at both, one answer.
#include <gtest/gtest.h>

#include "router/router.h"
#include "router/scripted_worker.h"

namespace causeway {
namespace {

using Json = nlohmann::json;

constexpr const char* kBody = R"({"text":"hello"})";
constexpr const char* kStream = R"({"text":"hello","stream":true})";

// Some workers of each kind and a router before them.
class Pairs {
 public:
  explicit Pairs(size_t count = 1, RouterOptions options = FastOptions()) {
    options.pd_disaggregation = true;
    for (size_t i = 0; i < count; ++i) {
      prefill.push_back(std::make_unique<ScriptedWorker>());
      decode.push_back(std::make_unique<ScriptedWorker>());
      options.workers.push_back({.url = prefill[i]->url(),
                                 .type = WorkerType::kPrefill,
                                 .bootstrap_port = static_cast<int>(9000 + i)});
      options.workers.push_back({.url = decode[i]->url(), .type = WorkerType::kDecode});
    }
    router_ = std::make_unique<RouterFixture>(options);
  }
  RouterFixture* operator->() { return router_.get(); }

  // The next request of whichever of them gets it.
  static HeldRequest TakeAny(std::vector<std::unique_ptr<ScriptedWorker>>& workers) {
    for (const Deadline deadline = Soon(); !deadline.Passed();) {
      for (const auto& worker : workers) {
        if (worker->waiting() > 0) return worker->Take();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    throw std::runtime_error("no request came");
  }
  HeldRequest TakePrefill() { return TakeAny(prefill); }
  HeldRequest TakeDecode() { return TakeAny(decode); }

  std::vector<std::unique_ptr<ScriptedWorker>> prefill;
  std::vector<std::unique_ptr<ScriptedWorker>> decode;

 private:
  std::unique_ptr<RouterFixture> router_;
};

TEST(RouterPair, BothGetTheSameBodyAndTheClientGetsTheDecodeWorkersAnswer) {
  Pairs pairs;
  HttpClient client = pairs->Post("/generate", kBody, {{"X-Request-Id", "r1"}});
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  EXPECT_EQ(prefill.request.body, decode.request.body);
  const Json body = decode.body();
  EXPECT_EQ(body["text"], "hello");
  EXPECT_EQ(body["bootstrap_host"], "127.0.0.1");
  EXPECT_EQ(body["bootstrap_port"], 9000);
  EXPECT_LT(body["bootstrap_room"].get<uint64_t>(), uint64_t{1} << 63);
  EXPECT_EQ(*FindHeader(prefill.request.headers, "x-request-id"), "r1");
  EXPECT_EQ(*FindHeader(decode.request.headers, "x-request-id"), "r1");
  prefill.Send(200, R"({"text":"not this"})");
  decode.Send(200, R"({"text":"this"})");
  EXPECT_EQ(ReadReply(client).body, R"({"text":"this"})");
}

TEST(RouterPair, ADecodeAnswerNeedNotWaitForThePrefillWorkersEnd) {
  Pairs pairs;
  HttpClient client = pairs->Post("/v1/completions", R"({"prompt":["a","b"]})");
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  EXPECT_EQ(decode.body()["bootstrap_room"].size(), 2U);
  decode.Send(200, "{}");
  EXPECT_EQ(ReadReply(client).status, 200);
  EXPECT_FALSE(prefill.gone->load()) << "it has some time to end well";
  prefill.Send(200, "{}");
  EXPECT_TRUE(Eventually([&] {
    return pairs->Get("/metrics")
               .body.find(Text("smg_worker_requests_active{worker=\"", pairs.prefill[0]->url(),
                               "\"} 0")) != std::string::npos;
  }));
}

TEST(RouterPair, StreamsAreTheDecodeWorkersEventByEvent) {
  Pairs pairs;
  HttpClient client = pairs->Post("/v1/chat/completions", R"({"messages":[],"stream":true})");
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();
  prefill.BeginStream();
  prefill.responder.Write("data: {\"of\":\"prefill\"}\n\n");
  prefill.responder.End();
  for (int i = 0; i < 5; ++i) {
    decode.responder.Write(Text("data: ", i, "\n\n"));
    if (i == 0) {
      ASSERT_TRUE(client.ReadHead(Soon()).ok());
    }
    EXPECT_EQ(ReadUntil(client, "\n\n"), Text("data: ", i, "\n\n"));
  }
  decode.responder.End();
  EXPECT_EQ(ReadToEnd(client), "");
}

TEST(RouterPair, APrefillErrorEndsTheDecodeHalfAndIsTheClients) {
  Pairs pairs(2);
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  prefill.Send(400, R"({"error":"the prompt is too long"})");
  EXPECT_TRUE(decode.WaitForGone());
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.body, R"({"error":"the prompt is too long"})");
  for (const auto& worker : pairs.decode) EXPECT_EQ(worker->waiting(), 0U);
}

TEST(RouterPair, APrefillErrorWithinAStreamOf200CountsToo) {
  Pairs pairs(1);
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();  // its head has come, but no token
  prefill.BeginStream();
  prefill.responder.Write(R"(data: {"error": {"message": "too long", "code": 400}})"
                          "\n\n");
  EXPECT_TRUE(decode.WaitForGone());
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(Json::parse(reply.body)["error"]["message"], "too long");
}

TEST(RouterPair, APrefillWorkerThatDiesIsReplacedByAnotherPairInAnotherRoom) {
  Pairs pairs(2);
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  prefill.Die();
  EXPECT_TRUE(decode.WaitForGone());
  HeldRequest second_prefill = pairs.TakePrefill();
  HeldRequest second_decode = pairs.TakeDecode();
  EXPECT_NE(second_decode.body()["bootstrap_room"], decode.body()["bootstrap_room"]);
  EXPECT_NE(second_decode.body()["bootstrap_port"], decode.body()["bootstrap_port"]);
  second_prefill.Send(200, "{}");
  second_decode.BeginStream();
  second_decode.responder.Write("data: ok\n\n");
  second_decode.responder.End();
  EXPECT_EQ(ReadReply(client).body, "data: ok\n\n");
}

TEST(RouterPair, ADecodeWorkerThatFailsBeforeItsFirstByteEndsThePrefillHalfAndIsReplaced) {
  Pairs pairs(2);
  for (const bool dies : {true, false}) {
    HttpClient client = pairs->Post("/generate", kStream);
    HeldRequest prefill = pairs.TakePrefill();
    HeldRequest decode = pairs.TakeDecode();
    if (dies) {
      decode.Die();
    } else {
      decode.Send(503, "{}");
    }
    EXPECT_TRUE(prefill.WaitForGone());
    HeldRequest second_prefill = pairs.TakePrefill();
    HeldRequest second_decode = pairs.TakeDecode();
    second_prefill.Send(200, "{}");
    second_decode.Send(200, R"({"text":"ok"})");
    EXPECT_EQ(ReadReply(client).body, R"({"text":"ok"})");
  }
}

TEST(RouterPair, AnErrorInPlaceOfADecodeStreamsFirstEventIsTriedAgainWithAnotherPair) {
  Pairs pairs(2);
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();
  decode.responder.Write(
      "data: {\"error\":{\"message\":\"lost the prefill server\",\"code\":503}}\n\n");
  decode.responder.End();
  EXPECT_TRUE(prefill.WaitForGone());
  HeldRequest other_prefill = pairs.TakePrefill();
  HeldRequest other = pairs.TakeDecode();
  EXPECT_NE(other.body()["bootstrap_room"], decode.body()["bootstrap_room"]);
  other.BeginStream();
  other.responder.Write("data: 1\n\n");
  other.responder.End();
  EXPECT_EQ(ReadReply(client).body, "data: 1\n\n");
  other_prefill.Send(200, "{}");
}

TEST(RouterPair, AnErrorInPlaceOfADecodeStreamsFirstEventHasItsStatusWhereNobodyElseCanAnswer) {
  Pairs pairs;
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();
  decode.responder.Write("data: {\"error\":{\"message\":\"too long\",\"code\":400}}\n\n");
  decode.responder.End();
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(Json::parse(reply.body)["error"]["message"], "too long");
  prefill.Send(200, "{}");
}

TEST(RouterPair, ADecodeWorkerThatDiesInItsStreamIsTheClientsErrorEventAndNoRetry) {
  Pairs pairs(2);
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  prefill.Send(200, "{}");
  decode.BeginStream();
  decode.responder.Write("data: 1\n\n");
  ASSERT_TRUE(client.ReadHead(Soon()).ok());
  ASSERT_EQ(ReadUntil(client, "\n\n"), "data: 1\n\n");
  decode.Die();
  const std::string rest = ReadToEnd(client);
  ASSERT_TRUE(rest.starts_with("data: {\"error\":")) << rest;
  EXPECT_NE(rest.find("decode worker failed"), std::string::npos) << rest;
  EXPECT_TRUE(client.WaitForClose(Soon()));
  for (const auto& worker : pairs.decode) EXPECT_EQ(worker->waiting(), 0U);
}

TEST(RouterPair, APrefillWorkerThatDiesAfterTheFirstTokenDoesNotDisturbTheStream) {
  Pairs pairs;
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();
  decode.responder.Write("data: 1\n\n");
  ASSERT_TRUE(client.ReadHead(Soon()).ok());
  ASSERT_EQ(ReadUntil(client, "\n\n"), "data: 1\n\n");
  prefill.Die();
  ASSERT_TRUE(Eventually([&] {
    return pairs->Get("/metrics").body.find("smg_worker_errors_total{worker_type=\"prefill\"") !=
           std::string::npos;
  }));
  decode.responder.Write("data: 2\n\n");
  decode.responder.End();
  EXPECT_EQ(ReadToEnd(client), "data: 2\n\n");
}

TEST(RouterPair, AClientThatGoesEndsBothHalves) {
  Pairs pairs;
  HttpClient client = pairs->Post("/generate", kStream);
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  client.Close();
  EXPECT_TRUE(prefill.WaitForGone());
  EXPECT_TRUE(decode.WaitForGone());
  EXPECT_TRUE(Eventually([&] { return pairs->router().UnderWay() == 0; }));
}

TEST(RouterPair, ThePromptsLogprobsComeFromThePrefillWorker) {
  Pairs pairs;
  HttpClient client = pairs->Post("/generate", R"({"text":"a","return_logprob":true})");
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.Send(200, R"({"text":"b","meta_info":{"input_token_logprobs":[[-2,2,null]]}})");
  prefill.Send(200, R"({"text":"x","meta_info":{"input_token_logprobs":[[-1,1,null]]}})");
  const Json reply = Json::parse(ReadReply(client).body);
  EXPECT_EQ(reply["text"], "b");
  EXPECT_EQ(reply["meta_info"]["input_token_logprobs"], Json::parse("[[-1,1,null],[-2,2,null]]"));
}

TEST(RouterPair, TheyDoInAStreamToo) {
  Pairs pairs;
  HttpClient client =
      pairs->Post("/generate", R"({"text":"a","return_logprob":true,"stream":true})");
  HeldRequest prefill = pairs.TakePrefill();
  HeldRequest decode = pairs.TakeDecode();
  decode.BeginStream();
  decode.responder.Write("data: {\"meta_info\":{\"input_token_logprobs\":[]},\"text\":\"b\"}\n\n");
  prefill.BeginStream();
  prefill.responder.Write("data: {\"meta_info\":{\"input_token_logprobs\":[[-1,1,null]]}}\n\n");
  prefill.responder.Write("data: [DONE]\n\n");
  prefill.responder.End();
  decode.responder.Write("data: [DONE]\n\n");
  decode.responder.End();
  EXPECT_EQ(ReadReply(client).body,
            "data: {\"meta_info\":{\"input_token_logprobs\":[[-1,1,null]]},\"text\":\"b\"}\n\n"
            "data: [DONE]\n\n");
}

TEST(RouterPair, WithoutAWorkerOfOneKindTheAnswerNamesTheKind) {
  Pairs pairs;
  pairs.decode[0]->health = 503;
  ASSERT_TRUE(Eventually([&] { return pairs->Get("/health").status == 503; }));
  const HttpReply reply = pairs->Call("POST", "/generate", kBody);
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("no decode worker"), std::string::npos) << reply.body;
  EXPECT_EQ(pairs.prefill[0]->waiting(), 0U);
}

TEST(RouterPair, WhatNeedsNoPairGoesToOneWorkerAsItIs) {
  Pairs pairs;
  HttpClient client = pairs->Post("/tokenize", R"({"prompt":"a"})");
  ASSERT_TRUE(
      Eventually([&] { return pairs.prefill[0]->waiting() + pairs.decode[0]->waiting() == 1; }));
  HeldRequest held = (pairs.prefill[0]->waiting() == 1 ? pairs.prefill : pairs.decode)[0]->Take();
  EXPECT_EQ(held.request.body, R"({"prompt":"a"})");
  held.Send(200, R"({"tokens":[1]})");
  EXPECT_EQ(ReadReply(client).body, R"({"tokens":[1]})");
}

TEST(RouterPair, ServerInfoHasTheFormThatBenchmarksRead) {
  Pairs pairs;
  const Json info = Json::parse(pairs->Get("/get_server_info").body);
  EXPECT_EQ(info["prefill"].size(), 1U);
  EXPECT_EQ(info["decode"].size(), 1U);
  EXPECT_EQ(info["internal_states"].size(), 1U) << "those of decode workers";
}

}  // namespace
}  // namespace causeway
