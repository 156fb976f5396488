// A conversation is checked as a whole before a format renders it: roles, fields and their order.
// What a format has no place for is an error, as the model would otherwise be asked something else
// than was sent.
#include "text/chat_format.h"

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "text/chat_render.h"
#include "text/json_value.h"

namespace causeway {
namespace {

// A field that only some roles have must be empty elsewhere: it would be lost without a word.
Status CheckFields(size_t index, const ChatMessage& message) {
  const bool assistant = message.role == "assistant";
  if (!assistant && !message.reasoning_content.empty())
    return MessageError(index, "reasoning_content", Text("one of role ", Quoted(message.role)),
                        "it in assistant messages only");
  if (!assistant && !message.tool_calls.empty())
    return MessageError(index, "tool_calls", Text("some of role ", Quoted(message.role)),
                        "them in assistant messages only");
  if (message.role != "tool" && !message.tool_call_id.empty())
    return MessageError(index, "tool_call_id", Text("one of role ", Quoted(message.role)),
                        "it in tool messages only");
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ToolCall& call = message.tool_calls[i];
    if (call.name.empty())
      return MessageError(index, Text("tool_calls[", i, "].name"), "an empty name", "a name");
    const std::string field = Text("tool_calls[", i, "].arguments");
    const auto arguments = ParseJson(call.arguments, Text("messages[", index, "].", field));
    if (!arguments.ok()) return arguments.status();
    if (!arguments->IsObject())
      return MessageError(index, field, Describe(*arguments), "a JSON object");
  }
  return Status();
}

Status Check(ChatFormat format, const std::vector<ChatMessage>& messages,
             const ChatOptions& options) {
  if (messages.empty()) return InvalidArgument("messages: found none, expected at least one");
  const bool v32 = format == ChatFormat::kV32;
  size_t results_left = 0;  // tool messages that may still follow the last assistant's calls
  const ChatMessage* last = nullptr;  // that is not a system message
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const std::string& role = message.role;
    if (role != "system" && role != "user" && role != "assistant" && role != "tool" &&
        !(v32 && role == "developer"))
      return MessageError(
          i, "role", Quoted(role),
          v32 ? "system, developer, user, assistant or tool" : "system, user, assistant or tool");
    CAUSEWAY_RETURN_IF_ERROR(CheckFields(i, message));
    if (role == "tool") {
      if (results_left == 0)
        return MessageError(i, "role", "\"tool\"",
                            "a tool message only as the result of a tool call of the assistant "
                            "message before, one for each call");
      --results_left;
    } else if (v32 && results_left > 0) {
      // V3.2 closes the block of results with the last one, so there is no way to leave one out.
      return MessageError(i, "role", Quoted(role),
                          Text("\"tool\": ", results_left, " results of the calls are missing"));
    } else {
      results_left = message.tool_calls.size();
    }
    if (role != "system") last = &message;
  }
  if (v32 && results_left > 0 && messages.back().role == "tool")
    return MessageError(messages.size(), "role", "no message",
                        Text("\"tool\": ", results_left, " results of the calls are missing"));
  // V3 and V3.1 move system messages to the front; V3.2 leaves them in their place.
  if (v32) last = &messages.back();
  if (!options.finished && (last == nullptr || last->role == "assistant" || last->role == "system"))
    return MessageError(
        static_cast<size_t>(v32 || last == nullptr ? messages.size() - 1 : last - messages.data()),
        "role", last == nullptr ? "\"system\"" : Quoted(last->role),
        "the conversation to end with a message that the assistant can reply to");
  return Status();
}

}  // namespace

Status MessageError(size_t index, std::string_view field, const std::string& found,
                    const std::string& expected) {
  return InvalidArgument(
      Text("messages[", index, "].", field, ": found ", found, ", expected ", expected));
}

StatusOr<std::vector<JsonValue>> ParseTools(const ChatOptions& options) {
  std::vector<JsonValue> tools;
  for (size_t i = 0; i < options.tools.size(); ++i) {
    const std::string where = Text("tools[", i, "]");
    CAUSEWAY_ASSIGN_OR_RETURN(JsonValue tool, ParseJson(options.tools[i], where));
    const JsonValue* name = tool.Find("name");
    if (name == nullptr || !name->IsString() || name->text.empty())
      return InvalidArgument(Text(where, ".name: found ",
                                  name != nullptr ? Describe(*name) : "nothing",
                                  ", expected an object with a name"));
    tools.push_back(std::move(tool));
  }
  return tools;
}

std::string JoinSystem(const std::vector<ChatMessage>& messages) {
  std::string text;
  bool first = true;
  for (const ChatMessage& message : messages) {
    if (message.role != "system") continue;
    if (!first) text += "\n\n";
    text += message.content;
    first = false;
  }
  return text;
}

StatusOr<ChatFormat> ParseChatFormat(const std::string& name) {
  if (name == "v3") return ChatFormat::kV3;
  if (name == "v3.1") return ChatFormat::kV31;
  if (name == "v3.2") return ChatFormat::kV32;
  return InvalidArgument(Text("chat format: found ", Quoted(name), ", expected v3, v3.1 or v3.2"));
}

StatusOr<std::string> RenderChat(ChatFormat format, const std::vector<ChatMessage>& messages,
                                 const ChatOptions& options) {
  CAUSEWAY_RETURN_IF_ERROR(Check(format, messages, options));
  if (format != ChatFormat::kV32 && !options.response_schema.empty())
    return InvalidArgument("response_schema: found one, expected it with chat format v3.2 only");
  if (format == ChatFormat::kV3 && options.thinking)
    return InvalidArgument(
        "thinking: found true, expected it with chat formats v3.1 and v3.2 only");
  switch (format) {
    case ChatFormat::kV3:
      return RenderV3(messages, options);
    case ChatFormat::kV31:
      return RenderV31(messages, options);
    case ChatFormat::kV32:
      return RenderV32(messages, options);
  }
  CHECK(false, static_cast<int>(format));
}

}  // namespace causeway
