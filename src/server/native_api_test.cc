#include "server/native_api.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "net/http_client.h"
#include "server/fake_tokenizer.h"
#include "server/openai_api.h"
#include "server/scripted_engine.h"

namespace causeway {
namespace {

using namespace std::chrono_literals;

// A server with both APIs on a scripted engine.
class Fixture {
 public:
  explicit Fixture(ScriptedEngine::Script script, const std::string& api_key = "",
                   bool enable_metrics = true)
      : engine(std::move(script)),
        metrics({.model_name = "served", .max_total_tokens = 1024, .page_size = 64}),
        model({.name = "served",
               .tokenizer = tokenizer,
               .chat_format = ChatFormat::kV32,
               .context_length = 1000,
               .vocab_size = FakeTokenizer::kVocabulary,
               .bos_token = FakeTokenizer::kBos,
               .max_choices = 8}),
        openai(model, api_key),
        native(model, Options(api_key, enable_metrics)),
        desk(engine, metrics, {.on_report = [this](const RequestReport& report) {
               const std::lock_guard lock(mutex);
               reports.push_back(report);
             }}) {
    std::vector<HttpRoute> routes = openai.Routes(desk);
    for (HttpRoute& route : native.Routes(desk)) routes.push_back(std::move(route));
    auto made = HttpServer::Listen({}, metrics.Count(std::move(routes)));
    EXPECT_TRUE(made.ok()) << made.status().message();
    server = std::move(made).value();
  }

  static NativeOptions Options(const std::string& api_key, bool enable_metrics) {
    NativeOptions options;
    options.api_key = api_key;
    options.model_path = "/models/v32";
    options.tokenizer_path = "/models/v32";
    options.model_type = "deepseek_v32";
    options.vocab_size = 1000;
    options.version = "1.2.3";
    options.server_args = {{"tp_size", 4}};
    options.weight_gb = 1.5;
    options.kv_cache_gb = 0.25;
    options.enable_metrics = enable_metrics;
    return options;
  }

  HttpClient Client() const {
    auto client = HttpClient::Connect("127.0.0.1", server->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(client).value();
  }
  HttpReply Call(std::string_view method, std::string_view path, std::string_view body = "",
                 const std::vector<HttpHeader>& headers = {}) const {
    HttpClient client = Client();
    auto reply = client.Call(method, path, body, Soon(), headers);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }
  Json Get(std::string_view path) const {
    const HttpReply reply = Call("GET", path);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  Json Generate(std::string_view body) const {
    const HttpReply reply = Call("POST", "/generate", body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  // The JSON of each event; the last one must be [DONE].
  std::vector<Json> Events(std::string_view body) const {
    const HttpReply reply = Call("POST", "/generate", body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(*FindHeader(reply.headers, "Content-Type"), "text/event-stream");
    return ParseEvents(reply.body);
  }
  static std::vector<Json> ParseEvents(std::string text) {
    std::vector<Json> out;
    EXPECT_TRUE(text.ends_with("data: [DONE]\n\n")) << text;
    while (!text.empty()) {
      const size_t end = text.find("\n\n");
      EXPECT_NE(end, std::string::npos) << "unfinished event " << text;
      if (end == std::string::npos) break;
      const std::string event = text.substr(0, end);
      text.erase(0, end + 2);
      EXPECT_TRUE(event.starts_with("data: ")) << event;
      if (event != "data: [DONE]") out.push_back(Json::parse(event.substr(6)));
    }
    return out;
  }
  // A request whose answer is not read yet.
  HttpClient Send(std::string_view body) const {
    HttpClient client = Client();
    EXPECT_TRUE(client.SendBytes(FormatRequest("POST", "/generate", "h", {}, body), Soon()).ok());
    return client;
  }
  void WaitForRequests(size_t count) {
    const Deadline deadline = Soon();
    while (engine.requests().size() < count && !deadline.Passed()) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(engine.requests().size(), count);
  }
  // The value of a series of /metrics.
  double Metric(const std::string& series) const {
    const std::string text = Call("GET", "/metrics").body;
    const size_t at = text.find("\n" + series + " ");
    EXPECT_NE(at, std::string::npos) << series << " in\n" << text;
    return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }

  std::mutex mutex;
  std::vector<RequestReport> reports;
  FakeTokenizer tokenizer;
  ScriptedEngine engine;
  ServeMetrics metrics;
  ServedModel model;
  OpenAiApi openai;
  NativeApi native;
  RequestDesk desk;
  std::unique_ptr<HttpServer> server;
};

// "Hello world" in four tokens.
ScriptedEngine::Script Hello() { return {.tokens = {300, 301, 302, 303}}; }
// One token, and then silence.
ScriptedEngine::Script Endless() { return {.tokens = {300}, .wait_for_cancel = true}; }

TEST(NativeApiTest, AnAnswerHasSGLangsShape) {
  Fixture fixture(Hello());
  Json answer = fixture.Generate(R"({"text": "hi", "rid": "r1"})");
  const double latency = answer["meta_info"]["e2e_latency"].get<double>();
  EXPECT_GT(latency, 0);
  EXPECT_LT(latency, 20);
  answer["meta_info"].erase("e2e_latency");
  EXPECT_EQ(Dump(answer),
            R"({"text":"Hello world","output_ids":[300,301,302,303,1],"meta_info":{"id":"r1",)"
            R"("finish_reason":{"type":"stop","matched":1},"prompt_tokens":3,)"
            R"("weight_version":"default","completion_tokens":5,"cached_tokens":2}})");
  const std::vector<Request> requests = fixture.engine.requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].prompt, fixture.tokenizer.Encode("<bos>hi", true));
}

TEST(NativeApiTest, PutIsTheSameAsPost) {
  Fixture fixture(Hello());
  EXPECT_EQ(fixture.Call("PUT", "/generate", R"({"text": "hi"})").status, 200);
}

TEST(NativeApiTest, TheLengthLimitIsAReason) {
  Fixture fixture(Hello());
  const Json answer =
      fixture.Generate(R"({"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 2}})");
  EXPECT_EQ(answer["text"], "Hello");
  EXPECT_EQ(Dump(answer["output_ids"]), "[300,301]");
  EXPECT_EQ(Dump(answer["meta_info"]["finish_reason"]), R"({"type":"length","length":2})");
  EXPECT_EQ(answer["meta_info"]["completion_tokens"], 2);
}

TEST(NativeApiTest, AStopStringIsCutAndNamed) {
  Fixture fixture({.tokens = {300, 301, 302, 303}, .repeat = true});
  const Json answer = fixture.Generate(
      R"({"text": "hi", "sampling_params": {"max_new_tokens": 900, "stop": ["zz", "o wo"]}})");
  EXPECT_EQ(answer["text"], "Hell");
  EXPECT_EQ(Dump(answer["meta_info"]["finish_reason"]), R"({"type":"stop","matched":"o wo"})");
  EXPECT_EQ(Dump(answer["output_ids"]), "[300,301,302]") << "with the tokens of the stop string";
  EXPECT_EQ(answer["meta_info"]["completion_tokens"], 3);
  EXPECT_TRUE(fixture.engine.WaitForCancel(0));
  const Json kept = fixture.Generate(
      R"({"text": "hi", "sampling_params": {"max_new_tokens": 900, "stop": "o wo",
                                            "no_stop_trim": true}})");
  EXPECT_EQ(kept["text"], "Hello wo");
}

TEST(NativeApiTest, AStopRegexEndsTheAnswerWithItsMatch) {
  Fixture fixture({.tokens = {300, 301, 302, 303}, .repeat = true});
  const Json answer = fixture.Generate(
      R"({"text": "hi", "sampling_params": {"max_new_tokens": 900, "stop": "zz",
                                            "stop_regex": ["x+", "l. w", "^lo"]}})");
  EXPECT_EQ(answer["text"], "Hello w") << "to the end of the match, not of its token";
  EXPECT_EQ(Dump(answer["meta_info"]["finish_reason"]), R"({"type":"stop","matched":"l. w"})");
  EXPECT_EQ(answer["meta_info"]["completion_tokens"], 3);
  EXPECT_TRUE(fixture.engine.WaitForCancel(0));
  // A stop string that comes first wins, and a match within min_new_tokens is none.
  EXPECT_EQ(fixture.Generate(R"({"text": "hi", "sampling_params": {"max_new_tokens": 900,
                                 "stop": "o", "stop_regex": "l. w"}})")["text"],
            "Hell");
  EXPECT_EQ(fixture.Generate(R"({"text": "hi", "sampling_params": {"max_new_tokens": 900,
                                 "min_new_tokens": 4, "stop_regex": "He|l. w"}})")["text"],
            "Hello worldHe");
}

TEST(NativeApiTest, LogprobsOfThePromptComeFromTheStartThatIsAskedFor) {
  Fixture fixture(Hello());
  const std::string request = R"({"input_ids": [5, 6, 7, 8], "return_logprob": true,
      "logprob_start_len": 1, "top_logprobs_num": 1, "token_ids_logprob": [9])";
  const Json meta = fixture.Generate(request + "}")["meta_info"];
  EXPECT_EQ(Dump(meta["input_token_logprobs"]), "[[null,6,null],[-0.25,7,null],[-0.375,8,null]]");
  EXPECT_EQ(Dump(meta["input_top_logprobs"]), "[null,[[-1.0,300,null]],[[-1.0,300,null]]]");
  EXPECT_EQ(Dump(meta["input_token_ids_logprobs"]), "[null,[[-2.0,9,null]],[[-2.0,9,null]]]");
  EXPECT_EQ(meta["output_token_logprobs"].size(), 5u);
  const Json alone =
      fixture.Generate(request + R"(, "sampling_params": {"max_new_tokens": 0}})")["meta_info"];
  EXPECT_EQ(alone["input_token_logprobs"], meta["input_token_logprobs"]);
  EXPECT_EQ(alone["output_token_logprobs"].size(), 0u);
}

TEST(NativeApiTest, SpecialTokensHaveTextOnlyIfAskedFor) {
  Fixture fixture({.tokens = {300, FakeTokenizer::kThinkEnd}});
  EXPECT_EQ(fixture.Generate(R"({"text": "hi"})")["text"], "Hel");
  EXPECT_EQ(fixture.Generate(
                R"({"text": "hi", "sampling_params": {"skip_special_tokens": false}})")["text"],
            "Hel</think>");
}

TEST(NativeApiTest, AStreamRepeatsTheAnswerSoFar) {
  Fixture fixture(Hello());
  const std::vector<Json> events = fixture.Events(R"({"text": "hi", "stream": true})");
  ASSERT_EQ(events.size(), 5u);
  const std::string texts[] = {"Hel", "Hello", "Hello wor", "Hello world", "Hello world"};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(events[i]["text"], texts[i]);
    EXPECT_EQ(events[i]["output_ids"].size(), i + 1);
    EXPECT_EQ(events[i]["meta_info"]["completion_tokens"], i + 1);
    EXPECT_EQ(events[i]["meta_info"]["finish_reason"].is_null(), i < 4);
    EXPECT_EQ(events[i]["meta_info"]["id"], events[0]["meta_info"]["id"]);
    EXPECT_FALSE(events[i].contains("index"));
  }
  EXPECT_EQ(events[4]["meta_info"]["finish_reason"]["matched"], 1);
}

TEST(NativeApiTest, AStreamIntervalSavesEvents) {
  Fixture fixture(Hello());
  const std::vector<Json> events = fixture.Events(
      R"({"text": "hi", "stream": true, "sampling_params": {"stream_interval": 3}})");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]["text"], "Hel") << "the first token is not held back";
  EXPECT_EQ(events[1]["text"], "Hello world");
  EXPECT_EQ(events[2]["text"], "Hello world");
  EXPECT_FALSE(events[2]["meta_info"]["finish_reason"].is_null());
}

TEST(NativeApiTest, NoEventHoldsHalfACharacterOrAnUnescapedOne) {
  std::vector<int32_t> tokens;
  for (const char c : std::string("\"\n\xe4\xbd\xa0")) tokens.push_back(FakeTokenizer::ByteId(c));
  Fixture fixture({.tokens = tokens});
  std::vector<std::string> texts;
  for (const Json& event : fixture.Events(R"({"text": "hi", "stream": true})")) {
    texts.push_back(event["text"].get<std::string>());
  }
  EXPECT_EQ(texts, std::vector<std::string>(
                       {"\"", "\"\n", "\"\n", "\"\n", "\"\n\xe4\xbd\xa0", "\"\n\xe4\xbd\xa0"}));
}

TEST(NativeApiTest, SeveralPromptsMakeAList) {
  Fixture fixture(Hello());
  const Json answer = fixture.Generate(
      R"({"text": ["a", "bc"], "rid": "r", "sampling_params": [{}, {"max_new_tokens": 1}]})");
  ASSERT_EQ(answer.size(), 2u);
  EXPECT_EQ(answer[0]["text"], "Hello world");
  EXPECT_EQ(answer[1]["text"], "Hel");
  EXPECT_EQ(answer[0]["meta_info"]["prompt_tokens"], 2);
  EXPECT_EQ(answer[1]["meta_info"]["prompt_tokens"], 3);
  EXPECT_EQ(answer[1]["meta_info"]["id"], "r_1");
  EXPECT_EQ(fixture.Generate(R"({"text": ["a"]})").size(), 1u);
}

TEST(NativeApiTest, SeveralAnswersToAPromptStandPromptByPrompt) {
  Fixture fixture(Hello());
  const Json answer = fixture.Generate(
      R"({"input_ids": [[5], [6, 7]], "sampling_params": {"n": 2, "sampling_seed": 9}})");
  ASSERT_EQ(answer.size(), 4u);
  const std::vector<Request> requests = fixture.engine.requests();
  ASSERT_EQ(requests.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer[i]["meta_info"]["prompt_tokens"], i / 2 + 1);
    EXPECT_EQ(requests[i].prompt.size(), i / 2 + 1);
    EXPECT_EQ(requests[i].sampling.seed, 9 + i % 2);
  }
}

TEST(NativeApiTest, EventsOfSeveralAnswersAreNumbered) {
  Fixture fixture(Hello());
  std::string text[2];
  for (const Json& event : fixture.Events(R"({"text": ["a", "b"], "stream": true})")) {
    text[event["index"].get<size_t>()] = event["text"].get<std::string>();
  }
  EXPECT_EQ(text[0], "Hello world");
  EXPECT_EQ(text[1], "Hello world");
}

TEST(NativeApiTest, LogprobsAreTriples) {
  Fixture fixture({.tokens = {300, 301}});
  const Json meta = fixture.Generate(
      R"({"text": "hi", "return_logprob": true, "top_logprobs_num": 2, "logprob_start_len": -1,
          "return_text_in_logprobs": true})")["meta_info"];
  EXPECT_EQ(Dump(meta["output_token_logprobs"]),
            R"([[-0.5,300,"Hel"],[-0.5,301,"lo"],[-0.25,1,"<eos>"]])");
  EXPECT_EQ(meta["output_token_logprobs_length"], 3);
  EXPECT_EQ(Dump(meta["output_top_logprobs"][0]), R"([[-0.5,300,"Hel"],[-1.5,301,"lo"]])");
  EXPECT_EQ(meta["input_token_logprobs"], Json::array());
  const Json plain = fixture.Generate(R"({"text": "hi", "return_logprob": true})")["meta_info"];
  EXPECT_EQ(Dump(plain["output_token_logprobs"][0]), "[-0.5,300,null]");
  EXPECT_FALSE(plain.contains("output_top_logprobs"));
  EXPECT_FALSE(
      fixture.Generate(R"({"text": "hi"})")["meta_info"].contains("output_token_logprobs"));
}

TEST(NativeApiTest, NoNewTokensGivesAnEmptyAnswer) {
  Fixture fixture(Hello());
  const Json answer =
      fixture.Generate(R"({"text": "hi", "sampling_params": {"max_new_tokens": 0}})");
  EXPECT_EQ(answer["text"], "");
  EXPECT_EQ(answer["output_ids"], Json::array());
  EXPECT_EQ(answer["meta_info"]["completion_tokens"], 0);
  EXPECT_EQ(answer["meta_info"]["prompt_tokens"], 3);
  EXPECT_EQ(Dump(answer["meta_info"]["finish_reason"]), R"({"type":"length","length":0})");
}

TEST(NativeApiTest, ErrorsHaveSGLangsShape) {
  Fixture fixture(Hello());
  const HttpReply bad = fixture.Call("POST", "/generate", R"({"text": "a", "stream": 7})");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(bad.body,
            R"({"error":{"message":"stream is 7; expected true or false",)"
            R"("type":"invalid_request_error","code":400,"param":"stream","retryable":false}})");
  EXPECT_TRUE(fixture.engine.requests().empty());
  Fixture full({.submit = Unavailable("the queue is full: 512 requests are waiting")});
  for (const char* stream : {"false", "true"}) {
    const HttpReply reply =
        full.Call("POST", "/generate", Text(R"({"text": "a", "stream": )", stream, "}"));
    EXPECT_EQ(reply.status, 503);
    EXPECT_EQ(*FindHeader(reply.headers, "Retry-After"), "1");
    EXPECT_EQ(Json::parse(reply.body)["error"]["retryable"], true);
  }
}

TEST(NativeApiTest, AFailedStepIs500OrAnErrorEvent) {
  Fixture fixture({.tokens = {300, 301}, .repeat = true, .fail_after = 2});
  EXPECT_EQ(fixture.Call("POST", "/generate", R"({"text": "a"})").status, 500);
  const std::vector<Json> events = fixture.Events(R"({"text": "a", "stream": true})");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1]["text"], "Hello");
  EXPECT_EQ(events[2]["error"]["message"], "rank 1 of 2 failed in layer 3");
  EXPECT_EQ(events[2]["error"]["code"], 500);
}

TEST(NativeApiTest, AnAbortedRequestKeepsWhatItHas) {
  for (const char* stream : {"false", "true"}) {
    Fixture fixture(Endless());
    HttpClient client = fixture.Send(Text(R"({"text": "a", "rid": "r7", "stream": )", stream, "}"));
    fixture.WaitForRequests(1);
    // The first token is on its way; an abort before it would leave no text.
    const Deadline deadline = Soon();
    while (fixture.Metric("sglang:prompt_tokens_total{model_name=\"served\",is_streaming=\"" +
                          std::string(stream) + "\"}") == 0 &&
           !deadline.Passed()) {
      std::this_thread::sleep_for(1ms);
    }
    EXPECT_EQ(fixture.Call("POST", "/abort_request", R"({"rid": "other"})").body,
              R"({"aborted":0})");
    EXPECT_EQ(fixture.Call("POST", "/abort_request", R"({"rid": "r7"})").body, R"({"aborted":1})");
    EXPECT_TRUE(fixture.engine.WaitForCancel(0));
    ASSERT_EQ(client.ReadHead(Soon())->status, 200);
    std::string body;
    for (std::string piece; !(piece = *client.ReadBody(Soon())).empty();) body += piece;
    const Json answer = stream[0] == 't' ? Fixture::ParseEvents(body).back() : Json::parse(body);
    EXPECT_EQ(answer["text"], "Hel");
    EXPECT_EQ(answer["meta_info"]["finish_reason"]["type"], "abort");
    EXPECT_EQ(fixture.Metric("sglang:num_aborted_requests_total{model_name=\"served\"}"), 1);
  }
}

TEST(NativeApiTest, OneAnswerOfSeveralCanBeAborted) {
  // The scripted engine runs one after the other: the second still waits.
  Fixture fixture(Endless());
  HttpClient client = fixture.Send(R"({"text": ["a", "b"], "rid": ["x", "y"]})");
  fixture.WaitForRequests(2);
  EXPECT_EQ(fixture.Call("POST", "/abort_request", R"({"rid": "y"})").body, R"({"aborted":1})");
  EXPECT_TRUE(fixture.engine.WaitForCancel(1));
  EXPECT_FALSE(fixture.engine.WasCancelled(fixture.engine.requests()[0].id));
  EXPECT_EQ(fixture.Call("POST", "/abort_request", R"({"abort_all": true})").body,
            R"({"aborted":1})");
  ASSERT_EQ(client.ReadHead(Soon())->status, 200);
  const Json answer = Json::parse(*client.ReadBody(Soon()));
  EXPECT_EQ(answer[1]["meta_info"]["finish_reason"]["type"], "abort");
  EXPECT_EQ(answer[1]["text"], "");
}

TEST(NativeApiTest, OpenAisRequestsCanBeAbortedToo) {
  Fixture fixture(Endless());
  HttpClient client = fixture.Client();
  ASSERT_TRUE(client
                  .SendBytes(FormatRequest("POST", "/v1/completions", "h", {},
                                           R"({"prompt": "a", "stream": true})"),
                             Soon())
                  .ok());
  ASSERT_EQ(client.ReadHead(Soon())->status, 200);
  const std::string event = *client.ReadBody(Soon());
  const std::string id = Json::parse(event.substr(6))["id"].get<std::string>();
  EXPECT_EQ(fixture.Call("POST", "/abort_request", Text(R"({"rid": ")", id, R"("})")).body,
            R"({"aborted":1})");
  EXPECT_NE(client.ReadBody(Soon())->find(R"("finish_reason":"abort")"), std::string::npos);
}

TEST(NativeApiTest, AnAbortWithoutANameIsRefused) {
  Fixture fixture(Hello());
  for (const char* body : {"{}", R"({"rid": ""})", R"({"rid": 3})", "[]", "x", ""}) {
    EXPECT_EQ(fixture.Call("POST", "/abort_request", body).status, 400) << body;
  }
  EXPECT_EQ(fixture.Call("POST", "/abort_request", std::string(100'000, ' ')).status, 413);
}

TEST(NativeApiTest, AnIdIsRefusedWhileAnotherRequestHasIt) {
  Fixture fixture(Endless());
  HttpClient client = fixture.Send(R"({"text": ["a", "b"], "rid": "r"})");
  fixture.WaitForRequests(2);
  for (const char* rid : {"r", "r_1"}) {
    const HttpReply reply =
        fixture.Call("POST", "/generate", Text(R"({"text": "c", "rid": ")", rid, R"("})"));
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(Json::parse(reply.body)["error"]["param"], "rid");
  }
  EXPECT_FALSE(fixture.engine.WasCancelled(fixture.engine.requests()[0].id))
      << "the first one is not touched";
  fixture.Call("POST", "/abort_request", R"({"rid": "r"})");
  EXPECT_EQ(client.ReadHead(Soon())->status, 200);
}

TEST(NativeApiTest, AClientThatGoesAwayCancelsItsRequest) {
  Fixture fixture(Endless());
  HttpClient client = fixture.Send(R"({"text": ["a", "b"], "stream": true})");
  fixture.WaitForRequests(2);
  client.Close();
  EXPECT_TRUE(fixture.engine.WaitForCancel(0));
  EXPECT_TRUE(fixture.engine.WaitForCancel(1));
  EXPECT_EQ(fixture.Metric("sglang:num_aborted_requests_total{model_name=\"served\"}"), 2);
}

TEST(NativeApiTest, ModelAndServerDescribeThemselvesUnderBothNames) {
  Fixture fixture(Hello());
  const Json model = fixture.Get("/model_info");
  EXPECT_EQ(model["model_path"], "/models/v32");
  EXPECT_EQ(model["tokenizer_path"], "/models/v32");
  EXPECT_EQ(model["served_model_name"], "served");
  EXPECT_EQ(model["is_generation"], true);
  EXPECT_EQ(model["model_type"], "deepseek_v32");
  EXPECT_EQ(model["vocab_size"], 1000);
  EXPECT_EQ(fixture.Get("/get_model_info"), model);
  const Json server = fixture.Get("/server_info");
  EXPECT_EQ(server["tp_size"], 4);
  EXPECT_EQ(server["version"], "1.2.3");
  EXPECT_EQ(server["max_total_num_tokens"], 1024);
  const Json& state = server["internal_states"][0];
  EXPECT_EQ(state["effective_max_running_requests_per_dp"], 8);
  EXPECT_EQ(state["memory_usage"]["token_capacity"], 1024);
  EXPECT_EQ(state["memory_usage"]["kvcache"], 0.25);
  EXPECT_EQ(fixture.Get("/get_server_info"), server);
}

TEST(NativeApiTest, LoadsAreThoseOfTheEngine) {
  Fixture fixture(Hello());
  EXPECT_EQ(Dump(fixture.Get("/get_load")),
            R"([{"dp_rank":0,"num_reqs":5,"num_waiting_reqs":3,"num_tokens":256}])");
  const Json all = fixture.Get("/v1/loads");
  EXPECT_EQ(all["version"], "1.2.3");
  const Json& load = all["loads"][0];
  EXPECT_EQ(load["num_running_reqs"], 2);
  EXPECT_EQ(load["num_waiting_reqs"], 3);
  EXPECT_EQ(load["token_usage"], 0.25);
  EXPECT_EQ(load["memory"]["token_capacity"], 1024);
  EXPECT_EQ(load["queues"]["waiting"], 3);
  EXPECT_EQ(load["disaggregation"]["mode"], "null");
  const Json some = fixture.Get("/v1/loads?include=core%2Cqueues&dp_rank=0&format=json");
  EXPECT_TRUE(some["loads"][0].contains("queues"));
  EXPECT_FALSE(some["loads"][0].contains("memory"));
  for (const char* query : {"include=cores", "dp_rank=1", "format=prometheus"}) {
    EXPECT_EQ(fixture.Call("GET", Text("/v1/loads?", query)).status, 400) << query;
  }
}

TEST(NativeApiTest, FlushingReachesTheEngine) {
  Fixture fixture(Hello());
  for (const char* method : {"GET", "POST"}) {
    EXPECT_EQ(fixture.Call(method, "/flush_cache?timeout=60.0").status, 200);
  }
  EXPECT_EQ(fixture.engine.flushes(), 2);
}

TEST(NativeApiTest, HealthGenerateRunsATokenThatNobodyCounts) {
  Fixture fixture(Hello());
  EXPECT_EQ(fixture.Call("GET", "/health_generate").status, 200);
  const std::vector<Request> requests = fixture.engine.requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].sampling.max_new_tokens, 1);
  EXPECT_EQ(
      fixture.Metric("sglang:num_requests_total{model_name=\"served\",is_streaming=\"false\"}"), 0);
  const std::lock_guard lock(fixture.mutex);
  EXPECT_TRUE(fixture.reports.empty());
}

TEST(NativeApiTest, ATokenOfAnyRequestShowsThatTheEngineLives) {
  // The probe's own request waits behind one that does not end.
  Fixture fixture({.tokens = {300}, .repeat = true, .pace = 5ms});
  HttpClient client =
      fixture.Send(R"({"text": "a", "stream": true, "sampling_params": {"max_new_tokens": 900}})");
  fixture.WaitForRequests(1);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(fixture.Call("GET", "/health_generate").status, 200);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  EXPECT_TRUE(fixture.engine.WaitForCancel(1)) << "the probe's request is not needed any more";
}

TEST(NativeApiTest, HealthGenerateFailsWithTheServer) {
  Fixture draining(Hello());
  draining.desk.StartDraining();
  EXPECT_EQ(draining.Call("GET", "/health_generate").status, 503);
  Fixture broken({.submit = Unavailable("the engine has failed and is shutting down")});
  broken.engine.Break();
  EXPECT_EQ(broken.Call("GET", "/health_generate").status, 503);
}

TEST(NativeApiTest, TheKeyIsAskedForEverywhereButHealthAndMetrics) {
  Fixture fixture(Hello(), "secret");
  const std::vector<HttpHeader> key = {{"Authorization", "Bearer secret"}};
  for (const char* path : {"/model_info", "/get_model_info", "/server_info", "/get_server_info",
                           "/get_load", "/v1/loads", "/flush_cache"}) {
    EXPECT_EQ(fixture.Call("GET", path).status, 401) << path;
    EXPECT_EQ(fixture.Call("GET", path, "", key).status, 200) << path;
  }
  EXPECT_EQ(fixture.Call("POST", "/generate", R"({"text": "a"})").status, 401);
  EXPECT_EQ(fixture.Call("POST", "/abort_request", R"({"abort_all": true})").status, 401);
  EXPECT_EQ(fixture.Call("POST", "/generate", R"({"text": "a"})", key).status, 200);
  EXPECT_EQ(fixture.Call("GET", "/health_generate").status, 200);
  EXPECT_EQ(fixture.Call("GET", "/metrics").status, 200);
}

TEST(NativeApiTest, MetricsAreThereIfEnabled) {
  Fixture fixture(Hello());
  fixture.Generate(R"({"text": "hi"})");
  const HttpReply reply = fixture.Call("GET", "/metrics");
  EXPECT_EQ(*FindHeader(reply.headers, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  const std::string labels = "{model_name=\"served\",is_streaming=\"false\"}";
  EXPECT_EQ(fixture.Metric("sglang:prompt_tokens_total" + labels), 3);
  EXPECT_EQ(fixture.Metric("sglang:generation_tokens_total" + labels), 5);
  EXPECT_EQ(fixture.Metric("sglang:num_requests_total" + labels), 1);
  EXPECT_EQ(fixture.Metric("sglang:time_to_first_token_seconds_count" + labels), 1);
  EXPECT_EQ(fixture.Metric("sglang:inter_token_latency_seconds_count{model_name=\"served\"}"), 4);
  EXPECT_EQ(fixture.Metric("sglang:http_requests_total{endpoint=\"/generate\",method=\"POST\"}"),
            1);
  Fixture without(Hello(), "", /*enable_metrics=*/false);
  EXPECT_EQ(without.Call("GET", "/metrics").status, 404);
}

TEST(NativeApiTest, CancelAllEndsStreamsWithAnErrorEvent) {
  Fixture fixture(Endless());
  HttpClient client = fixture.Send(R"({"text": "a", "stream": true})");
  ASSERT_EQ(client.ReadHead(Soon())->status, 200);
  ASSERT_NE(client.ReadBody(Soon())->find("Hel"), std::string::npos);
  fixture.desk.CancelAll(fixture.server->executor());
  std::string body;
  for (std::string piece; !(piece = *client.ReadBody(Soon())).empty();) body += piece;
  const std::vector<Json> events = Fixture::ParseEvents(body);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["error"]["code"], 503);
}

}  // namespace
}  // namespace causeway
