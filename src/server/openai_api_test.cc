#include "server/openai_api.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "net/http_client.h"
#include "server/fake_tokenizer.h"
#include "server/scripted_engine.h"

namespace causeway {
namespace {

using namespace std::chrono_literals;

// A server on a scripted engine.
class Fixture {
 public:
  explicit Fixture(ScriptedEngine::Script script, const std::string& api_key = "",
                   int64_t stream_interval = 1)
      : engine(std::move(script)),
        metrics({.model_name = "served"}),
        api({.name = "served",
             .tokenizer = tokenizer,
             .chat_format = ChatFormat::kV32,
             .context_length = 1000,
             .vocab_size = FakeTokenizer::kVocabulary,
             .bos_token = FakeTokenizer::kBos,
             .max_choices = 8,
             .stream_interval = stream_interval},
            api_key),
        desk(engine, metrics, {.on_report = [this](const RequestReport& report) {
               const std::lock_guard lock(mutex_);
               reports_.push_back(report);
             }}) {
    HttpServerOptions options;
    options.render_error = &OpenAiApi::RenderError;
    auto made = HttpServer::Listen(options, api.Routes(desk));
    EXPECT_TRUE(made.ok()) << made.status().message();
    server = std::move(made).value();
  }

  HttpClient Client() {
    auto client = HttpClient::Connect("127.0.0.1", server->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(client).value();
  }
  HttpReply Call(std::string_view method, std::string_view path, std::string_view body = "",
                 const std::vector<HttpHeader>& headers = {}) {
    HttpClient client = Client();
    auto reply = client.Call(method, path, body, Soon(), headers);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }
  Json Answer(std::string_view path, std::string_view body) {
    const HttpReply reply = Call("POST", path, body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  Json Completion(const std::string& fields) {
    return Answer("/v1/completions", Text(R"({"prompt": "hi", )", fields, "}"));
  }
  Json Chat(const std::string& fields) {
    return Answer("/v1/chat/completions",
                  Text(R"({"messages": [{"role": "user", "content": "hi"}], )", fields, "}"));
  }
  // The JSON of each event; the last one must be [DONE].
  std::vector<Json> Events(std::string_view path, std::string_view body) {
    const HttpReply reply = Call("POST", path, body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(*FindHeader(reply.headers, "Content-Type"), "text/event-stream");
    EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
    return ParseEvents(reply.body);
  }
  static std::vector<Json> ParseEvents(std::string text) {
    std::vector<Json> out;
    while (!text.empty()) {
      const size_t end = text.find("\n\n");
      EXPECT_NE(end, std::string::npos) << "unfinished event " << text;
      if (end == std::string::npos) break;
      const std::string event = text.substr(0, end);
      text.erase(0, end + 2);
      EXPECT_TRUE(event.starts_with("data: ")) << event;
      EXPECT_EQ(event.find('\n'), std::string::npos) << event;
      if (event != "data: [DONE]") out.push_back(Json::parse(event.substr(6)));
    }
    return out;
  }
  RequestReport WaitForReport() {
    const Deadline deadline = Soon();
    while (!deadline.Passed()) {
      {
        const std::lock_guard lock(mutex_);
        if (!reports_.empty()) return reports_.back();
      }
      std::this_thread::sleep_for(1ms);
    }
    ADD_FAILURE() << "no report";
    return {};
  }

  FakeTokenizer tokenizer;
  ScriptedEngine engine;
  ServeMetrics metrics;
  OpenAiApi api;
  RequestDesk desk;
  std::unique_ptr<HttpServer> server;

 private:
  std::mutex mutex_;
  std::vector<RequestReport> reports_;
};

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> out;
  for (char c : text) out.push_back(FakeTokenizer::ByteId(c));
  return out;
}
// "Hello world" in four tokens.
ScriptedEngine::Script Hello() { return {.tokens = {300, 301, 302, 303}}; }

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

TEST(OpenAiApiTest, ACompletionHasOpenAisShape) {
  Fixture fixture(Hello());
  const Json answer = fixture.Completion(R"("model": "served", "seed": 5)");
  EXPECT_TRUE(answer["id"].get<std::string>().starts_with("cmpl-"));
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_NEAR(answer["created"].get<double>(), static_cast<double>(std::time(nullptr)), 60);
  EXPECT_EQ(answer["model"], "served");
  EXPECT_EQ(Dump(answer["choices"]),
            R"([{"index":0,"text":"Hello world","logprobs":null,"finish_reason":"stop"}])");
  EXPECT_EQ(Dump(answer["usage"]), R"({"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,)"
                                   R"("prompt_tokens_details":{"cached_tokens":2}})");
  const std::vector<Request> requests = fixture.engine.requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].prompt, fixture.tokenizer.Encode("<bos>hi", true));
  EXPECT_EQ(requests[0].sampling.seed, 5u);
  EXPECT_EQ(requests[0].sampling.max_new_tokens, 16);
}

TEST(OpenAiApiTest, AStopStringStaysInTheAnswerIfAskedFor) {
  Fixture fixture(Hello());
  EXPECT_EQ(fixture.Completion(R"("stop": "o w")")["choices"][0]["text"], "Hell");
  for (const char* name : {"no_stop_trim", "include_stop_str_in_output"}) {
    const Json choice =
        fixture.Completion(Text(R"("stop": "o w", ")", name, R"(": true)"))["choices"][0];
    EXPECT_EQ(choice["text"], "Hello w");
    EXPECT_EQ(choice["finish_reason"], "stop");
  }
  std::string streamed;
  for (const Json& event :
       fixture.Events(kCompletions,
                      R"({"prompt": "a", "stop": "o w", "no_stop_trim": true, "stream": true})")) {
    streamed += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(streamed, "Hello w");
}

TEST(OpenAiApiTest, EchoWithLogprobsHasThoseOfThePrompt) {
  Fixture fixture(Hello());
  const auto logprobs = [&](const std::string& prompt) {
    const Json choice = Json(fixture.Answer(
        kCompletions, Text(R"({"echo": true, "logprobs": 1, "max_tokens": 2, "prompt": )", prompt,
                           "}")))["choices"][0];
    EXPECT_TRUE(choice["text"].get<std::string>().ends_with("Hello"));
    return choice["logprobs"];
  };
  // The BOS token is in front of the text, and not in it.
  const Json text = logprobs("\"hi\"");
  EXPECT_EQ(Dump(text["tokens"]), R"(["h","i","Hel","lo"])");
  EXPECT_EQ(Dump(text["token_logprobs"]), "[-0.125,-0.25,-0.5,-0.5]");
  EXPECT_EQ(Dump(text["text_offset"]), "[0,1,2,5]");
  EXPECT_EQ(text["top_logprobs"].size(), 4u);
  // Ids are taken as they are: nothing comes before the first.
  const Json ids = logprobs("[303, 302]");
  EXPECT_EQ(Dump(ids["tokens"]), R"(["ld"," wor","Hel","lo"])");
  EXPECT_EQ(Dump(ids["token_logprobs"]), "[null,-0.125,-0.5,-0.5]");
  EXPECT_EQ(Dump(ids["text_offset"]), "[0,2,6,9]");
  EXPECT_TRUE(ids["top_logprobs"][0].is_null());
}

TEST(OpenAiApiTest, WithoutTokensOfAnAnswerOnlyThePromptIsThere) {
  Fixture fixture(Hello());
  const Json answer = fixture.Completion(R"("echo": true, "logprobs": 1, "max_tokens": 0)");
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["text"], "hi");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(Dump(choice["logprobs"]["tokens"]), R"(["h","i"])");
  EXPECT_EQ(Dump(choice["logprobs"]["token_logprobs"]), "[-0.125,-0.25]");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
  EXPECT_EQ(answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"]);
  const std::vector<Json> events = fixture.Events(
      kCompletions, R"({"prompt": "hi", "echo": true, "max_tokens": 0, "stream": true})");
  std::string text;
  for (const Json& event : events) text += event["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, "hi");
}

TEST(OpenAiApiTest, AStreamIntervalSavesEvents) {
  Fixture fixture(Hello(), "", /*stream_interval=*/2);
  const auto texts = [&](const std::string& fields) {
    std::vector<std::string> out;
    for (const Json& event :
         fixture.Events(kCompletions, Text(R"({"prompt": "hi", "stream": true)", fields, "}"))) {
      out.push_back(event["choices"][0]["text"].get<std::string>());
    }
    return out;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts(""), (Texts{"Hel", "lo wor", "ld", ""})) << "the first is not held back";
  EXPECT_EQ(texts(R"(, "max_tokens": 2)"), (Texts{"Hel", "lo", ""})) << "nothing is lost";
  EXPECT_EQ(texts(R"(, "stop": "o w")"), (Texts{"Hel", "l", ""}));
  EXPECT_EQ(fixture.Completion(R"("seed": 1)")["choices"][0]["text"], "Hello world");
}

TEST(OpenAiApiTest, SpecialTokensHaveTextOnlyIfAskedFor) {
  Fixture fixture({.tokens = {300, FakeTokenizer::kBos, 301}});
  EXPECT_EQ(fixture.Completion(R"("seed": 1)")["choices"][0]["text"], "Hello");
  EXPECT_EQ(fixture.Completion(R"("skip_special_tokens": false)")["choices"][0]["text"],
            "Hel<bos>lo");
}

TEST(OpenAiApiTest, AChatHasOpenAisShape) {
  Fixture fixture(Hello());
  const Json answer = fixture.Chat(R"("max_tokens": 3)");
  EXPECT_TRUE(answer["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(Dump(answer["choices"]),
            R"([{"index":0,"message":{"role":"assistant","content":"Hello wor","refusal":null},)"
            R"("logprobs":null,"finish_reason":"length"}])");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 3);
}

TEST(OpenAiApiTest, AStreamedCompletionEndsWithReasonUsageAndDone) {
  Fixture fixture(Hello());
  const std::vector<Json> events = fixture.Events(kCompletions, R"({"prompt": "hi", "stream": true,
                                       "stream_options": {"include_usage": true}})");
  ASSERT_EQ(events.size(), 6u);
  std::string text;
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(events[i]["object"], "text_completion");
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
    EXPECT_TRUE(events[i]["usage"].is_null());
    text += events[i]["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(events[i]["choices"][0]["finish_reason"], i == 4 ? Json("stop") : Json());
  }
  EXPECT_EQ(text, "Hello world");
  EXPECT_EQ(events[5]["choices"], Json::array());
  EXPECT_EQ(events[5]["usage"]["total_tokens"], 8);
}

TEST(OpenAiApiTest, AStreamedChatStartsWithTheRole) {
  Fixture fixture(Hello());
  const std::vector<Json> events =
      fixture.Events(kChat, R"({"messages": [{"role": "user", "content": "hi"}], "stream": true})");
  ASSERT_EQ(events.size(), 6u);
  const auto delta = [&](size_t i) { return Dump(events[i]["choices"][0]["delta"]); };
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(delta(0), R"({"role":"assistant","content":""})");
  EXPECT_EQ(delta(1), R"({"content":"Hel"})");
  EXPECT_EQ(delta(4), R"({"content":"ld"})");
  EXPECT_EQ(delta(5), "{}");
  EXPECT_EQ(events[5]["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(events[0].contains("usage"));
}

TEST(OpenAiApiTest, AnEmptyAnswerIsStillWhole) {
  Fixture fixture({.tokens = {}});
  EXPECT_EQ(fixture.Completion(R"("n": 1)")["choices"][0]["text"], "");
  const std::vector<Json> events =
      fixture.Events(kChat, R"({"messages": [{"role": "user", "content": "hi"}], "stream": true})");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "stop");
}

TEST(OpenAiApiTest, StopStringsAcrossTokensEndTheAnswerBeforeThem) {
  for (const bool stream : {false, true}) {
    // "lo wor" lies in two tokens; the engine would go on for ever.
    Fixture fixture({.tokens = {300, 301, 302, 303}, .repeat = true});
    const std::string body = Text(R"({"prompt": "hi", "max_tokens": 900, "stop": ["zzz", "o wo"],)",
                                  R"("stream": )", stream ? "true" : "false", "}");
    if (stream) {
      std::string text;
      std::string finish;
      for (const Json& event : fixture.Events(kCompletions, body)) {
        text += event["choices"][0]["text"].get<std::string>();
        if (event["choices"][0]["finish_reason"].is_string()) {
          finish = event["choices"][0]["finish_reason"];
        }
      }
      EXPECT_EQ(text, "Hell");
      EXPECT_EQ(finish, "stop");
    } else {
      const Json answer = fixture.Answer(kCompletions, body);
      EXPECT_EQ(answer["choices"][0]["text"], "Hell");
      EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
      EXPECT_EQ(answer["usage"]["completion_tokens"], 3) << "with the tokens of the stop string";
      EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    }
    EXPECT_TRUE(fixture.engine.WaitForCancel(0));
  }
}

TEST(OpenAiApiTest, TextThatOnlyLooksLikeAStopStringArrivesAtTheEnd) {
  Fixture fixture({.tokens = Bytes("abSTO")});
  EXPECT_EQ(fixture.Completion(R"("stop": "STOP")")["choices"][0]["text"], "abSTO");
  std::string text;
  for (const Json& event :
       fixture.Events(kCompletions, R"({"prompt": "hi", "stop": "STOP", "stream": true})")) {
    text += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, "abSTO");
}

TEST(OpenAiApiTest, NoEventHoldsHalfACharacter) {
  const std::string text = "\xe4\xbd\xa0\xf0\x9f\x98\x80!";
  Fixture fixture({.tokens = Bytes(text)});
  const std::vector<Json> events =
      fixture.Events(kCompletions, R"({"prompt": "hi", "stream": true})");
  ASSERT_EQ(events.size(), 4u) << "three characters and the end";
  EXPECT_EQ(events[0]["choices"][0]["text"], "\xe4\xbd\xa0");
  EXPECT_EQ(events[1]["choices"][0]["text"], "\xf0\x9f\x98\x80");
  EXPECT_EQ(events[2]["choices"][0]["text"], "!");
  // Cut in the middle of a character by the length limit.
  EXPECT_EQ(fixture.Completion(R"("max_tokens": 2)")["choices"][0]["text"], "\xef\xbf\xbd");
}

TEST(OpenAiApiTest, SeveralPromptsAndChoicesAreNumberedPromptByPrompt) {
  Fixture fixture(Hello());
  const Json answer =
      fixture.Answer(kCompletions, R"({"prompt": ["a", "bc"], "n": 2, "seed": 9, "echo": true})");
  ASSERT_EQ(answer["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["text"], i < 2 ? "aHello world" : "bcHello world");
  }
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 5) << "each prompt once";
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 3) << "each prompt once";
  EXPECT_EQ(answer["usage"]["completion_tokens"], 20);
  const std::vector<Request> requests = fixture.engine.requests();
  ASSERT_EQ(requests.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(requests[i].sampling.seed, i % 2 == 0 ? 9u : 10u);
    EXPECT_EQ(requests[i].prompt.size(), i < 2 ? 2u : 3u);
  }
  const std::vector<Json> events =
      fixture.Events(kCompletions, R"({"prompt": ["a", "b"], "stream": true, "echo": true})");
  std::string text[2];
  for (const Json& event : events) {
    const Json& choice = event["choices"][0];
    text[choice["index"].get<size_t>()] += choice["text"].get<std::string>();
  }
  EXPECT_EQ(text[0], "aHello world");
  EXPECT_EQ(text[1], "bHello world");
}

TEST(OpenAiApiTest, LogprobsOfCompletionsCarryOffsets) {
  std::vector<int32_t> tokens = Bytes("\xe4\xbd\xa0");
  tokens.push_back(300);
  Fixture fixture({.tokens = tokens});
  const Json logprobs = fixture.Completion(R"("logprobs": 2)")["choices"][0]["logprobs"];
  EXPECT_EQ(Dump(logprobs["tokens"]), R"(["bytes:\\xe4","bytes:\\xbd","bytes:\\xa0","Hel"])");
  EXPECT_EQ(Dump(logprobs["token_logprobs"]), "[-0.5,-0.5,-0.5,-0.5]");
  EXPECT_EQ(Dump(logprobs["text_offset"]), "[0,0,0,1]");
  EXPECT_EQ(Dump(logprobs["top_logprobs"][3]), R"({"Hel":-0.5,"lo":-1.5})");
  EXPECT_TRUE(
      fixture.Completion(R"("logprobs": 0)")["choices"][0]["logprobs"]["top_logprobs"].is_null());
}

TEST(OpenAiApiTest, LogprobsOfChatsCarryBytes) {
  Fixture fixture(Hello());
  const Json content =
      fixture.Chat(R"("logprobs": true, "top_logprobs": 1)")["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 4u);
  EXPECT_EQ(Dump(content[1]),
            R"({"token":"lo","logprob":-0.5,"bytes":[108,111],)"
            R"("top_logprobs":[{"token":"lo","logprob":-0.5,"bytes":[108,111]}]})");
  size_t streamed = 0;
  for (const Json& event :
       fixture.Events(kChat, R"({"messages": [{"role": "user", "content": "hi"}], "stream": true,
                                 "logprobs": true})")) {
    const Json& logprobs = event["choices"][0]["logprobs"];
    if (logprobs.is_null()) continue;
    for (const Json& token : logprobs["content"]) EXPECT_EQ(token["top_logprobs"], Json::array());
    streamed += logprobs["content"].size();
  }
  EXPECT_EQ(streamed, 4u);
}

TEST(OpenAiApiTest, TokensOfAStopStringHaveNoLogprobs) {
  Fixture fixture({.tokens = {300, 301, 304, 300}});  // "Hello" "STOP" "Hel"
  const Json choice = fixture.Completion(R"("logprobs": 0, "stop": "STOP")")["choices"][0];
  EXPECT_EQ(choice["text"], "Hello");
  EXPECT_EQ(Dump(choice["logprobs"]["tokens"]), R"(["Hel","lo"])");
}

TEST(OpenAiApiTest, ThinkingIsReturnedApart) {
  std::vector<int32_t> tokens = Bytes("why");
  for (int32_t id : Bytes("</think>so")) tokens.push_back(id);
  Fixture fixture({.tokens = tokens});
  const Json answer = fixture.Chat(R"("chat_template_kwargs": {"thinking": true})");
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "so");
  EXPECT_EQ(answer["choices"][0]["message"]["reasoning_content"], "why");
  EXPECT_EQ(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 11);
  std::string reasoning;
  std::string content;
  for (const Json& event :
       fixture.Events(kChat, R"({"messages": [{"role": "user", "content": "hi"}], "stream": true,
                                 "thinking": {"type": "enabled"}})")) {
    const Json& delta = event["choices"][0]["delta"];
    if (delta.contains("reasoning_content")) {
      reasoning += delta["reasoning_content"].get<std::string>();
    }
    if (delta.contains("content")) content += delta["content"].get<std::string>();
  }
  EXPECT_EQ(reasoning, "why");
  EXPECT_EQ(content, "so");
}

TEST(OpenAiApiTest, ErrorsHaveOpenAisShape) {
  Fixture fixture(Hello());
  const HttpReply bad = fixture.Call("POST", kCompletions, R"({"prompt": "a", "top_p": 7})");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(bad.body,
            R"({"error":{"message":"top_p is 7; expected a number above 0 and at most 1",)"
            R"("type":"invalid_request_error","param":"top_p","code":null}})");
  const HttpReply model = fixture.Call("POST", kCompletions, R"({"prompt": "a", "model": "x"})");
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(Json::parse(model.body)["error"]["code"], "model_not_found");
  const HttpReply path = fixture.Call("GET", "/v2/nothing");
  EXPECT_EQ(path.status, 404);
  EXPECT_EQ(Json::parse(path.body)["error"]["message"], "there is no GET /v2/nothing");
  const HttpReply method = fixture.Call("GET", kChat);
  EXPECT_EQ(method.status, 405);
  EXPECT_EQ(*FindHeader(method.headers, "Allow"), "POST");
  const RequestReport report = fixture.WaitForReport();
  EXPECT_EQ(report.endpoint, kCompletions);
  EXPECT_TRUE(fixture.engine.requests().empty());
}

TEST(OpenAiApiTest, AFullQueueIs503WithRetryAfterAlsoForStreams) {
  Fixture fixture({.submit = Unavailable("the queue is full: 512 requests are waiting")});
  for (const char* stream : {"false", "true"}) {
    const HttpReply reply =
        fixture.Call("POST", kCompletions, Text(R"({"prompt": "a", "stream": )", stream, "}"));
    EXPECT_EQ(reply.status, 503);
    EXPECT_EQ(*FindHeader(reply.headers, "Retry-After"), "1");
    EXPECT_EQ(Json::parse(reply.body)["error"]["type"], "server_error");
    EXPECT_NE(reply.body.find("512"), std::string::npos);
  }
}

TEST(OpenAiApiTest, AFailedStepIs500OrAnErrorEvent) {
  Fixture fixture({.tokens = {300, 301}, .repeat = true, .fail_after = 2});
  const HttpReply whole = fixture.Call("POST", kCompletions, R"({"prompt": "a"})");
  EXPECT_EQ(whole.status, 500);
  EXPECT_EQ(Json::parse(whole.body)["error"]["message"], "rank 1 of 2 failed in layer 3");
  const HttpReply stream = fixture.Call("POST", kCompletions, R"({"prompt": "a", "stream": true})");
  EXPECT_EQ(stream.status, 200);
  const std::vector<Json> events = Fixture::ParseEvents(stream.body);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1]["choices"][0]["text"], "lo");
  EXPECT_EQ(events[2]["error"]["type"], "server_error");
  EXPECT_EQ(stream.body.find("[DONE]"), std::string::npos);
}

TEST(OpenAiApiTest, AClientThatGoesAwayCancelsItsRequest) {
  for (const char* stream : {"false", "true"}) {
    Fixture fixture({.tokens = {300}, .wait_for_cancel = true});
    HttpClient client = fixture.Client();
    const std::string body = Text(R"({"prompt": "a", "n": 2, "stream": )", stream, "}");
    ASSERT_TRUE(client.SendBytes(FormatRequest("POST", kCompletions, "h", {}, body), Soon()).ok());
    const Deadline deadline = Soon();
    while (fixture.engine.requests().size() < 2 && !deadline.Passed()) {
      std::this_thread::sleep_for(1ms);
    }
    client.Close();
    EXPECT_TRUE(fixture.engine.WaitForCancel(0)) << stream;
    EXPECT_TRUE(fixture.engine.WaitForCancel(1)) << stream;
    const RequestReport report = fixture.WaitForReport();
    EXPECT_EQ(report.http_status, 499);
  }
}

TEST(OpenAiApiTest, ReportsSayWhatARequestCameTo) {
  Fixture fixture({.tokens = {300, 301, 302, 303}, .pace = 5ms});
  const Json answer = fixture.Completion(R"("max_tokens": 4)");
  const RequestReport report = fixture.WaitForReport();
  EXPECT_EQ(report.id, answer["id"]);
  EXPECT_EQ(report.endpoint, kCompletions);
  EXPECT_EQ(report.http_status, 200);
  EXPECT_EQ(report.finish, "stop");
  EXPECT_EQ(report.prompt_tokens, 3);
  EXPECT_EQ(report.completion_tokens, 5);
  EXPECT_GT(report.ttft_seconds, 0);
  EXPECT_GE(report.seconds, report.ttft_seconds + 0.014);
  EXPECT_GT(report.decode_tokens_per_s, 0);
  EXPECT_LT(report.decode_tokens_per_s, 300) << "at most 4 tokens in 15 ms";
}

TEST(OpenAiApiTest, TheKeyIsAskedForEverywhereButHealth) {
  Fixture fixture(Hello(), "secret");
  const std::string body = R"({"prompt": "a"})";
  const HttpReply none = fixture.Call("POST", kCompletions, body);
  EXPECT_EQ(none.status, 401);
  EXPECT_EQ(*FindHeader(none.headers, "WWW-Authenticate"), "Bearer");
  EXPECT_EQ(Json::parse(none.body)["error"]["code"], "invalid_api_key");
  for (const char* wrong : {"Bearer wrong", "Bearer secret2", "Bearer secre", "secret", ""}) {
    EXPECT_EQ(fixture.Call("GET", "/v1/models", "", {{"Authorization", wrong}}).status, 401);
  }
  EXPECT_EQ(fixture.Call("POST", kCompletions, body, {{"authorization", "bearer secret"}}).status,
            200);
  EXPECT_EQ(fixture.Call("GET", "/health").status, 200);
}

TEST(OpenAiApiTest, ModelsAreListed) {
  Fixture fixture(Hello());
  const Json list = Json::parse(fixture.Call("GET", "/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0]["id"], "served");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 1000);
  EXPECT_EQ(Json::parse(fixture.Call("GET", "/v1/models/served").body), list["data"][0]);
  EXPECT_EQ(fixture.Call("GET", "/v1/models/other").status, 404);
}

TEST(OpenAiApiTest, HealthFollowsTheEngineAndTheDrain) {
  Fixture fixture(Hello());
  EXPECT_EQ(fixture.Call("GET", "/health").status, 200);
  fixture.desk.StartDraining();
  EXPECT_EQ(fixture.Call("GET", "/health").status, 503);
  EXPECT_EQ(fixture.Call("POST", kCompletions, R"({"prompt": "a"})").status, 503);
  Fixture broken(Hello());
  broken.engine.Break();
  EXPECT_EQ(broken.Call("GET", "/health").status, 503);
}

TEST(OpenAiApiTest, CancelAllEndsStreamsWithAnErrorEvent) {
  Fixture fixture({.tokens = {300}, .wait_for_cancel = true});
  HttpClient client = fixture.Client();
  const std::string body = R"({"prompt": "a", "stream": true})";
  ASSERT_TRUE(client.SendBytes(FormatRequest("POST", kCompletions, "h", {}, body), Soon()).ok());
  ASSERT_EQ(client.ReadHead(Soon())->status, 200);
  ASSERT_NE(client.ReadBody(Soon())->find("Hel"), std::string::npos);
  fixture.desk.CancelAll(fixture.server->executor());
  const std::string event = *client.ReadBody(Soon());
  EXPECT_NE(event.find("shutting down"), std::string::npos) << event;
  EXPECT_EQ(*client.ReadBody(Soon()), "") << "the stream has ended";
  EXPECT_TRUE(fixture.engine.WaitForCancel(0));
}

TEST(OpenAiApiTest, ManyStreamsAtOnceKeepTheirTexts) {
  Fixture fixture(Hello());
  constexpr int kStreams = 100;
  std::vector<HttpClient> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(fixture.Client());
    const std::string body = Text(R"({"prompt": "p)", i, R"(", "stream": true, "echo": true})");
    ASSERT_TRUE(
        clients.back().SendBytes(FormatRequest("POST", kCompletions, "h", {}, body), Soon()).ok());
  }
  for (int i = 0; i < kStreams; ++i) {
    auto head = clients[static_cast<size_t>(i)].ReadHead(Soon());
    ASSERT_TRUE(head.ok()) << head.status().message();
    std::string body;
    for (;;) {
      auto piece = clients[static_cast<size_t>(i)].ReadBody(Soon());
      ASSERT_TRUE(piece.ok()) << piece.status().message();
      if (piece->empty()) break;
      body += *piece;
    }
    std::string text;
    for (const Json& event : Fixture::ParseEvents(body)) {
      text += event["choices"][0]["text"].get<std::string>();
    }
    EXPECT_EQ(text, Text("p", i, "Hello world"));
  }
}

}  // namespace
}  // namespace causeway
