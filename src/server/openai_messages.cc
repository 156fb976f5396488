// "messages" of a chat request.
#include "server/field_reader.h"
#include "server/openai_request.h"
#include "server/openai_tools.h"

namespace causeway {
namespace {

// A string, or a list of {"type": "text", "text": ...}, whose texts are joined as they are.
std::string ParseContent(FieldReader& message, FirstError& error) {
  const Json* content = message.Any("content");
  if (content == nullptr) return {};
  if (content->is_string()) return content->get<std::string>();
  const std::string path = message.Path("content");
  if (!content->is_array()) {
    message.Fail("content", Text(path, " is ", DescribeJson(*content),
                                 "; expected a string or a list of text parts"));
    return {};
  }
  std::string out;
  for (size_t i = 0; i < content->size() && error.ok(); ++i) {
    FieldReader part((*content)[i], Text(path, "[", i, "]"), error);
    std::string type;
    std::string text;
    part.String("type", type);
    const bool has_text = part.String("text", text);
    if (error.ok() && type != "text") {
      part.Fail("type", Text(part.Path("type"), " is ", DescribeJson(Json(type)),
                             "; this model reads \"text\" only"));
    } else if (error.ok() && !has_text) {
      part.Fail("text", Text(part.Path("text"), " is missing"));
    }
    part.Finish();
    out += text;
  }
  return out;
}

std::vector<ToolCall> ParseToolCalls(FieldReader& message, FirstError& error) {
  std::vector<ToolCall> out;
  const Json* calls = message.Any("tool_calls");
  if (calls == nullptr) return out;
  const std::string path = message.Path("tool_calls");
  if (!calls->is_array()) {
    message.Fail("tool_calls", Text(path, " is ", DescribeJson(*calls), "; expected a list"));
    return out;
  }
  for (size_t i = 0; i < calls->size() && error.ok(); ++i) {
    FieldReader call((*calls)[i], Text(path, "[", i, "]"), error);
    ToolCall made;
    call.String("id", made.id);
    call.NeutralOnly("type", {"function"});
    call.Ignore({"index"});
    if (const Json* function = call.Any("function"); function != nullptr) {
      FieldReader fields(*function, call.Path("function"), error);
      if (!fields.String("name", made.name)) {
        fields.Fail("name", Text(fields.Path("name"), " is missing"));
      }
      if (!fields.String("arguments", made.arguments)) {
        fields.Fail("arguments", Text(fields.Path("arguments"), " is missing"));
      }
      // Some clients send a call without arguments back so.
      if (made.arguments.empty()) made.arguments = "{}";
      fields.Finish();
    } else {
      call.Fail("function", Text(call.Path("function"), " is missing"));
    }
    call.Finish();
    out.push_back(std::move(made));
  }
  return out;
}

}  // namespace

std::vector<ChatMessage> ParseMessages(const Json& messages, FirstError& error) {
  std::vector<ChatMessage> out;
  for (size_t i = 0; i < messages.size() && error.ok(); ++i) {
    FieldReader fields(messages[i], Text("messages[", i, "]"), error);
    ChatMessage message;
    if (!fields.String("role", message.role) && error.ok()) {
      fields.Fail("role", Text(fields.Path("role"), " is missing"));
    }
    message.content = ParseContent(fields, error);
    // What clients send back of an earlier answer: nothing of it is read here.
    fields.Ignore({"name"});
    fields.NeutralOnly("refusal");
    fields.NeutralOnly("audio");
    fields.NeutralOnly("function_call");
    fields.NeutralOnly("annotations", {Json::array()});
    // Each field is read where its role has it and otherwise accepted only when it says nothing, so
    // that text put in the wrong message is an error and not lost from the prompt.
    if (message.role == "assistant") {
      fields.String("reasoning_content", message.reasoning_content);
      message.tool_calls = ParseToolCalls(fields, error);
    } else {
      fields.NeutralOnly("reasoning_content");
      fields.NeutralOnly("tool_calls", {Json::array()});
    }
    if (message.role == "tool") {
      fields.String("tool_call_id", message.tool_call_id);
    } else {
      fields.NeutralOnly("tool_call_id");
    }
    fields.Finish();
    // An assistant's message that only calls tools has no text of its own.
    const bool may_be_empty = message.role == "assistant" && !message.tool_calls.empty();
    if (fields.Any("content") == nullptr && !may_be_empty) {
      fields.Fail("content", Text(fields.Path("content"), " is missing"));
    }
    out.push_back(std::move(message));
  }
  if (error.ok()) OrderToolResults(out, error);
  return out;
}

std::string ReadChatPrompt(FieldReader& fields, FirstError& error, ChatFormat format, bool thinking,
                           const ToolFields& tools) {
  const Json* messages = fields.Any("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields.Fail("messages", messages == nullptr
                                ? "messages is missing"
                                : Text("messages is ", DescribeJson(*messages),
                                       "; expected a list with at least one message"));
    return "";
  }
  const std::vector<ChatMessage> parsed = ParseMessages(*messages, error);
  if (!error.ok()) return "";
  // The template is applied as a whole: what it refuses (a role out of order, say) is an error of
  // "messages".
  ChatOptions options;
  options.thinking = thinking;
  if (tools.offered()) options.tools = tools.functions;
  StatusOr<std::string> text = RenderChat(format, parsed, options);
  if (!text.ok()) {
    fields.Fail("messages", text.status().message());
    return "";
  }
  return std::move(text).value();
}

}  // namespace causeway
