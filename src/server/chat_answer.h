// The text of a chat's answer to what OpenAI's clients get: a message, or the deltas of a stream.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/json.h"
#include "server/reasoning_parser.h"
#include "server/tool_call_parser.h"

namespace causeway {

struct ChatAnswerOptions {
  bool stream = false;
  bool reasons = false;            // there may be reasoning, and the answer says so
  bool separate_reasoning = true;  // false: it stays in the content, </think> included
  bool stream_reasoning = true;    // false: a stream gets it in one piece, once it is whole
  std::optional<ToolCallFormat> tools = {};  // none: calls are text
  std::vector<std::string> tool_names = {};
  bool parallel_tool_calls = true;  // false: the answer ends with its first call
};

// Calls of tools are looked for in the content only, never in the reasoning.
class ChatAnswer {
 public:
  explicit ChatAnswer(ChatAnswerOptions options);

  // The deltas that a stream sends for this, one event each; none if this is no stream. A call
  // begins with its index, id and name; pieces of its arguments follow.
  std::vector<Json> Push(const TextPiece& piece);
  // The rest, at the end of the answer.
  std::vector<Json> Flush();

  // A tool has been called: "finish_reason" is "tool_calls".
  bool called() const { return ended_calls_ > 0; }
  // The answer has all it may have; more is ignored.
  bool complete() const { return !options_.parallel_tool_calls && called(); }
  // The whole answer, after Flush.
  Json Message() const;

 private:
  void AddReasoning(const std::string& text, bool ends, std::vector<Json>& deltas);
  void AddContent(const std::string& text, std::vector<Json>& deltas);
  void AddEvents(const std::vector<ToolEvent>& events, std::vector<Json>& deltas);

  const ChatAnswerOptions options_;
  std::optional<ToolCallParser> parser_;
  std::string reasoning_;  // of a stream: what waits for its end
  std::string content_;
  std::vector<ToolCall> calls_;  // whole ones, but for a stream, which has no use for them
  ToolCall open_call_;
  int64_t begun_calls_ = 0;
  int64_t ended_calls_ = 0;
};

// {"id", "type", "function"}, as in a message.
Json ToolCallJson(const ToolCall& call);

}  // namespace causeway
