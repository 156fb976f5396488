// One worker a request: what is passed on, how failures are answered, and the limits.
#include "router/router.h"

#include <gtest/gtest.h>

#include <thread>

#include "router/scripted_worker.h"

namespace causeway {
namespace {

constexpr const char* kBody = R"({"text":"hello"})";
constexpr const char* kStream = R"({"text":"hello","stream":true})";

RouterOptions OptionsFor(const std::vector<ScriptedWorker*>& workers) {
  RouterOptions options = FastOptions();
  for (const ScriptedWorker* worker : workers) options.workers.push_back({.url = worker->url()});
  return options;
}

TEST(Router, AnAnswerIsPassedOnWithItsStatusAndHeaders) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  HttpClient client = router.Post("/generate?x=%20y", kBody, {{"X-Own", "1"}, {"Accept", "a/b"}});
  HeldRequest held = worker.Take();
  EXPECT_EQ(held.request.body, kBody);
  EXPECT_EQ(held.request.query, "x=%20y");
  EXPECT_EQ(*FindHeader(held.request.headers, "x-own"), "1");
  EXPECT_EQ(*FindHeader(held.request.headers, "accept"), "a/b");
  held.responder.Send({.status = 201,
                       .content_type = "application/x-test",
                       .headers = {{"X-Worker", "w"}},
                       .body = "{\"text\":\"out\"}"});
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 201);
  EXPECT_EQ(reply.body, "{\"text\":\"out\"}");
  EXPECT_EQ(*FindHeader(reply.headers, "content-type"), "application/x-test");
  EXPECT_EQ(*FindHeader(reply.headers, "x-worker"), "w");
}

TEST(Router, EachEventReachesTheClientBeforeTheNextIsSent) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  HttpClient client = router.Post("/generate", kStream);
  HeldRequest held = worker.Take();
  held.BeginStream();
  for (int i = 0; i < 20; ++i) {
    const std::string event = Text("data: {\"n\":", i, "}\n\n");
    held.responder.Write(event);
    if (i == 0) {
      const StatusOr<HttpReply> head = client.ReadHead(Soon());
      ASSERT_TRUE(head.ok());
      EXPECT_EQ(head->status, 200);
      EXPECT_EQ(*FindHeader(head->headers, "content-type"), "text/event-stream");
    }
    ASSERT_EQ(ReadUntil(client, "\n\n"), event);
  }
  held.responder.Write("data: [DONE]\n\n");
  held.responder.End();
  EXPECT_EQ(ReadToEnd(client), "data: [DONE]\n\n");
}

TEST(Router, AnAnswerOfManyMegabytesComesWhole) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  std::string big(20 << 20, ' ');
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>('a' + i % 26);
  HttpClient client = router.Post("/generate", kBody);
  worker.Take().Send(200, big);
  EXPECT_EQ(ReadReply(client).body, big);
}

TEST(Router, BrokenJsonIsRefusedWithoutAskingAWorker) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  const HttpReply reply = router.Call("POST", "/generate", R"({"text":"a)");
  EXPECT_EQ(reply.status, 400);
  EXPECT_NE(reply.body.find("not a JSON object"), std::string::npos) << reply.body;
  EXPECT_EQ(worker.waiting(), 0U);
}

TEST(Router, WithoutAWorkerTheAnswerSaysWhy) {
  ScriptedWorker worker;
  worker.health = 503;
  RouterFixture router(OptionsFor({&worker}), /*wait=*/false);
  ASSERT_TRUE(Eventually([&] { return worker.Count("GET /health") > 0; }));
  const HttpReply reply = router.Call("POST", "/generate", kBody);
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("1 known, 1 not healthy"), std::string::npos) << reply.body;
  EXPECT_EQ(router.Get("/health").status, 503);
  EXPECT_EQ(router.Get("/readiness").status, 503);
  EXPECT_EQ(router.Get("/liveness").status, 200);
}

TEST(Router, AFailureBeforeTheFirstByteIsRetriedAtAnotherWorker) {
  ScriptedWorker first;
  ScriptedWorker second;
  RouterFixture router(OptionsFor({&first, &second}));
  for (const int how : {0, 1, 2}) {
    HttpClient client = router.Post("/generate", kStream);
    ASSERT_TRUE(Eventually([&] { return first.waiting() + second.waiting() == 1; }));
    ScriptedWorker& one = first.waiting() == 1 ? first : second;
    ScriptedWorker& other = first.waiting() == 1 ? second : first;
    HeldRequest held = one.Take();
    if (how == 0) held.Send(503, "{}");
    if (how == 1) held.Die();
    if (how == 2) {
      held.BeginStream();  // a head, which is not an answer yet
      held.Die();
    }
    other.Take().Send(200, "{\"ok\":true}");
    const HttpReply reply = ReadReply(client);
    EXPECT_EQ(reply.status, 200) << how;
    EXPECT_EQ(reply.body, "{\"ok\":true}");
  }
}

TEST(Router, TriesEndAtTheLimitWithTheLastAnswer) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  options.retry.max_retries = 3;
  RouterFixture router(options);
  HttpClient client = router.Post("/generate", kBody);
  for (int i = 1; i <= 3; ++i) worker.Take().Send(500, Text("{\"try\":", i, "}"));
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(reply.body, "{\"try\":3}");
  EXPECT_EQ(worker.waiting(), 0U);
}

TEST(Router, WhatTheClientDidWrongIsNotRetried) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  HttpClient client = router.Post("/generate", kBody);
  worker.Take().Send(422, "{\"error\":\"yours\"}");
  const HttpReply reply = ReadReply(client);
  EXPECT_EQ(reply.status, 422);
  EXPECT_EQ(reply.body, "{\"error\":\"yours\"}");
  EXPECT_EQ(worker.waiting(), 0U);
}

TEST(Router, AStreamThatBreaksEndsWithAnErrorEventAndIsNotRetried) {
  ScriptedWorker first;
  ScriptedWorker second;
  RouterFixture router(OptionsFor({&first, &second}));
  HttpClient client = router.Post("/generate", kStream);
  ASSERT_TRUE(Eventually([&] { return first.waiting() + second.waiting() == 1; }));
  HeldRequest held = (first.waiting() == 1 ? first : second).Take();
  held.BeginStream();
  held.responder.Write("data: {\"n\":1}\n\ndata: {\"n\":");
  ASSERT_TRUE(client.ReadHead(Soon()).ok());
  ASSERT_EQ(ReadUntil(client, "\n\n"), "data: {\"n\":1}\n\n");
  held.Die();
  const std::string rest = ReadToEnd(client);
  ASSERT_TRUE(rest.starts_with("data: {\"error\":")) << rest << "; nothing of a part of an event";
  ASSERT_TRUE(rest.ends_with("}\n\n")) << rest;
  const auto event = nlohmann::json::parse(rest.substr(6));
  EXPECT_NE(event["error"]["message"].get<std::string>().find("worker failed"), std::string::npos);
  EXPECT_TRUE(client.WaitForClose(Soon()));
  EXPECT_EQ(first.waiting() + second.waiting(), 0U);
}

TEST(Router, AClientThatGoesEndsItsRequestAtTheWorker) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  HttpClient early = router.Post("/generate", kStream);
  HeldRequest waiting = worker.Take();
  early.Close();
  EXPECT_TRUE(waiting.WaitForGone());

  HttpClient late = router.Post("/generate", kStream);
  HeldRequest streaming = worker.Take();
  streaming.BeginStream();
  streaming.responder.Write("data: 1\n\n");
  ASSERT_TRUE(late.ReadHead(Soon()).ok());
  late.Close();
  EXPECT_TRUE(streaming.WaitForGone());
  EXPECT_TRUE(Eventually([&] { return router.router().UnderWay() == 0; }));
}

TEST(Router, RequestIdsAreTakenOrMadeAndReachBothSides) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  options.request_id_headers = {"x-own-id", "x-request-id"};
  RouterFixture router(options);
  const auto ids = [&](std::vector<HttpHeader> headers) {
    HttpClient client = router.Post("/v1/chat/completions", R"({"messages":[]})", headers);
    HeldRequest held = worker.Take();
    const std::string sent = *FindHeader(held.request.headers, "x-request-id");
    held.Send(200, "{}");
    const HttpReply reply = ReadReply(client);
    EXPECT_EQ(*FindHeader(reply.headers, "x-request-id"), sent);
    return sent;
  };
  EXPECT_EQ(ids({{"X-Request-Id", "abc"}}), "abc");
  EXPECT_EQ(ids({{"X-Request-Id", "abc"}, {"X-Own-Id", "own"}}), "own");
  const std::string made = ids({});
  EXPECT_TRUE(made.starts_with("chatcmpl-")) << made;
  EXPECT_NE(ids({}), made);
  EXPECT_TRUE(ids({{"X-Request-Id", "has blanks"}}).starts_with("chatcmpl-"));
}

TEST(Router, KeysGuardTheRouterAndGoToTheWorkers) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  options.api_key = "secret";
  RouterFixture router(options);
  EXPECT_EQ(worker.last_authorization(), "Bearer secret") << "of health checks";
  for (const char* key : {"", "Bearer wrong!", "secret"}) {
    const HttpReply reply = router.Call("POST", "/generate", kBody, {{"Authorization", key}});
    EXPECT_EQ(reply.status, 401) << key;
  }
  EXPECT_EQ(router.Get("/workers").status, 401);
  HttpClient client = router.Post("/generate", kBody, {{"Authorization", "Bearer secret"}});
  HeldRequest held = worker.Take();
  EXPECT_EQ(*FindHeader(held.request.headers, "authorization"), "Bearer secret");
  held.Send(200, "{}");
  EXPECT_EQ(ReadReply(client).status, 200);
}

TEST(Router, WithoutAKeyTheClientsOwnGoesToTheWorkerUnlessThereIsOneForWorkers) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  for (const bool own : {false, true}) {
    options.worker_api_key = own ? "inner" : "";
    RouterFixture router(options);
    HttpClient client = router.Post("/generate", kBody, {{"Authorization", "Bearer outer"}});
    HeldRequest held = worker.Take();
    EXPECT_EQ(*FindHeader(held.request.headers, "authorization"),
              own ? "Bearer inner" : "Bearer outer");
    held.Send(200, "{}");
    ReadReply(client);
  }
}

TEST(Router, WorkersComeAndGoAtRunTime) {
  ScriptedWorker first;
  ScriptedWorker second;
  RouterFixture router(OptionsFor({&first}));
  HttpReply reply = router.Call("POST", "/workers", Text("{\"url\":\"", second.url(), "\"}"));
  ASSERT_EQ(reply.status, 202) << reply.body;
  const std::string id = nlohmann::json::parse(reply.body)["worker_id"];
  EXPECT_EQ(router.Call("POST", "/workers", Text("{\"url\":\"", second.url(), "/\"}")).status, 409);
  ASSERT_TRUE(Eventually([&] {
    return nlohmann::json::parse(router.Get("/workers/" + id).body).value("is_healthy", false);
  }));
  EXPECT_EQ(nlohmann::json::parse(router.Get("/list_workers").body)["urls"].size(), 2U);

  // The first goes while it has a request, which it may end.
  HttpClient client = router.Post("/generate", kBody);
  ASSERT_TRUE(Eventually([&] { return first.waiting() + second.waiting() == 1; }));
  HttpClient other = router.Post("/generate", kBody);
  HeldRequest at_first = first.Take();
  HeldRequest at_second = second.Take();
  std::string encoded = first.url();
  for (size_t at; (at = encoded.find('/')) != std::string::npos;) encoded.replace(at, 1, "%2F");
  EXPECT_EQ(router.Call("DELETE", "/workers/" + encoded).status, 202);
  at_first.Send(200, "{}");
  at_second.Send(200, "{}");
  EXPECT_EQ(ReadReply(client).status, 200);
  EXPECT_EQ(ReadReply(other).status, 200);
  for (int i = 0; i < 4; ++i) {
    HttpClient next = router.Post("/generate", kBody);
    second.Take().Send(200, "{}");
    EXPECT_EQ(ReadReply(next).status, 200);
  }
  EXPECT_EQ(first.waiting(), 0U);
  EXPECT_EQ(router.Call("DELETE", "/workers/" + id).status, 202);
  EXPECT_EQ(router.Call("DELETE", "/workers/" + id).status, 404);
  EXPECT_EQ(router.Call("POST", "/generate", kBody).status, 503);
}

TEST(Router, WhatIsWrongWithANewWorkerIsNamed) {
  RouterFixture router(FastOptions());
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "JSON object"},
      {"{}", "url is missing"},
      {R"({"url":5})", "url is 5"},
      {R"({"url":"https://a:1"})", "plain http"},
      {R"({"url":"http://a:1/path"})", "more than a host"},
      {R"({"url":"http://a:1","worker_type":"decode"})", "without --pd-disaggregation"},
      {R"({"url":"http://a:1","worker_type":"x"})", "regular, prefill or decode"},
      {R"({"url":"http://a:1","bootstrap_port":0})", "bootstrap_port is 0"},
      {R"({"url":"http://a:1","bootstrap_prot":1})", "no field 'bootstrap_prot'"}};
  for (const auto& [body, what] : cases) {
    const HttpReply reply = router.Call("POST", "/workers", body);
    EXPECT_EQ(reply.status, 400) << body;
    EXPECT_NE(reply.body.find(what), std::string::npos) << reply.body;
  }
}

TEST(Router, AWorkerThatFailsItsChecksGetsNothingUntilTheyAreGoodAgain) {
  ScriptedWorker first;
  ScriptedWorker second;
  RouterFixture router(OptionsFor({&first, &second}));
  const auto healthy = [&](int count) {
    return Eventually([&] {
      return nlohmann::json::parse(router.Get("/readiness").body)["healthy_workers"] == count;
    });
  };
  first.health = 500;
  ASSERT_TRUE(healthy(1));
  for (int i = 0; i < 4; ++i) {
    HttpClient client = router.Post("/generate", kBody);
    second.Take().Send(200, "{}");
    EXPECT_EQ(ReadReply(client).status, 200);
  }
  first.health = 200;
  ASSERT_TRUE(healthy(2));
  HttpClient one = router.Post("/generate", kBody);
  HttpClient two = router.Post("/generate", kBody);
  first.Take().Send(200, "{}");
  second.Take().Send(200, "{}");
  EXPECT_EQ(ReadReply(one).status, 200);
  EXPECT_EQ(ReadReply(two).status, 200);
}

TEST(Router, AnOpenCircuitBreakerKeepsRequestsFromAWorker) {
  ScriptedWorker bad;
  ScriptedWorker good;
  RouterOptions options = OptionsFor({&bad, &good});
  options.breaker = {.failure_threshold = 2, .success_threshold = 1, .timeout_ms = 300};
  RouterFixture router(options);
  // Each request that the bad one fails is answered by the good one.
  for (int failures = 0; failures < 2;) {
    HttpClient client = router.Post("/generate", kBody);
    ASSERT_TRUE(Eventually([&] { return bad.waiting() + good.waiting() == 1; }));
    if (bad.waiting() == 1) {
      bad.Take().Send(500, "{}");
      ++failures;
    }
    good.Take().Send(200, "{}");
    EXPECT_EQ(ReadReply(client).status, 200);
  }
  EXPECT_NE(
      router.Get("/metrics").body.find(Text("smg_worker_cb_state{worker=\"", bad.url(), "\"} 1")),
      std::string::npos);
  for (int i = 0; i < 3; ++i) {
    HttpClient client = router.Post("/generate", kBody);
    good.Take().Send(200, "{}");
    EXPECT_EQ(ReadReply(client).status, 200);
  }
  EXPECT_EQ(bad.waiting(), 0U);
  // Half-open, it is tried again.
  std::this_thread::sleep_for(std::chrono::milliseconds(350));
  HttpClient one = router.Post("/generate", kBody);
  ASSERT_TRUE(Eventually([&] { return bad.waiting() + good.waiting() == 1; }));
  HttpClient two = router.Post("/generate", kBody);
  bad.Take().Send(200, "{}");
  good.Take().Send(200, "{}");
  EXPECT_EQ(ReadReply(one).status, 200);
  EXPECT_EQ(ReadReply(two).status, 200);
}

TEST(Router, BeyondItsLimitsRequestsWaitAreRefusedOrGiveUp) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  options.gate = {.max_concurrent = 1, .queue_size = 2, .queue_timeout_ms = 400};
  RouterFixture router(options);
  HttpClient running = router.Post("/generate", kBody);
  HeldRequest held = worker.Take();
  HttpClient next = router.Post("/generate", kBody);
  ASSERT_TRUE(Eventually([&] { return router.router().UnderWay() == 2; }));
  HttpClient late = router.Post("/generate", kBody);
  ASSERT_TRUE(Eventually([&] { return router.router().UnderWay() == 3; }));
  const HttpReply full = router.Call("POST", "/generate", kBody);
  EXPECT_EQ(full.status, 429);
  EXPECT_NE(full.body.find("--queue-size"), std::string::npos) << full.body;
  EXPECT_EQ(worker.waiting(), 0U);
  held.Send(200, "{}");
  EXPECT_EQ(ReadReply(running).status, 200);
  HeldRequest held_next = worker.Take();
  const HttpReply waited = ReadReply(late);
  EXPECT_EQ(waited.status, 408);
  EXPECT_NE(waited.body.find("--queue-timeout-secs"), std::string::npos) << waited.body;
  held_next.Send(200, "{}");
  EXPECT_EQ(ReadReply(next).status, 200);
  // A client that goes while it waits leaves no place taken.
  HttpClient again = router.Post("/generate", kBody);
  HeldRequest held_again = worker.Take();
  HttpClient leaving = router.Post("/generate", kBody);
  ASSERT_TRUE(Eventually([&] { return router.router().UnderWay() == 2; }));
  leaving.Close();
  ASSERT_TRUE(Eventually([&] { return router.router().UnderWay() == 1; }));
  held_again.Send(200, "{}");
  EXPECT_EQ(ReadReply(again).status, 200);
  HttpClient last = router.Post("/generate", kBody);
  worker.Take().Send(200, "{}");
  EXPECT_EQ(ReadReply(last).status, 200);
}

TEST(Router, ASlowClientStopsItsOwnWorkerAndNobodyElse) {
  HttpServerOptions unbounded;
  unbounded.max_queued_bytes = size_t{1} << 30;
  ScriptedWorker worker(unbounded);
  RouterFixture router(OptionsFor({&worker}));
  HttpClient slow = router.Post("/generate", kStream);
  auto held = std::make_shared<HeldRequest>(worker.Take());
  held->BeginStream();
  constexpr size_t kPiece = 64 << 10;
  constexpr size_t kPieces = 1024;  // 64 MiB
  const std::string piece = "data: " + std::string(kPiece - 8, 'x') + "\n\n";
  // The worker writes as fast as what it has written is taken.
  auto taken = std::make_shared<std::atomic<size_t>>(0);
  auto write = std::make_shared<std::function<void()>>();
  *write = [held, taken, piece, again = std::weak_ptr(write)] {
    const auto next = again.lock();
    if (!next) return;
    if (taken->load() == kPieces) {
      held->responder.End();
      return;
    }
    held->responder.Write(piece);
    held->responder.OnSent([taken, next] {
      taken->fetch_add(1);
      (*next)();
    });
  };
  held->responder.executor().Post([write] { (*write)(); });
  // It comes to rest far from the end: what is on the way is what sockets and the router hold.
  size_t before = 1;
  while (taken->load() != before) {
    before = taken->load();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  EXPECT_LT(before, kPieces / 2) << "the router or the sockets hold it all";
  HttpClient other = router.Post("/generate", kBody);
  worker.Take().Send(200, "{}");
  EXPECT_EQ(ReadReply(other).status, 200);
  // Once the client reads, all comes, and in order.
  ASSERT_TRUE(slow.ReadHead(Soon()).ok());
  EXPECT_EQ(ReadToEnd(slow).size(), kPiece * kPieces);
}

TEST(Router, AKeptConnectionThatTheWorkerHasClosedCostsNoTry) {
  HttpServerOptions hasty;
  hasty.idle_timeout_ms = 100;
  ScriptedWorker worker(hasty);
  RouterOptions options = OptionsFor({&worker});
  options.retry.max_retries = 1;
  RouterFixture router(options);
  for (int i = 0; i < 5; ++i) {
    HttpClient client = router.Post("/generate", kBody);
    worker.Take().Send(200, "{}");
    EXPECT_EQ(ReadReply(client).status, 200);
    // Around the time at which the worker closes it.
    std::this_thread::sleep_for(std::chrono::milliseconds(95 + 5 * i));
  }
}

TEST(Router, AWorkerThatIsSilentOrGoneIsA504OrA502) {
  ScriptedWorker worker;
  RouterOptions options = OptionsFor({&worker});
  options.retry.max_retries = 1;
  options.upstream.answer_timeout_ms = 300;
  options.health.interval_ms = 60'000;
  RouterFixture router(options);
  HttpClient client = router.Post("/generate", kBody);
  HeldRequest held = worker.Take();
  const HttpReply late = ReadReply(client);
  EXPECT_EQ(late.status, 504) << late.body;
  EXPECT_TRUE(held.WaitForGone());
  worker.Stop();
  const HttpReply gone = router.Call("POST", "/generate", kBody);
  EXPECT_EQ(gone.status, 502) << gone.body;
}

TEST(Router, WorkersMayBeNamesAndAnUnknownNameIsA502) {
  ScriptedWorker worker;
  RouterOptions options = FastOptions();
  options.retry.max_retries = 1;
  std::string url = worker.url();
  url.replace(url.find("127.0.0.1"), 9, "localhost");
  options.workers = {{.url = url}};
  RouterFixture router(options);
  HttpClient client = router.Post("/generate", kBody);
  worker.Take().Send(200, "{}");
  EXPECT_EQ(ReadReply(client).status, 200);

  options.workers = {{.url = "http://no-such-host.invalid:80"}};
  options.health.disabled = true;
  options.upstream.connect_timeout_ms = 2'000;
  RouterFixture lost(options, /*wait=*/false);
  const HttpReply reply = lost.Call("POST", "/generate", kBody);
  EXPECT_TRUE(reply.status == 502 || reply.status == 504) << reply.status;
  EXPECT_NE(reply.body.find("name was not found"), std::string::npos) << reply.body;
}

TEST(Router, StoppingWaitsForAnswersUnderWayAndRefusesNewOnes) {
  ScriptedWorker worker;
  auto router = std::make_unique<RouterFixture>(OptionsFor({&worker}));
  HttpClient idle = router->Connect();
  HttpClient client = router->Post("/generate", kStream);
  HeldRequest held = worker.Take();
  held.BeginStream();
  held.responder.Write("data: 1\n\n");
  ASSERT_TRUE(client.ReadHead(Soon()).ok());
  HttpClient later = router->Connect();
  std::thread stop([&] { EXPECT_TRUE(router->router().Stop(Soon())); });
  EXPECT_TRUE(idle.WaitForClose(Soon()));
  HttpClient fresh = router->Post("/generate", kBody);
  EXPECT_EQ(ReadReply(fresh).status, 503);
  held.responder.Write("data: [DONE]\n\n");
  held.responder.End();
  EXPECT_EQ(ReadToEnd(client), "data: 1\n\ndata: [DONE]\n\n");
  stop.join();
}

TEST(Router, StoppingCutsWhatIsNotDoneAtTheDeadline) {
  ScriptedWorker worker;
  auto router = std::make_unique<RouterFixture>(OptionsFor({&worker}));
  HttpClient client = router->Post("/generate", kStream);
  HeldRequest held = worker.Take();
  EXPECT_FALSE(router->router().Stop(Deadline::AfterMs(100)));
  EXPECT_TRUE(held.WaitForGone());
  router.reset();
}

TEST(Router, QuestionsToAllWorkersBecomeOneAnswer) {
  ScriptedWorker first;
  ScriptedWorker second;
  RouterFixture router(OptionsFor({&first, &second}));
  const auto json = [&](const char* path) { return nlohmann::json::parse(router.Get(path).body); };
  EXPECT_EQ(json("/v1/models")["data"].size(), 1U) << "both serve the same one";
  EXPECT_EQ(json("/get_model_info")["model_path"], "m");
  EXPECT_EQ(json("/get_server_info")["regular"].size(), 2U);
  EXPECT_EQ(json("/server_info")["internal_states"].size(), 2U);
  EXPECT_EQ(json("/get_loads")["workers"][1]["load"], 30);
  EXPECT_EQ(router.Get("/health_generate").status, 200);
  EXPECT_EQ(router.Call("POST", "/flush_cache").status, 200);
  EXPECT_EQ(router.Call("POST", "/abort_request", R"({"rid":"a"})").status, 200);
  for (const ScriptedWorker* worker : {&first, &second}) {
    EXPECT_EQ(worker->Count("POST /flush_cache"), 1);
    EXPECT_EQ(worker->Count("POST /abort_request"), 1);
  }
  const std::string engine = router.Get("/engine_metrics").body;
  EXPECT_NE(engine.find(Text("sglang:a{worker=\"", first.url(), "\"} 1")), std::string::npos);
  EXPECT_NE(engine.find(Text("sglang:a{worker=\"", second.url(), "\"} 1")), std::string::npos);
}

TEST(Router, MetricsCountWhatHappened) {
  ScriptedWorker worker;
  RouterFixture router(OptionsFor({&worker}));
  HttpClient client =
      router.Post("/v1/chat/completions", R"({"model":"m","messages":[],"stream":true})");
  HeldRequest held = worker.Take();
  held.BeginStream();
  for (int i = 0; i < 3; ++i) held.responder.Write("data: {}\n\n");
  held.responder.End();
  ReadReply(client);
  const std::string metrics = router.Get("/metrics").body;
  const std::string labels =
      "router_type=\"http\",backend_type=\"regular\",connection_mode=\"http\",model=\"m\","
      "endpoint=\"chat\"";
  for (const std::string& line :
       {Text("smg_router_requests_total{", labels, ",streaming=\"true\"} 1"),
        Text("smg_router_ttft_seconds_count{", labels, "} 1"),
        Text("smg_router_tpot_seconds_count{", labels, "} 1"),
        Text("smg_router_request_duration_seconds_count{", labels, "} 1"),
        Text("smg_router_upstream_responses_total{", labels, ",status_code=\"200\"} 1"),
        Text("smg_http_requests_total{method=\"POST\",path=\"/v1/chat/completions\"} 1"),
        Text("smg_worker_health{worker=\"", worker.url(), "\"} 1"),
        Text("smg_worker_requests_active{worker=\"", worker.url(), "\"} 0"),
        Text("smg_worker_cb_outcomes_total{worker=\"", worker.url(), "\",outcome=\"success\"} 1"),
        std::string("smg_worker_pool_size{worker_type=\"regular\",connection_mode=\"http\"} 1")}) {
    EXPECT_NE(metrics.find(line), std::string::npos) << line << "\nin\n" << metrics;
  }
}

}  // namespace
}  // namespace causeway
