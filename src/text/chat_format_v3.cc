// The formats of V3 and V3.1, which the models' Jinja templates define. Texts between quotes are
// what the models were trained on: not a byte may change.
#include "text/chat_render.h"

namespace causeway {
namespace {

constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kOutputsBegin = "<｜tool▁outputs▁begin｜>";
constexpr std::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";
constexpr std::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
constexpr std::string_view kOutputEnd = "<｜tool▁output▁end｜>";

constexpr std::string_view kToolsV3 =
    "You are a helpful assistant with tool calling capabilities. "
    "When a tool call is needed, you MUST use the following format to issue the call:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>FUNCTION_NAME\n"
    "```json\n{\"param1\": \"value1\", \"param2\": \"value2\"}\n"
    "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>\n\n"
    "Make sure the JSON is valid."
    "## Tools\n\n### Function\n\nYou have the following functions available:\n\n";

constexpr std::string_view kResultsV3 =
    "Use the results below to formulate an answer to the user question unless additional "
    "information is needed.";

constexpr std::string_view kRulesV31 =
    "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments"
    "<｜tool▁call▁end｜>{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\n"
    "Where:\n\n"
    "- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
    "Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces\n";

std::string ToolsTextV3(const std::vector<JsonValue>& tools) {
  std::string text(kToolsV3);
  for (const JsonValue& tool : tools) text += "\n```json\n" + PythonJson(tool) + "\n```\n";
  return text;
}

std::string ToolsTextV31(const std::vector<JsonValue>& tools) {
  std::string text = "## Tools\nYou have access to the following tools:\n";
  for (const JsonValue& tool : tools) {
    const JsonValue* description = tool.Find("description");
    const JsonValue* parameters = tool.Find("parameters");
    text += "\n### " + tool.Find("name")->text;
    text += "\nDescription: ";
    if (description != nullptr) text += description->text;  // of null: nothing
    text += "\n\nParameters: ";
    // A function without parameters is one with an empty list of them.
    text += parameters != nullptr && !parameters->IsNull() ? PythonJson(*parameters) : "{}";
    text += "\n";
  }
  text += kRulesV31;
  return text;
}

void Append(std::string* text, std::initializer_list<std::string_view> pieces) {
  for (const std::string_view piece : pieces) text->append(piece);
}

}  // namespace

StatusOr<std::string> RenderV3(const std::vector<ChatMessage>& messages,
                               const ChatOptions& options) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<JsonValue> tools, ParseTools(options));
  std::string text;
  Append(&text, {kBos, JoinSystem(messages)});
  if (!tools.empty()) Append(&text, {"\n\n", ToolsTextV3(tools)});
  bool after_user = false;
  bool in_results = false;   // tool results have been written, and nothing after them
  bool first_result = true;  // none since the last calls
  for (const ChatMessage& message : messages) {
    if (message.role == "system") continue;
    after_user = message.role == "user";
    if (message.role == "user") {
      in_results = false;
      Append(&text, {kUser, message.content, kAssistant});
    } else if (message.role == "tool") {
      in_results = true;
      if (first_result) Append(&text, {kResultsV3, kOutputsBegin});
      if (!first_result) text += "\n";
      Append(&text, {kOutputBegin, message.content, kOutputEnd});
      first_result = false;
    } else {
      if (in_results) text += kOutputsEnd;
      in_results = false;
      text += message.content;
      for (const ToolCall& call : message.tool_calls) {
        // The first call follows the opening marker, others a line break.
        text += &call == &message.tool_calls.front() ? kCallsBegin : "\n";
        Append(&text, {kCallBegin, "function", kSeparator, call.name, "\n```json\n", call.arguments,
                       "\n```", kCallEnd});
      }
      if (!message.tool_calls.empty()) {
        text += kCallsEnd;
        first_result = true;
      }
      text += kEos;
    }
  }
  if (in_results) text += kOutputsEnd;
  // After the user's message the marker for the reply is there already.
  if (!after_user && !in_results && !options.finished) text += kAssistant;
  return text;
}

StatusOr<std::string> RenderV31(const std::vector<ChatMessage>& messages,
                                const ChatOptions& options) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<JsonValue> tools, ParseTools(options));
  std::string text;
  Append(&text, {kBos, JoinSystem(messages)});
  if (!tools.empty()) Append(&text, {"\n\n", ToolsTextV31(tools)});
  bool after_user = false;
  bool in_results = false;
  for (const ChatMessage& message : messages) {
    if (message.role == "system") continue;
    if (message.role == "user") {
      Append(&text, {kUser, message.content});
    } else if (message.role == "tool") {
      Append(&text, {kOutputBegin, message.content, kOutputEnd});
    } else {
      if (after_user) Append(&text, {kAssistant, kEndThink});
      std::string_view content = message.content;
      // Of an earlier reply only what follows its reasoning is kept.
      const size_t think = content.find(kEndThink);
      if (message.tool_calls.empty() && !in_results && think != std::string_view::npos)
        content.remove_prefix(think + kEndThink.size());
      text += content;
      if (!message.tool_calls.empty()) text += kCallsBegin;
      for (const ToolCall& call : message.tool_calls)
        Append(&text, {kCallBegin, call.name, kSeparator, call.arguments, kCallEnd});
      if (!message.tool_calls.empty()) text += kCallsEnd;
      text += kEos;
    }
    after_user = message.role == "user";
    in_results = message.role == "tool";
  }
  // After tool results the reply goes on without a marker.
  if (after_user) Append(&text, {kAssistant, options.thinking ? kThink : kEndThink});
  return text;
}

}  // namespace causeway
