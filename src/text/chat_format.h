// Messages to the prompt text of DeepSeek V3, V3.1 and V3.2.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

enum class ChatFormat { kV3, kV31, kV32 };

// A call that an assistant's message made.
struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text
};

struct ChatMessage {
  std::string role;  // system, user, developer (V3.2), assistant, tool
  std::string content;
  std::string reasoning_content;     // assistant only
  std::vector<ToolCall> tool_calls;  // assistant only
  std::string tool_call_id;          // tool only
};

// Beside the messages. What a format does not have is refused, never ignored.
struct ChatOptions {
  bool thinking = false;
  std::vector<std::string> tools;  // each a JSON object {"name", "description", "parameters"}
  std::string response_schema;     // JSON text; V3.2 only; empty: none
  // The conversation may end with the assistant's message and is rendered whole, with no place for
  // another reply (to score or compare texts).
  bool finished = false;
};

// "v3", "v3.1", "v3.2" to the format; an error lists the names.
StatusOr<ChatFormat> ParseChatFormat(const std::string& name);

// The whole prompt, BOS text included, ending where the assistant's reply starts. Errors name the
// message's index and field: unknown role, empty list, a tool message without a preceding call, ...
StatusOr<std::string> RenderChat(ChatFormat format, const std::vector<ChatMessage>& messages,
                                 const ChatOptions& options);

}  // namespace causeway
