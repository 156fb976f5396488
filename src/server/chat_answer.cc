#include "server/chat_answer.h"

#include <utility>

#include "server/request_fields.h"

namespace causeway {

Json ToolCallJson(const ToolCall& call) {
  return {{"id", call.id},
          {"type", "function"},
          {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

ChatAnswer::ChatAnswer(ChatAnswerOptions options) : options_(std::move(options)) {
  if (options_.tools) parser_.emplace(*options_.tools, options_.tool_names);
}

std::vector<Json> ChatAnswer::Push(const TextPiece& piece) {
  std::vector<Json> deltas;
  if (complete()) return deltas;
  if (!options_.separate_reasoning) {
    AddContent(piece.reasoning + (piece.reasoning_ends ? "</think>" : ""), deltas);
  } else {
    AddReasoning(piece.reasoning, piece.reasoning_ends, deltas);
  }
  if (piece.content.empty()) return deltas;
  if (parser_) {
    AddEvents(parser_->Push(piece.content), deltas);
  } else {
    AddContent(piece.content, deltas);
  }
  return deltas;
}

std::vector<Json> ChatAnswer::Flush() {
  std::vector<Json> deltas;
  if (complete()) return deltas;
  // Reasoning that the length limit cut is whole now.
  AddReasoning("", true, deltas);
  if (parser_) AddEvents(parser_->Flush(), deltas);
  return deltas;
}

void ChatAnswer::AddReasoning(const std::string& text, bool ends, std::vector<Json>& deltas) {
  reasoning_ += text;
  if (!options_.stream || reasoning_.empty() || (!options_.stream_reasoning && !ends)) return;
  deltas.push_back({{"reasoning_content", std::exchange(reasoning_, {})}});
}

void ChatAnswer::AddContent(const std::string& text, std::vector<Json>& deltas) {
  if (text.empty()) return;
  if (options_.stream) {
    deltas.push_back({{"content", text}});
  } else {
    content_ += text;
  }
}

void ChatAnswer::AddEvents(const std::vector<ToolEvent>& events, std::vector<Json>& deltas) {
  // One call a delta: clients that look at the first of a list miss nothing.
  const auto call_delta = [&](Json fields) {
    Json call = {{"index", begun_calls_ - 1}};
    call.update(fields);
    deltas.push_back({{"tool_calls", Json::array({std::move(call)})}});
  };
  for (const ToolEvent& event : events) {
    switch (event.kind) {
      case ToolEvent::Kind::kContent:
        AddContent(event.text, deltas);
        break;
      case ToolEvent::Kind::kCall:
        ++begun_calls_;
        open_call_ = {.id = Text("call_", RandomName()), .name = event.text, .arguments = {}};
        if (options_.stream) call_delta(ToolCallJson(open_call_));
        break;
      case ToolEvent::Kind::kArguments:
        if (options_.stream) {
          call_delta({{"function", {{"arguments", event.text}}}});
        } else {
          open_call_.arguments += event.text;
        }
        break;
      case ToolEvent::Kind::kEnd:
        ++ended_calls_;
        if (!options_.stream) calls_.push_back(std::exchange(open_call_, {}));
        if (complete()) return;
        break;
      case ToolEvent::Kind::kBroken:
        // A stream can't take back what it has said of the call; its text follows as content.
        open_call_ = {};
        break;
    }
  }
}

Json ChatAnswer::Message() const {
  Json message = {{"role", "assistant"}, {"content", content_}};
  // As with OpenAI: a message that only calls tools has no text.
  if (!calls_.empty() && content_.empty()) message["content"] = nullptr;
  if (options_.reasons && options_.separate_reasoning) message["reasoning_content"] = reasoning_;
  if (!calls_.empty()) {
    message["tool_calls"] = Json::array();
    for (const ToolCall& call : calls_) message["tool_calls"].push_back(ToolCallJson(call));
  }
  message["refusal"] = nullptr;
  return message;
}

}  // namespace causeway
