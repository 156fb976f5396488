#include "server/openai_tools.h"

#include <gtest/gtest.h>

#include "server/openai_request.h"
#include "text/tokenizer.h"

namespace causeway {
namespace {

const Tokenizer& Bytes() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      std::move(Tokenizer::Bytes(512, /*bos=*/0, /*eos=*/1)).value();
  return *tokenizer;
}

constexpr const char* kTools =
    R"("tools": [{"type": "function", "function": {"name": "f", "description": "Does f.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}, "strict": true}},
       {"type": "function", "function": {"name": "g"}}])";
constexpr const char* kUser = R"({"role": "user", "content": "hi"})";

std::optional<ApiError> Parse(ChatFormat format, const std::string& messages,
                              const std::string& fields, OpenAiRequest& out) {
  const ServedModel model{.name = "served",
                          .tokenizer = Bytes(),
                          .chat_format = format,
                          .context_length = 100'000,
                          .vocab_size = 512};
  return ParseOpenAiRequest(
      Endpoint::kChat,
      Text(R"({"messages": [)", messages, "]", fields.empty() ? "" : ", ", fields, "}"), model,
      out);
}

OpenAiRequest Request(ChatFormat format, const std::string& messages, const std::string& fields) {
  OpenAiRequest out;
  const auto error = Parse(format, messages, fields, out);
  EXPECT_FALSE(error) << fields << ": " << error->message;
  return out;
}

std::string Prompt(ChatFormat format, const std::string& messages, const std::string& fields) {
  const OpenAiRequest request = Request(format, messages, fields);
  return request.prompts.empty() ? "" : Bytes().Decode(request.prompts.front());
}

constexpr ChatFormat kFormats[] = {ChatFormat::kV3, ChatFormat::kV31, ChatFormat::kV32};

TEST(OpenAiToolsTest, ToolsAreTheOnesThatTheChatFormatWrites) {
  for (const ChatFormat format : kFormats) {
    ChatMessage user;
    user.role = "user";
    user.content = "hi";
    ChatOptions options;
    options.tools = {R"({"name": "f", "description": "Does f.", "parameters": {"type": "object",
                         "properties": {"a": {"type": "number"}}}, "strict": true})",
                     R"({"name": "g"})"};
    const StatusOr<std::string> expected = RenderChat(format, {user}, options);
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    EXPECT_EQ(Prompt(format, kUser, kTools), *expected);
    const OpenAiRequest request = Request(format, kUser, kTools);
    EXPECT_EQ(request.answer.tool_names, std::vector<std::string>({"f", "g"}));
    EXPECT_EQ(request.answer.tools, ToolCallFormatOf(format));
    EXPECT_TRUE(request.answer.parallel_tool_calls);
  }
}

TEST(OpenAiToolsTest, NoChoiceAndEmptyListsOfferNothing) {
  const std::string plain = Prompt(ChatFormat::kV32, kUser, "");
  for (const std::string& fields :
       {Text(kTools, R"(, "tool_choice": "none")"), std::string(R"("tools": [])"),
        std::string(R"("tools": null, "tool_choice": "auto")")}) {
    EXPECT_EQ(Prompt(ChatFormat::kV32, kUser, fields), plain) << fields;
    EXPECT_FALSE(Request(ChatFormat::kV32, kUser, fields).answer.tools) << fields;
  }
  const OpenAiRequest automatic =
      Request(ChatFormat::kV32, kUser,
              Text(kTools, R"(, "tool_choice": "auto", "parallel_tool_calls": false)"));
  EXPECT_TRUE(automatic.answer.tools);
  EXPECT_FALSE(automatic.answer.parallel_tool_calls);
}

TEST(OpenAiToolsTest, WhatIsWrongWithToolsIsNamed) {
  struct BadCase {
    std::string fields;
    const char* param;
    const char* message;
  };
  const BadCase kCases[] = {
      {R"("tools": {})", "tools", "expected a list"},
      {R"("tools": [1])", "tools[0]", "expected an object"},
      {R"("tools": [{"type": "function"}])", "tools[0].function", "missing"},
      {R"("tools": [{"type": "web_search"}])", "tools[0].type", "expected \"function\""},
      {R"("tools": [{"type": "function", "function": {}}])", "tools[0].function.name", "missing"},
      {R"("tools": [{"function": {"name": "a b"}}])", "tools[0].function.name", "blanks"},
      {R"("tools": [{"function": {"name": "a<b"}}])", "tools[0].function.name", "blanks"},
      {R"("tools": [{"function": {"name": ""}}])", "tools[0].function.name", "1 to 256"},
      {R"("tools": [{"function": {"name": "a"}}, {"function": {"name": "a"}}])",
       "tools[1].function.name", "an earlier tool"},
      {R"("tools": [{"function": {"name": "a", "parameters": "x"}}])",
       "tools[0].function.parameters", "JSON Schema"},
      {R"("tools": [{"function": {"name": "a", "x": 1}}])", "tools[0].function.x", "unknown"},
      {R"("tool_choice": "required")", "tool_choice", "no tools"},
      {R"("tool_choice": "maybe")", "tool_choice", "\"required\""},
      {R"("tool_choice": {"type": "function"})", "tool_choice.function", "missing"},
      {Text(kTools, R"(, "tool_choice": {"type": "function", "function": {"name": "h"}})"),
       "tool_choice", "one of the tools"},
      // This model has no grammars.
      {Text(kTools, R"(, "tool_choice": "required")"), "tool_choice", "constrained"},
      {Text(kTools, R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})"),
       "tool_choice", "constrained"},
      {R"("parallel_tool_calls": 1)", "parallel_tool_calls", "true or false"},
      {R"("reasoning_effort": 3)", "reasoning_effort", "expected a string"},
      {R"("separate_reasoning": "no")", "separate_reasoning", "true or false"},
  };
  for (const BadCase& bad : kCases) {
    OpenAiRequest out;
    const auto error = Parse(ChatFormat::kV32, kUser, bad.fields, out);
    ASSERT_TRUE(error) << "accepted: " << bad.fields;
    EXPECT_EQ(error->param, bad.param) << error->message;
    EXPECT_NE(error->message.find(bad.message), std::string::npos) << error->message;
  }
}

std::string Calls(const std::string& calls) {
  return Text(kUser, R"(, {"role": "assistant", "content": null, "tool_calls": [)", calls, "]}");
}
std::string CallOf(const std::string& id, const std::string& arguments = "{}") {
  return Dump(
      {{"id", id}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", arguments}}}});
}
std::string Result(const std::string& id, const std::string& content) {
  return Text(", ", Dump({{"role", "tool"}, {"tool_call_id", id}, {"content", content}}));
}

TEST(OpenAiToolsTest, ResultsStandInTheOrderOfTheirCalls) {
  const std::string calls = Calls(Text(CallOf("one"), ",", CallOf("two"), ",", CallOf("three")));
  const std::string ordered =
      Text(calls, Result("one", "1"), Result("two", "2"), Result("three", "3"));
  const std::string mixed =
      Text(calls, Result("three", "3"), Result("one", "1"), Result("two", "2"));
  for (const ChatFormat format : kFormats) {
    EXPECT_EQ(Prompt(format, mixed, kTools), Prompt(format, ordered, kTools));
  }
  OpenAiRequest out;
  const auto error =
      Parse(ChatFormat::kV32, Text(Calls(CallOf("one")), Result("four", "4")), "", out);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "messages[2].tool_call_id");
  EXPECT_NE(error->message.find("messages[1]"), std::string::npos) << error->message;
}

TEST(OpenAiToolsTest, EmptyArgumentsAreAnEmptyObject) {
  for (const ChatFormat format : kFormats) {
    EXPECT_EQ(Prompt(format, Text(Calls(CallOf("one", "")), Result("one", "1")), ""),
              Prompt(format, Text(Calls(CallOf("one", "{}")), Result("one", "1")), ""));
  }
}

// sglang#17551: everything after a tool's result was marked as reasoning.
TEST(OpenAiToolsTest, OnlyAPromptThatEndsInThinkStartsReasoning) {
  const std::string after_result = Text(Calls(CallOf("one")), Result("one", "sunny"));
  const std::string thinking = Text(kTools, R"(, "thinking": true)");
  // V3.1 goes on without a mark after a result: reasoning only if the model says so.
  EXPECT_EQ(Request(ChatFormat::kV31, after_result, thinking).reasoning,
            ReasoningStart::kUndecided);
  EXPECT_EQ(Request(ChatFormat::kV31, kUser, thinking).reasoning, ReasoningStart::kReasoning);
  EXPECT_EQ(Request(ChatFormat::kV32, after_result, thinking).reasoning,
            ReasoningStart::kReasoning);
  EXPECT_TRUE(Prompt(ChatFormat::kV32, after_result, thinking).ends_with("<think>"));
  for (const ChatFormat format : kFormats) {
    EXPECT_EQ(Request(format, after_result, kTools).reasoning, ReasoningStart::kContent);
  }
}

TEST(OpenAiToolsTest, ThinkingIsRefusedWhereTheFormatHasNone) {
  OpenAiRequest out;
  const auto error = Parse(ChatFormat::kV3, kUser, R"("reasoning_effort": "high")", out);
  ASSERT_TRUE(error);
  EXPECT_NE(error->message.find("thinking"), std::string::npos) << error->message;
  EXPECT_FALSE(Parse(ChatFormat::kV3, kUser, R"("reasoning_effort": "none")", out));
}

}  // namespace
}  // namespace causeway
