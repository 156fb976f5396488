// Chats with tools and reasoning over HTTP. The engine says what the user says, so that each test
// writes the model's answer.
#include <gtest/gtest.h>

#include "net/http_client.h"
#include "server/openai_api.h"
#include "server/parrot_engine.h"
#include "server/parser_api.h"

namespace causeway {
namespace {

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

class Fixture {
 public:
  explicit Fixture(ChatFormat format = ChatFormat::kV32,
                   ReasoningFormat reasoning = ReasoningFormat::kDeepSeekV3)
      : tokenizer(std::move(Tokenizer::Bytes(512, /*bos=*/0, /*eos=*/1)).value()),
        model{.name = "parrot",
              .tokenizer = *tokenizer,
              .chat_format = format,
              .context_length = 100'000,
              .vocab_size = 512,
              .bos_token = 0,
              .reasoning_format = reasoning},
        engine(*tokenizer, /*eos=*/1),
        metrics({.model_name = "parrot"}),
        api(model, ApiKey()),
        desk(engine, metrics, {}) {
    std::vector<HttpRoute> routes = api.Routes(desk);
    for (HttpRoute& route : ParserRoutes(model, ApiKey(""))) routes.push_back(std::move(route));
    HttpServerOptions options;
    options.render_error = &OpenAiApi::RenderError;
    server = std::move(HttpServer::Listen(options, std::move(routes))).value();
  }

  HttpReply Post(const char* path, const Json& body) {
    auto client = HttpClient::Connect("127.0.0.1", server->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    auto reply = client->Call("POST", path, Dump(body), Soon());
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return std::move(reply).value();
  }
  // The first choice, where the model says `answer`.
  Json Choice(const std::string& answer, Json fields = Json::object()) {
    return Whole(answer, std::move(fields))["choices"][0];
  }
  Json Whole(const std::string& answer, Json fields = Json::object()) {
    fields["messages"] = Json::array({{{"role", "user"}, {"content", answer}}});
    const HttpReply reply = Post("/v1/chat/completions", fields);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  // The events of the same as a stream.
  std::vector<Json> Events(const std::string& answer, Json fields = Json::object()) {
    fields["messages"] = Json::array({{{"role", "user"}, {"content", answer}}});
    fields["stream"] = true;
    std::string body = Post("/v1/chat/completions", fields).body;
    EXPECT_TRUE(body.ends_with("data: [DONE]\n\n")) << body;
    std::vector<Json> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string event = body.substr(at + 6, end - at - 6);
      at = end + 2;
      if (event != "[DONE]") out.push_back(Json::parse(event));
    }
    return out;
  }

  std::unique_ptr<Tokenizer> tokenizer;
  ServedModel model;
  ParrotEngine engine;
  ServeMetrics metrics;
  OpenAiApi api;
  RequestDesk desk;
  std::unique_ptr<HttpServer> server;
};

// A stream's deltas to one message, as the clients put them together; calls without their ids.
struct Joined {
  std::string reasoning;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
  std::vector<std::string> ids;
  std::string finish;
  int64_t reasoning_events = 0;
  int64_t call_events = 0;
};

Joined Join(const std::vector<Json>& events) {
  Joined out;
  for (const Json& event : events) {
    if (event["choices"].empty()) continue;
    const Json& choice = event["choices"][0];
    const Json& delta = choice["delta"];
    if (delta.contains("reasoning_content")) {
      out.reasoning += delta["reasoning_content"].get<std::string>();
      ++out.reasoning_events;
    }
    if (delta.contains("content")) out.content += delta["content"].get<std::string>();
    if (choice["finish_reason"].is_string()) out.finish = choice["finish_reason"];
    if (!delta.contains("tool_calls")) continue;
    ++out.call_events;
    EXPECT_EQ(delta["tool_calls"].size(), 1u);
    const Json& call = delta["tool_calls"][0];
    const auto index = call["index"].get<size_t>();
    if (call.contains("id")) {
      EXPECT_EQ(index, out.calls.size()) << "indices rise from 0";
      EXPECT_EQ(call["type"], "function");
      EXPECT_EQ(call["function"]["arguments"], "");
      out.ids.push_back(call["id"]);
      out.calls.emplace_back(call["function"]["name"], "");
    } else {
      EXPECT_EQ(index + 1, out.calls.size());
      EXPECT_FALSE(call["function"].contains("name"));
      out.calls[index].second += call["function"]["arguments"].get<std::string>();
    }
  }
  return out;
}

Json Tools() {
  return Json::parse(R"([{"type": "function", "function": {"name": "weather",
      "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
      {"type": "function", "function": {"name": "time"}}])");
}

std::string AnswerWithCalls(ChatFormat format) {
  switch (format) {
    case ChatFormat::kV3:
      return "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```"
             "json\n"
             "{\"city\": \"Paris é\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function"
             "<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    case ChatFormat::kV31:
      return "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
             "{\"city\": \"Paris é\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>time<｜tool▁sep｜>{}"
             "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    case ChatFormat::kV32:
      return "Hm.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n"
             "<｜DSML｜parameter name=\"city\" string=\"true\">Paris é</｜DSML｜parameter>\n"
             "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"time\">\n\n</｜DSML｜invoke>\n"
             "</｜DSML｜function_calls>";
  }
  return "";
}

constexpr ChatFormat kFormats[] = {ChatFormat::kV3, ChatFormat::kV31, ChatFormat::kV32};

TEST(OpenAiChatTest, ToolCallsHaveOpenAisShape) {
  for (const ChatFormat format : kFormats) {
    Fixture fixture(format);
    const Json choice = fixture.Choice(AnswerWithCalls(format), {{"tools", Tools()}});
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    const Json& message = choice["message"];
    EXPECT_EQ(message["role"], "assistant");
    EXPECT_EQ(message["content"], "Hm.");
    ASSERT_EQ(message["tool_calls"].size(), 2u) << Dump(message);
    const Json& call = message["tool_calls"][0];
    EXPECT_TRUE(call["id"].get<std::string>().starts_with("call_"));
    EXPECT_NE(call["id"], message["tool_calls"][1]["id"]);
    EXPECT_EQ(call["type"], "function");
    EXPECT_EQ(Dump(call["function"]),
              R"({"name":"weather","arguments":"{\"city\": \"Paris é\"}"})");
    EXPECT_EQ(message["tool_calls"][1]["function"]["name"], "time");
    EXPECT_EQ(message["tool_calls"][1]["function"]["arguments"], "{}");
    // The answer goes back as it came, with a result for each call.
    Json messages = Json::array({{{"role", "user"}, {"content", "?"}}, message});
    for (const Json& one : message["tool_calls"]) {
      messages.push_back({{"role", "tool"}, {"tool_call_id", one["id"]}, {"content", "sunny"}});
    }
    const HttpReply next =
        fixture.Post("/v1/chat/completions", {{"messages", messages}, {"tools", Tools()}});
    EXPECT_EQ(next.status, 200) << next.body;
    EXPECT_EQ(Json::parse(next.body)["choices"][0]["message"]["content"], "sunny");
  }
}

TEST(OpenAiChatTest, AMessageThatOnlyCallsHasNoContent) {
  Fixture fixture;
  const std::string text = AnswerWithCalls(ChatFormat::kV32).substr(3);
  EXPECT_TRUE(fixture.Choice(text, {{"tools", Tools()}})["message"]["content"].is_null());
}

TEST(OpenAiChatTest, StreamedToolCallsAreTheSameInPieces) {
  for (const ChatFormat format : kFormats) {
    Fixture fixture(format);
    const Joined joined = Join(fixture.Events(AnswerWithCalls(format), {{"tools", Tools()}}));
    EXPECT_EQ(joined.content, "Hm.");
    ASSERT_EQ(joined.calls.size(), 2u);
    EXPECT_EQ(joined.calls[0].first, "weather");
    EXPECT_EQ(joined.calls[0].second, "{\"city\": \"Paris é\"}");
    EXPECT_EQ(joined.calls[1].first, "time");
    EXPECT_EQ(joined.calls[1].second, "{}");
    EXPECT_EQ(joined.finish, "tool_calls");
    EXPECT_NE(joined.ids[0], joined.ids[1]);
    EXPECT_GT(joined.call_events, 8) << "arguments come as they are made";
  }
}

TEST(OpenAiChatTest, MalformedCallsAreContent) {
  Fixture fixture(ChatFormat::kV31);
  const std::string text =
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>time<｜tool▁sep｜>{1}<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜>";
  const Json choice = fixture.Choice(text, {{"tools", Tools()}});
  EXPECT_EQ(choice["message"]["content"], text);
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  const Joined joined = Join(fixture.Events(text, {{"tools", Tools()}}));
  EXPECT_EQ(joined.content, text);
  EXPECT_EQ(joined.finish, "stop");
}

TEST(OpenAiChatTest, ACallThatTheLengthLimitCutsIsContent) {
  Fixture fixture(ChatFormat::kV31);
  const Json choice =
      fixture.Choice(AnswerWithCalls(ChatFormat::kV31), {{"tools", Tools()}, {"max_tokens", 80}});
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_TRUE(choice["message"]["content"].get<std::string>().starts_with("Hm.<｜tool"));
}

TEST(OpenAiChatTest, WithoutToolsCallsAreText) {
  for (const ChatFormat format : kFormats) {
    Fixture fixture(format);
    const std::string text = AnswerWithCalls(format);
    for (const Json& fields : {Json::object(), Json{{"tools", Tools()}, {"tool_choice", "none"}}}) {
      const Json choice = fixture.Choice(text, fields);
      EXPECT_EQ(choice["message"]["content"], text);
      EXPECT_EQ(choice["finish_reason"], "stop");
    }
  }
}

TEST(OpenAiChatTest, WithoutParallelCallsTheFirstOneEndsTheAnswer) {
  for (const ChatFormat format : kFormats) {
    Fixture fixture(format);
    const Json fields = {{"tools", Tools()}, {"parallel_tool_calls", false}};
    const Json choice = fixture.Choice(AnswerWithCalls(format), fields);
    EXPECT_EQ(choice["message"]["tool_calls"].size(), 1u);
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    const Joined joined = Join(fixture.Events(AnswerWithCalls(format), fields));
    EXPECT_EQ(joined.calls.size(), 1u);
    EXPECT_EQ(joined.finish, "tool_calls");
    const Deadline deadline = Soon();
    while (fixture.engine.cancelled() < 2 && !deadline.Passed()) std::this_thread::yield();
    EXPECT_EQ(fixture.engine.cancelled(), 2) << "the engine does not go on";
  }
}

TEST(OpenAiChatTest, ReasoningComesBeforeCalls) {
  Fixture fixture;
  const Json fields = {{"tools", Tools()}, {"chat_template_kwargs", {{"thinking", true}}}};
  const std::string thought = "What about <｜DSML｜function_calls>? No.";
  const std::string text = Text(thought, "</think>", AnswerWithCalls(ChatFormat::kV32));
  const Json choice = fixture.Choice(text, fields);
  EXPECT_EQ(choice["message"]["reasoning_content"], thought) << "calls in it are thoughts";
  EXPECT_EQ(choice["message"]["content"], "Hm.");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 2u);
  const Joined joined = Join(fixture.Events(text, fields));
  EXPECT_EQ(joined.reasoning, thought);
  EXPECT_EQ(joined.content, "Hm.");
  EXPECT_EQ(joined.calls.size(), 2u);
  EXPECT_GT(joined.reasoning_events, 10);
}

TEST(OpenAiChatTest, ReasoningThatIsNotSeparatedStaysInTheContent) {
  Fixture fixture;
  const Json fields = {{"reasoning_effort", "high"}, {"separate_reasoning", false}};
  const Json choice = fixture.Choice("why</think>so", fields);
  EXPECT_EQ(choice["message"]["content"], "why</think>so");
  EXPECT_FALSE(choice["message"].contains("reasoning_content"));
  const Joined joined = Join(fixture.Events("why</think>so", fields));
  EXPECT_EQ(joined.content, "why</think>so");
  EXPECT_EQ(joined.reasoning_events, 0);
}

TEST(OpenAiChatTest, ReasoningThatIsNotStreamedComesInOnePiece) {
  Fixture fixture;
  const Json fields = {{"thinking", true}, {"stream_reasoning", false}};
  const Joined joined = Join(fixture.Events("why oh why</think>so", fields));
  EXPECT_EQ(joined.reasoning, "why oh why");
  EXPECT_EQ(joined.reasoning_events, 1);
  EXPECT_EQ(joined.content, "so");
  const Joined cut = Join(fixture.Events("why oh why", fields));
  EXPECT_EQ(cut.reasoning, "why oh why") << "also if it never ends";
  EXPECT_EQ(cut.reasoning_events, 1);
}

TEST(OpenAiChatTest, ReasoningTokensAreCountedUnderBothNames) {
  Fixture fixture;
  const Json usage = fixture.Whole("why</think>so", {{"thinking", true}})["usage"];
  EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], 11) << "with the mark";
  EXPECT_EQ(usage["reasoning_tokens"], 11);
  EXPECT_EQ(usage["completion_tokens"], 14);
  EXPECT_FALSE(fixture.Whole("so")["usage"].contains("reasoning_tokens"));
}

// sglang#17551: everything after a tool's result was marked as reasoning.
TEST(OpenAiChatTest, TheAnswerToAToolsResultIsNoReasoning) {
  for (const ChatFormat format : {ChatFormat::kV31, ChatFormat::kV32}) {
    Fixture fixture(format);
    const auto answer_to = [&](const std::string& result) {
      const Json body = {{"thinking", true},
                         {"tools", Tools()},
                         {"messages",
                          {{{"role", "user"}, {"content", "?"}},
                           {{"role", "assistant"},
                            {"content", nullptr},
                            {"reasoning_content", "I should look."},
                            {"tool_calls",
                             {{{"id", "c"},
                               {"type", "function"},
                               {"function", {{"name", "time"}, {"arguments", "{}"}}}}}}},
                           {{"role", "tool"}, {"tool_call_id", "c"}, {"content", result}}}}};
      return Json::parse(fixture.Post("/v1/chat/completions", body).body)["choices"][0]["message"];
    };
    // V3.2's prompt ends in <think> there, V3.1's has no mark: what the model then says decides.
    const bool v32 = format == ChatFormat::kV32;
    const Json plain = answer_to(v32 ? "noon, so</think>It is noon." : "It is noon.");
    EXPECT_EQ(plain["content"], "It is noon.");
    EXPECT_EQ(plain["reasoning_content"], v32 ? "noon, so" : "");
    const Json thought = answer_to("<think>noon, so</think>It is noon.");
    EXPECT_EQ(thought["content"], "It is noon.");
    EXPECT_EQ(thought["reasoning_content"], "noon, so");
  }
}

TEST(OpenAiChatTest, R1ReasonsWithoutBeingAsked) {
  Fixture fixture(ChatFormat::kV3, ReasoningFormat::kDeepSeekR1);
  for (const char* text : {"<think>why</think>so", "why</think>so"}) {
    const Json message = fixture.Choice(text)["message"];
    EXPECT_EQ(message["reasoning_content"], "why");
    EXPECT_EQ(message["content"], "so");
  }
}

TEST(OpenAiChatTest, LogprobsOfCallsAreAllThere) {
  Fixture fixture;
  const std::string text = AnswerWithCalls(ChatFormat::kV32);
  const Json fields = {{"tools", Tools()}, {"logprobs", true}};
  EXPECT_EQ(fixture.Choice(text, fields)["logprobs"]["content"].size(), text.size());
  size_t streamed = 0;
  for (const Json& event : fixture.Events(text, fields)) {
    const Json& logprobs = event["choices"][0]["logprobs"];
    if (!logprobs.is_null()) streamed += logprobs["content"].size();
  }
  EXPECT_EQ(streamed, text.size());
}

TEST(OpenAiChatTest, UsageComesInEveryEventIfAskedFor) {
  Fixture fixture;
  const std::vector<Json> events =
      fixture.Events("abc", {{"stream_options", {{"continuous_usage_stats", true}}}});
  ASSERT_EQ(events.size(), 5u) << "the role, three letters, the end";
  EXPECT_EQ(events[2]["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[4]["usage"]["completion_tokens"], 4);
}

TEST(ParserApiTest, FunctionCallsAreParsedAsSglangDoes) {
  Fixture fixture;
  const std::string text = AnswerWithCalls(ChatFormat::kV31);
  const HttpReply reply =
      fixture.Post("/parse_function_call",
                   {{"text", text}, {"tools", Tools()}, {"tool_call_parser", "deepseekv31"}});
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.body,
            R"({"normal_text":"Hm.","calls":[{"tool_index":0,"name":"weather","parameters":)"
            R"("{\"city\": \"Paris é\"}"},{"tool_index":1,"name":"time","parameters":"{}"}]})");
  // The server's own parser, where none is named.
  const Json own = Json::parse(
      fixture.Post("/parse_function_call", {{"text", AnswerWithCalls(ChatFormat::kV32)}}).body);
  EXPECT_EQ(own["calls"].size(), 2u);
  EXPECT_EQ(Json::parse(fixture.Post("/parse_function_call", {{"text", text}}).body)["normal_text"],
            text);
}

TEST(ParserApiTest, ReasoningIsSeparatedAsSglangDoes) {
  Fixture fixture;
  const auto separate = [&](const char* text, const char* parser) {
    return fixture.Post("/separate_reasoning", {{"text", text}, {"reasoning_parser", parser}}).body;
  };
  EXPECT_EQ(separate("why</think>so", "deepseek-r1"), R"({"reasoning_text":"why","text":"so"})");
  EXPECT_EQ(separate("<think>why</think>so", "deepseek-v3"),
            R"({"reasoning_text":"why","text":"so"})");
  EXPECT_EQ(separate("so", "deepseek-v3"), R"({"reasoning_text":"","text":"so"})");
}

TEST(ParserApiTest, WhatIsWrongIsNamed) {
  Fixture fixture;
  const std::pair<const char*, Json> kCases[] = {
      {"text", Json::object()},
      {"tools", {{"text", "x"}, {"tools", 1}}},
      {"tool_call_parser", {{"text", "x"}, {"tool_call_parser", "qwen"}}},
      {"nonsense", {{"text", "x"}, {"nonsense", 1}}}};
  for (const auto& [param, body] : kCases) {
    const HttpReply reply = fixture.Post("/parse_function_call", body);
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(Json::parse(reply.body)["error"]["param"], param) << reply.body;
  }
  EXPECT_EQ(fixture.Post("/separate_reasoning", {{"text", "x"}, {"reasoning_parser", "o1"}}).status,
            400);
  EXPECT_EQ(fixture.Post("/separate_reasoning", {{"text", std::string(2 << 20, 'x')}}).status, 413);
}

}  // namespace
}  // namespace causeway
