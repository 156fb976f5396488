// The fields of a chat request about tools and thinking.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/field_reader.h"
#include "text/chat_format.h"

namespace causeway {

struct ToolFields {
  enum class Choice { kNone, kAuto, kRequired, kNamed };

  std::vector<std::string> functions;  // JSON of each, for the prompt
  std::vector<std::string> names;
  Choice choice = Choice::kAuto;
  std::string named;  // with kNamed
  bool parallel = true;

  // The model is told of the tools, and its calls are looked for.
  bool offered() const { return !functions.empty() && choice != Choice::kNone; }
  // The answer is a call, whatever the model would rather say.
  bool forced() const { return choice == Choice::kRequired || choice == Choice::kNamed; }
};

// "tools", "tool_choice", "parallel_tool_calls".
ToolFields ReadTools(FieldReader& fields, FirstError& error);
// "tools" alone, as other endpoints have it too.
void ReadToolList(FieldReader& fields, FirstError& error, ToolFields& out);

struct ThinkingFields {
  bool thinking = false;
  bool separate = true;
  bool stream = true;
};

// "thinking", "enable_thinking", "chat_template_kwargs", "reasoning_effort", "separate_reasoning",
// "stream_reasoning".
ThinkingFields ReadThinking(FieldReader& fields, FirstError& error);

// Brings the results of tools in the order of the calls they belong to, by tool_call_id: the
// formats have no ids, so that the model knows them by their order.
void OrderToolResults(std::vector<ChatMessage>& messages, FirstError& error);

}  // namespace causeway
