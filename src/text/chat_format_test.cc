#include "text/chat_format.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "text/json_value.h"

namespace causeway {
namespace {

const std::string kFolder = std::string(CAUSEWAY_SOURCE_DIR) + "/testdata/tokenizer/chat/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

std::string TextOf(const JsonValue& object, const std::string& key) {
  const JsonValue* value = object.Find(key);
  return value != nullptr ? value->text : "";
}

// A message as in our cases or, with "function" around a call, as in the OpenAI API.
ChatMessage MessageOf(const JsonValue& json) {
  ChatMessage message{.role = TextOf(json, "role"),
                      .content = TextOf(json, "content"),
                      .reasoning_content = TextOf(json, "reasoning_content"),
                      .tool_calls = {},
                      .tool_call_id = TextOf(json, "tool_call_id")};
  if (const JsonValue* calls = json.Find("tool_calls")) {
    for (const JsonValue& call : calls->values) {
      const JsonValue* function = call.Find("function");
      const JsonValue& body = function != nullptr ? *function : call;
      message.tool_calls.push_back(
          {TextOf(call, "id"), TextOf(body, "name"), TextOf(body, "arguments")});
    }
  }
  return message;
}

std::vector<ChatMessage> MessagesOf(const JsonValue& json) {
  std::vector<ChatMessage> messages;
  for (const JsonValue& message : json.Find("messages")->values)
    messages.push_back(MessageOf(message));
  return messages;
}

ChatMessage User(std::string content) { return {"user", std::move(content), "", {}, ""}; }
ChatMessage Assistant(std::string content, std::vector<ToolCall> calls = {}) {
  return {"assistant", std::move(content), "", std::move(calls), ""};
}
ChatMessage Result(std::string content) { return {"tool", std::move(content), "", {}, "id"}; }

TEST(ChatFormat, RendersThePublishedConversationOfV32ByteForByte) {
  const auto input = ParseJson(ReadFile(kFolder + "published_input.json"), "input");
  ASSERT_TRUE(input.ok()) << input.status().message();
  ChatOptions options;
  options.thinking = true;
  options.finished = true;
  for (const JsonValue& tool : input->Find("tools")->values)
    options.tools.push_back(PythonJson(*tool.Find("function")));
  const auto prompt = RenderChat(ChatFormat::kV32, MessagesOf(*input), options);
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  EXPECT_EQ(*prompt + "\n", ReadFile(kFolder + "published_output.txt"));
}

TEST(ChatFormat, RendersEveryCaseAsTheModelsOwnTemplateDoes) {
  std::istringstream lines(ReadFile(kFolder + "cases.jsonl"));
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    const auto test = ParseJson(line, "case");
    ASSERT_TRUE(test.ok()) << test.status().message();
    ChatOptions options;
    options.thinking = test->Find("thinking")->boolean;
    options.finished = test->Find("finished")->boolean;
    options.response_schema = TextOf(*test, "response_schema");
    for (const JsonValue& tool : test->Find("tools")->values) options.tools.push_back(tool.text);
    const auto format = ParseChatFormat(TextOf(*test, "format"));
    ASSERT_TRUE(format.ok()) << format.status().message();
    const std::string name = TextOf(*test, "format") + (options.thinking ? ", thinking, " : ", ") +
                             TextOf(*test, "name");
    const auto prompt = RenderChat(*format, MessagesOf(*test), options);
    ASSERT_TRUE(prompt.ok()) << name << ": " << prompt.status().message();
    EXPECT_EQ(*prompt, TextOf(*test, "expected")) << name;
    ++count;
  }
  EXPECT_EQ(count, 84);
}

TEST(ChatFormat, NamesAreParsedAndAnUnknownOneListsThem) {
  EXPECT_EQ(*ParseChatFormat("v3"), ChatFormat::kV3);
  EXPECT_EQ(*ParseChatFormat("v3.1"), ChatFormat::kV31);
  EXPECT_EQ(*ParseChatFormat("v3.2"), ChatFormat::kV32);
  const std::string message = ParseChatFormat("v4").status().message();
  EXPECT_NE(message.find("v4"), std::string::npos);
  EXPECT_NE(message.find("v3, v3.1 or v3.2"), std::string::npos);
}

TEST(ChatFormat, AToolWithoutDescriptionAndParametersIsRenderedInV31) {
  ChatOptions options;
  options.tools = {R"({"name": "now"})"};
  const auto prompt = RenderChat(ChatFormat::kV31, {User("?")}, options);
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  EXPECT_NE(prompt->find("\n### now\nDescription: \n\nParameters: {}\n"), std::string::npos);
}

TEST(ChatFormat, AnEarlierDeveloperMessageIsKeptWhileThinking) {
  ChatOptions options;
  options.thinking = true;
  const auto prompt = RenderChat(
      ChatFormat::kV32, {{"developer", "rules", "", {}, ""}, Assistant("ok"), User("go")}, options);
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  EXPECT_EQ(
      *prompt,
      "<｜begin▁of▁sentence｜><｜User｜>\n\n# The user's message is: rules<｜Assistant｜></think>"
      "ok<｜end▁of▁sentence｜><｜User｜>go<｜Assistant｜><think>");
}

struct BadCase {
  std::string what;
  ChatFormat format;
  std::vector<ChatMessage> messages;
  ChatOptions options;
  std::vector<std::string> named;  // what the message must contain
};

ChatOptions Thinking() {
  ChatOptions options;
  options.thinking = true;
  return options;
}
ChatOptions Finished(bool thinking = false) {
  ChatOptions options;
  options.thinking = thinking;
  options.finished = true;
  return options;
}
ChatOptions WithTool(std::string tool) {
  ChatOptions options;
  options.tools = {std::move(tool)};
  return options;
}
ChatOptions WithSchema(std::string schema) {
  ChatOptions options;
  options.response_schema = std::move(schema);
  return options;
}

TEST(ChatFormat, ErrorsNameTheMessageAndTheField) {
  const ToolCall call{"id", "f", "{}"};
  const ToolCall bad_arguments{"id", "f", "{\"a\": "};
  const ToolCall list_arguments{"id", "f", "[1]"};
  const ToolCall no_name{"id", "", "{}"};
  ChatMessage user_with_call = User("u");
  user_with_call.tool_calls = {call};
  ChatMessage user_with_reasoning = User("u");
  user_with_reasoning.reasoning_content = "r";
  ChatMessage user_with_id = User("u");
  user_with_id.tool_call_id = "i";
  const ChatMessage system{"system", "s", "", {}, ""};
  const ChatMessage developer{"developer", "", "", {}, ""};
  const std::vector<BadCase> cases = {
      {"no messages", ChatFormat::kV3, {}, {}, {"messages", "none"}},
      {"role",
       ChatFormat::kV32,
       {User("u"), {"robot", "", "", {}, ""}},
       {},
       {"messages[1].role", "robot", "developer"}},
      {"developer",
       ChatFormat::kV31,
       {{"developer", "d", "", {}, ""}},
       {},
       {"messages[0].role", "developer", "system, user, assistant or tool"}},
      {"empty developer", ChatFormat::kV32, {developer}, {}, {"messages[0].content", "empty"}},
      {"tool first", ChatFormat::kV31, {Result("r")}, {}, {"messages[0].role", "tool call"}},
      {"tool after user", ChatFormat::kV3, {User("u"), Result("r")}, {}, {"messages[1].role"}},
      {"too many results",
       ChatFormat::kV31,
       {User("u"), Assistant("", {call}), Result("r"), Result("r")},
       {},
       {"messages[3].role"}},
      {"missing result",
       ChatFormat::kV32,
       {User("u"), Assistant("", {call, call}), Result("r"), User("u")},
       {},
       {"messages[3].role", "1 results"}},
      {"missing last result",
       ChatFormat::kV32,
       {User("u"), Assistant("", {call, call}), Result("r")},
       {},
       {"messages[3]", "1 results"}},
      {"arguments",
       ChatFormat::kV3,
       {User("u"), Assistant("", {call, bad_arguments}), User("v")},
       {},
       {"messages[1].tool_calls[1].arguments", "not valid JSON"}},
      {"arguments list",
       ChatFormat::kV32,
       {User("u"), Assistant("", {list_arguments}), Result("r")},
       {},
       {"messages[1].tool_calls[0].arguments", "an array", "object"}},
      {"call name",
       ChatFormat::kV31,
       {User("u"), Assistant("", {no_name}), Result("r")},
       {},
       {"messages[1].tool_calls[0].name"}},
      {"user's calls", ChatFormat::kV31, {user_with_call}, {}, {"messages[0].tool_calls"}},
      {"user's reasoning",
       ChatFormat::kV32,
       {user_with_reasoning},
       {},
       {"messages[0].reasoning_content"}},
      {"user's id", ChatFormat::kV32, {user_with_id}, {}, {"messages[0].tool_call_id"}},
      {"ends with assistant",
       ChatFormat::kV31,
       {User("u"), Assistant("a")},
       {},
       {"messages[1].role", "reply"}},
      {"ends with system",
       ChatFormat::kV32,
       {User("u"), system},
       {},
       {"messages[1].role", "reply"}},
      {"system only", ChatFormat::kV3, {system, system}, {}, {"messages[1].role", "reply"}},
      {"assistant before system",
       ChatFormat::kV31,
       {User("u"), Assistant("a"), system},
       {},
       {"messages[1].role", "assistant"}},
      {"no reasoning",
       ChatFormat::kV32,
       {User("u"), Assistant("a")},
       Finished(true),
       {"messages[1].reasoning_content"}},
      {"thinking in V3", ChatFormat::kV3, {User("u")}, Thinking(), {"thinking", "v3.1"}},
      {"schema in V3.1", ChatFormat::kV31, {User("u")}, WithSchema("{}"), {"response_schema"}},
      {"schema", ChatFormat::kV32, {User("u")}, WithSchema("{"), {"response_schema", "JSON"}},
      {"schema kind",
       ChatFormat::kV32,
       {User("u")},
       WithSchema("3"),
       {"response_schema", "found 3"}},
      {"tool text",
       ChatFormat::kV31,
       {User("u")},
       WithTool("{\"name\": tru}"),
       {"tools[0]", "JSON"}},
      {"tool kind", ChatFormat::kV3, {User("u")}, WithTool("[]"), {"tools[0].name", "object"}},
      {"tool name",
       ChatFormat::kV32,
       {User("u")},
       WithTool("{\"name\": 1}"),
       {"tools[0].name", "found 1"}},
      {"tool key twice",
       ChatFormat::kV32,
       {User("u")},
       WithTool("{\"name\":\"a\",\"name\":\"b\"}"),
       {"tools[0]", "name", "twice"}},
      {"deep tool",
       ChatFormat::kV32,
       {User("u")},
       WithTool("{\"name\":" + std::string(100, '[') + std::string(100, ']') + "}"),
       {"tools[0]", "64"}},
  };
  for (const BadCase& test : cases) {
    const auto prompt = RenderChat(test.format, test.messages, test.options);
    ASSERT_FALSE(prompt.ok()) << test.what << ": " << *prompt;
    EXPECT_EQ(prompt.status().code(), StatusCode::kInvalidArgument) << test.what;
    for (const std::string& named : test.named)
      EXPECT_NE(prompt.status().message().find(named), std::string::npos)
          << test.what << ": " << prompt.status().message() << " lacks " << named;
  }
}

TEST(ChatFormat, AFinishedConversationMayEndWithTheAssistant) {
  for (const ChatFormat format : {ChatFormat::kV3, ChatFormat::kV31, ChatFormat::kV32}) {
    const auto prompt = RenderChat(format, {User("u"), Assistant("a")}, Finished());
    ASSERT_TRUE(prompt.ok()) << prompt.status().message();
    EXPECT_TRUE(prompt->ends_with("a<｜end▁of▁sentence｜>")) << *prompt;
  }
}

TEST(JsonValue, WritesJsonAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[1,2 , 3]", "[1, 2, 3]"},
      {R"({"b":1,"a":{}})", R"({"b": 1, "a": {}})"},
      {"-0", "0"},
      {"-0.0", "-0.0"},
      {"1.50", "1.5"},
      {"1E5", "100000.0"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"18446744073709551615", "18446744073709551615"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"\"\\u00e9\\u0001\\u007f\\/\\\"\\\\\\b\\f\\n\\r\\t\"",
       "\"\xc3\xa9\\u0001\x7f/\\\"\\\\\\b\\f\\n\\r\\t\""},
      {"[true,false,null,[],\"\"]", "[true, false, null, [], \"\"]"},
  };
  for (const auto& [input, expected] : cases) {
    const auto value = ParseJson(input, "input");
    ASSERT_TRUE(value.ok()) << input << ": " << value.status().message();
    EXPECT_EQ(PythonJson(*value), expected) << input;
  }
}

TEST(JsonValue, RefusesWhatIsNotJson) {
  for (const std::string& input :
       {std::string(""), std::string("{"), std::string("1 2"), std::string("nan"),
        std::string("\"\xff\""), std::string("1e999"), std::string("1\0", 2),
        std::string("{\"a\":1,\"a\":2}"), std::string(65, '[') + std::string(65, ']')}) {
    const auto value = ParseJson(input, "input");
    ASSERT_FALSE(value.ok()) << input;
    EXPECT_EQ(value.status().message().rfind("input: ", 0), 0u) << value.status().message();
  }
  EXPECT_TRUE(ParseJson(std::string(64, '[') + std::string(64, ']'), "input").ok());
}

}  // namespace
}  // namespace causeway
