#include "server/openai_tools.h"

#include <algorithm>

namespace causeway {
namespace {

constexpr size_t kMaxTools = 1024;
constexpr size_t kMaxNameBytes = 256;

// A name goes into the prompt and is looked for between marks in the answer.
bool IsToolName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::none_of(name.begin(), name.end(), [](char c) {
           return static_cast<uint8_t>(c) <= ' ' || c == '"' || c == '\\' || c == '<' || c == '>';
         });
}

void ReadTool(const Json& tool, const std::string& path, FirstError& error, ToolFields& out) {
  FieldReader fields(tool, path, error);
  std::string type;
  if (fields.String("type", type) && type != "function") {
    fields.Fail("type", Text(fields.Path("type"), " is ", DescribeJson(Json(type)),
                             "; expected \"function\""));
  }
  const Json* function = fields.Any("function");
  fields.Finish();
  if (function == nullptr) {
    fields.Fail("function", Text(fields.Path("function"), " is missing"));
    return;
  }
  FieldReader inner(*function, fields.Path("function"), error);
  std::string name;
  std::string description;
  bool strict = false;
  if (!inner.String("name", name)) {
    inner.Fail("name", Text(inner.Path("name"), " is missing"));
  } else if (!IsToolName(name)) {
    inner.Fail("name",
               Text(inner.Path("name"), " is ", DescribeJson(Json(name)), "; expected 1 to ",
                    kMaxNameBytes, " bytes without blanks, quotes, \\, < and >"));
  } else if (std::find(out.names.begin(), out.names.end(), name) != out.names.end()) {
    inner.Fail("name", Text(inner.Path("name"), " is ", DescribeJson(Json(name)),
                            ", the name of an earlier tool"));
  }
  inner.String("description", description);
  inner.Bool("strict", strict);
  if (const Json* schema = inner.Any("parameters"); schema != nullptr && !schema->is_object()) {
    inner.Fail("parameters", Text(inner.Path("parameters"), " is ", DescribeJson(*schema),
                                  "; expected a JSON Schema, an object"));
  }
  inner.Finish();
  out.functions.push_back(Dump(*function));
  out.names.push_back(std::move(name));
}

void ReadToolChoice(FieldReader& fields, FirstError& error, ToolFields& out) {
  using Choice = ToolFields::Choice;
  const Json* choice = fields.Any("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object()) {
    FieldReader reader(*choice, "tool_choice", error);
    reader.NeutralOnly("type", {"function"});
    if (const Json* function = reader.Any("function"); function != nullptr) {
      FieldReader inner(*function, "tool_choice.function", error);
      if (inner.String("name", out.named)) {
        out.choice = Choice::kNamed;
      } else {
        inner.Fail("name", "tool_choice.function.name is missing");
      }
      inner.Finish();
    } else {
      reader.Fail("function", "tool_choice.function is missing");
    }
    reader.Finish();
    if (out.choice == Choice::kNamed &&
        std::find(out.names.begin(), out.names.end(), out.named) == out.names.end()) {
      fields.Fail("tool_choice", Text("tool_choice names ", DescribeJson(Json(out.named)),
                                      "; expected the name of one of the tools"));
    }
    return;
  }
  if (*choice == "none") {
    out.choice = Choice::kNone;
  } else if (*choice == "required") {
    out.choice = Choice::kRequired;
  } else if (*choice != "auto") {
    fields.Fail("tool_choice",
                Text("tool_choice is ", DescribeJson(*choice),
                     "; expected \"none\", \"auto\", \"required\" or a function's name as "
                     "{\"type\": \"function\", \"function\": {\"name\": ...}}"));
  }
  if (out.choice == Choice::kRequired && out.functions.empty()) {
    fields.Fail("tool_choice", "tool_choice is \"required\", but there are no tools");
  }
}

}  // namespace

void ReadToolList(FieldReader& fields, FirstError& error, ToolFields& out) {
  const Json* tools = fields.Any("tools");
  if (tools == nullptr) return;
  const std::string path = fields.Path("tools");
  if (!tools->is_array() || tools->size() > kMaxTools) {
    fields.Fail("tools", Text(path, " is ", DescribeJson(*tools), "; expected a list of at most ",
                              kMaxTools, " tools"));
    return;
  }
  for (size_t i = 0; i < tools->size() && error.ok(); ++i) {
    ReadTool((*tools)[i], Text(path, "[", i, "]"), error, out);
  }
}

ToolFields ReadTools(FieldReader& fields, FirstError& error) {
  ToolFields out;
  ReadToolList(fields, error, out);
  ReadToolChoice(fields, error, out);
  fields.Bool("parallel_tool_calls", out.parallel);
  return out;
}

ThinkingFields ReadThinking(FieldReader& fields, FirstError& error) {
  ThinkingFields out;
  // The model has one way to think: every effort but none asks for it. The fields below, which say
  // so themselves, go before.
  std::string effort;
  if (fields.String("reasoning_effort", effort)) {
    const std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    if (std::find(std::begin(kEfforts), std::end(kEfforts), effort) == std::end(kEfforts)) {
      fields.Fail("reasoning_effort", Text("reasoning_effort is ", DescribeJson(Json(effort)),
                                           "; expected none, minimal, low, medium, high or xhigh"));
    }
    out.thinking = effort != "none";
  }
  // true, or {"type": "enabled"} as in DeepSeek's own API, or in chat_template_kwargs as in vLLM
  // and SGLang.
  if (const Json* thinking = fields.Any("thinking"); thinking != nullptr) {
    if (thinking->is_object()) {
      FieldReader reader(*thinking, "thinking", error);
      std::string type;
      if (!reader.String("type", type) || (type != "enabled" && type != "disabled")) {
        reader.Fail("type", "thinking.type must be \"enabled\" or \"disabled\"");
      }
      reader.Finish();
      out.thinking = type == "enabled";
    } else {
      fields.Bool("thinking", out.thinking);
    }
  }
  // Where several of these are sent, the last one read wins.
  fields.Bool("enable_thinking", out.thinking);
  if (const Json* kwargs = fields.Any("chat_template_kwargs"); kwargs != nullptr) {
    FieldReader reader(*kwargs, "chat_template_kwargs", error);
    reader.Bool("thinking", out.thinking);
    reader.Bool("enable_thinking", out.thinking);
    reader.Finish();
  }
  fields.Bool("separate_reasoning", out.separate);
  fields.Bool("stream_reasoning", out.stream);
  return out;
}

void OrderToolResults(std::vector<ChatMessage>& messages, FirstError& error) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::vector<ToolCall>& calls = messages[i].tool_calls;
    if (calls.empty()) continue;
    size_t end = i + 1;
    while (end < messages.size() && messages[end].role == "tool") ++end;
    // Where something has no id, the order is all there is.
    const bool named =
        std::all_of(calls.begin(), calls.end(),
                    [](const auto& call) { return !call.id.empty(); }) &&
        std::all_of(messages.begin() + static_cast<int64_t>(i) + 1,
                    messages.begin() + static_cast<int64_t>(end),
                    [](const auto& message) { return !message.tool_call_id.empty(); });
    if (!named) continue;
    const auto place = [&calls](const ChatMessage& message) {
      return std::find_if(calls.begin(), calls.end(),
                          [&](const ToolCall& call) { return call.id == message.tool_call_id; }) -
             calls.begin();
    };
    for (size_t j = i + 1; j < end; ++j) {
      if (place(messages[j]) < static_cast<int64_t>(calls.size())) continue;
      const std::string path = Text("messages[", j, "].tool_call_id");
      error.Set({.message = Text(path, " is ", DescribeJson(Json(messages[j].tool_call_id)),
                                 "; expected the id of one of the tool_calls of messages[", i, "]"),
                 .param = path});
      return;
    }
    std::stable_sort(messages.begin() + static_cast<int64_t>(i) + 1,
                     messages.begin() + static_cast<int64_t>(end),
                     [&](const auto& a, const auto& b) { return place(a) < place(b); });
  }
}

}  // namespace causeway
