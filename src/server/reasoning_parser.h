// Where the reasoning of an answer ends: the text up to </think>, apart from what follows it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "server/string_matcher.h"

namespace causeway {

// SGLang's names for how a model's answers reason.
enum class ReasoningFormat {
  kDeepSeekR1,  // always, with or without a <think> in front
  kDeepSeekV3,  // when the request asks for it
};
// "deepseek-r1" or "deepseek-v3"; an error lists the names.
StatusOr<ReasoningFormat> ParseReasoningFormat(const std::string& name);
const char* NameOf(ReasoningFormat format);

// How an answer starts.
enum class ReasoningStart {
  kContent,    // nothing of it is reasoning
  kReasoning,  // inside <think>; one that the model writes itself is dropped
  kUndecided,  // reasoning if it starts with <think>, else content
};

// The start of the answer to a prompt, which chat formats end in <think> or not. Only the prompt
// decides: after a tool's result V3.1 goes on without a mark, and then the answer may be content
// from its first word on, however much the request asks for thinking.
ReasoningStart StartOfAnswer(ReasoningFormat format, bool thinking, std::string_view prompt);

// Text of an answer, divided as DeepSeek divides it.
struct TextPiece {
  std::string reasoning;
  std::string content;
  bool reasoning_ends = false;  // </think> stood between the two
  bool empty() const { return reasoning.empty() && content.empty() && !reasoning_ends; }
  void Append(const TextPiece& next);
};

// Takes text in pieces of any size; what may be the beginning of a mark waits for its rest.
class ReasoningParser {
 public:
  explicit ReasoningParser(ReasoningStart start);

  TextPiece Push(std::string text);
  // What was held back, at the end of the answer.
  TextPiece Flush();
  // The next text may be reasoning or decide about it.
  bool open() const { return state_ != State::kContent; }
  bool in_reasoning() const { return state_ == State::kReasoning || starts_inside_; }

 private:
  enum class State { kStart, kReasoning, kContent };

  // Removes a <think> from the start of the answer; returns false while that is not decided.
  bool PassStart(std::string& text);

  State state_;
  bool starts_inside_;  // in kStart: reasoning also without a mark
  std::string start_;   // in kStart: the text so far, a part of <think>
  StringMatcher end_;
};

}  // namespace causeway
