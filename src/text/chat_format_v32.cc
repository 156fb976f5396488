// The format of V3.2, which the Python encoder published with the weights defines. Texts between
// quotes are what the model was trained on: not a byte may change.
#include <cstdint>

#include "base/check.h"
#include "text/chat_render.h"

namespace causeway {
namespace {

constexpr std::string_view kToolsBegin =
    "## Tools\n\n"
    "You have access to a set of tools you can use to answer the user's question.\n"
    "You can invoke functions by writing a \"<｜DSML｜function_calls>\" block like the following "
    "as "
    "part of your reply to the user:\n"
    "<｜DSML｜function_calls>\n"
    "<｜DSML｜invoke name=\"$FUNCTION_NAME\">\n"
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE"
    "</｜DSML｜parameter>\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "<｜DSML｜invoke name=\"$FUNCTION_NAME2\">\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "</｜DSML｜function_calls>\n\n"
    "String and scalar parameters should be specified as is without any escaping or quotes, while "
    "lists and objects should use JSON format. The \"string\" attribute should be set to \"true\" "
    "for string type parameters and \"false\" for other types (numbers, booleans, arrays, "
    "objects).\n\n"
    "If the thinking_mode is enabled, then after function results you should strongly consider "
    "outputting a thinking block. Here is an example:\n\n"
    "<｜DSML｜function_calls>\n"
    "...\n"
    "</｜DSML｜function_calls>\n\n"
    "<function_results>\n"
    "...\n"
    "</function_results>\n\n"
    "<think>...thinking about results</think>\n\n"
    "Here are the functions available in JSONSchema format:\n"
    "<functions>\n";
constexpr std::string_view kToolsEnd = "\n</functions>\n";

constexpr std::string_view kSchemaBegin =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

// The tools and the response format, each after a blank line; of the first message.
StatusOr<std::string> OptionsText(const ChatOptions& options) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<JsonValue> tools, ParseTools(options));
  std::string text;
  if (!tools.empty()) {
    text += "\n\n";
    text += kToolsBegin;
    for (const JsonValue& tool : tools) {
      if (&tool != &tools.front()) text += "\n";
      text += PythonJson(tool);
    }
    text += kToolsEnd;
  }
  if (!options.response_schema.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue schema,
                              ParseJson(options.response_schema, "response_schema"));
    if (!schema.IsObject())
      return InvalidArgument(
          Text("response_schema: found ", Describe(schema), ", expected a JSON object"));
    // An empty schema asks for nothing.
    if (!schema.keys.empty()) {
      text += "\n\n";
      text += kSchemaBegin;
      text += PythonJson(schema);
    }
  }
  return text;
}

StatusOr<std::string> CallText(const ToolCall& call) {
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue arguments, ParseJson(call.arguments, "arguments"));
  std::string text = "<｜DSML｜invoke name=\"" + call.name + "\">\n";
  for (size_t i = 0; i < arguments.keys.size(); ++i) {
    const JsonValue& value = arguments.values[i];
    if (i > 0) text += "\n";
    text += "<｜DSML｜parameter name=\"" + arguments.keys[i] + "\" string=\"";
    // Strings as they are, everything else as JSON, as the "string" attribute says.
    text += value.IsString() ? "true\">" + value.text : "false\">" + PythonJson(value);
    text += "</｜DSML｜parameter>";
  }
  text += "\n</｜DSML｜invoke>";
  return text;
}

// Index of the last user or developer message; -1: none.
int64_t LastUser(const std::vector<ChatMessage>& messages) {
  int64_t last = -1;
  for (size_t i = 0; i < messages.size(); ++i)
    if (messages[i].role == "user" || messages[i].role == "developer")
      last = static_cast<int64_t>(i);
  return last;
}

}  // namespace

StatusOr<std::string> RenderV32(const std::vector<ChatMessage>& messages,
                                const ChatOptions& options) {
  const int64_t last_user = LastUser(messages);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string options_text, OptionsText(options));
  std::string text(kBos);
  // Tools and schema belong to the first message if that can hold them, else to an empty system
  // message before it.
  const bool own_holder = messages[0].role != "system" && messages[0].role != "developer";
  if (own_holder) text += options_text;
  // Results of several calls share one block, opened by the first and closed by the last.
  size_t results_left = 0;  // of the calls of the last assistant message
  size_t results = 0;       // how many those calls have in all
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    // Reasoning is written, and asked for, only after the last user message.
    const bool after_last_user = static_cast<int64_t>(i) > last_user;
    const std::string_view holds = i == 0 && !own_holder ? options_text : std::string_view();
    if (message.role == "system") {
      text += message.content;
      text += holds;
    } else if (message.role == "user" || message.role == "developer") {
      text += kUser;
      if (message.role == "developer") {
        if (message.content.empty())
          return MessageError(i, "content", "an empty text", "a text in a developer message");
        text += holds;
        text += "\n\n# The user's message is: ";
      }
      text += message.content;
      text += kAssistant;
      text += options.thinking && static_cast<int64_t>(i) == last_user ? kThink : kEndThink;
    } else if (message.role == "assistant") {
      if (options.thinking && after_last_user) {
        if (message.reasoning_content.empty() && message.tool_calls.empty())
          return MessageError(
              i, "reasoning_content", "an empty text",
              "the reasoning of a reply to the last user message, as thinking is on");
        text += message.reasoning_content;
        text += kEndThink;
      }
      text += message.content;
      if (!message.tool_calls.empty()) text += "\n\n<｜DSML｜function_calls>\n";
      for (const ToolCall& call : message.tool_calls) {
        CAUSEWAY_ASSIGN_OR_RETURN(const std::string call_text, CallText(call));
        text += call_text + "\n";
      }
      if (!message.tool_calls.empty()) text += "</｜DSML｜function_calls>";
      text += kEos;
      results = results_left = message.tool_calls.size();
    } else {
      // RenderChat has checked the order of the roles.
      CHECK(message.role == "tool" && results_left > 0, message.role, " ", results_left);
      if (results_left == results) text += "\n\n<function_results>";
      text += "\n<result>" + message.content + "</result>";
      if (--results_left > 0) continue;
      text += "\n</function_results>\n\n";
      text += options.thinking && after_last_user ? kThink : kEndThink;
    }
  }
  return text;
}

}  // namespace causeway
