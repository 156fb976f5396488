#include "server/reasoning_parser.h"

#include <utility>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";

}  // namespace

StatusOr<ReasoningFormat> ParseReasoningFormat(const std::string& name) {
  if (name == "deepseek-r1") return ReasoningFormat::kDeepSeekR1;
  if (name == "deepseek-v3") return ReasoningFormat::kDeepSeekV3;
  return InvalidArgument(
      Text("reasoning parser: found ", Quoted(name), ", expected deepseek-r1 or deepseek-v3"));
}

const char* NameOf(ReasoningFormat format) {
  return format == ReasoningFormat::kDeepSeekR1 ? "deepseek-r1" : "deepseek-v3";
}

ReasoningStart StartOfAnswer(ReasoningFormat format, bool thinking, std::string_view prompt) {
  if (format == ReasoningFormat::kDeepSeekR1 || prompt.ends_with(kThink)) {
    return ReasoningStart::kReasoning;
  }
  return thinking ? ReasoningStart::kUndecided : ReasoningStart::kContent;
}

void TextPiece::Append(const TextPiece& next) {
  reasoning += next.reasoning;
  content += next.content;
  reasoning_ends = reasoning_ends || next.reasoning_ends;
}

ReasoningParser::ReasoningParser(ReasoningStart start)
    : state_(start == ReasoningStart::kContent ? State::kContent : State::kStart),
      starts_inside_(start == ReasoningStart::kReasoning),
      end_({std::string(kThinkEnd)}) {}

bool ReasoningParser::PassStart(std::string& text) {
  start_ += text;
  if (start_.size() < kThink.size() && kThink.starts_with(start_)) return false;
  const bool marked = start_.starts_with(kThink);
  text = std::exchange(start_, {});
  if (marked) text.erase(0, kThink.size());
  state_ = marked || starts_inside_ ? State::kReasoning : State::kContent;
  starts_inside_ = false;
  return true;
}

TextPiece ReasoningParser::Push(std::string text) {
  TextPiece out;
  if (text.empty() || (state_ == State::kStart && !PassStart(text))) return out;
  if (state_ == State::kContent) {
    out.content = std::move(text);
    return out;
  }
  // rest() is what followed </think> in this piece: already the content's.
  out.reasoning = end_.Push(text);
  if (end_.matched()) {
    state_ = State::kContent;
    out.reasoning_ends = true;
    out.content = end_.rest();
  }
  return out;
}

TextPiece ReasoningParser::Flush() {
  TextPiece out;
  // A part of <think> that nothing follows is text like any other.
  if (state_ == State::kStart) {
    (starts_inside_ ? out.reasoning : out.content) = std::exchange(start_, {});
  }
  if (state_ == State::kReasoning) out.reasoning = end_.Flush();
  return out;
}

}  // namespace causeway
