// What the chat formats share. Not for use outside chat_format*.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/chat_format.h"
#include "text/json_value.h"

namespace causeway {

// The special tokens that the formats use, by their texts.
inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";

// An error about a field of a message: "messages[3].role: found ..., expected ...".
Status MessageError(size_t index, std::string_view field, const std::string& found,
                    const std::string& expected);

// The tools as JSON; errors name the tool: not JSON, no object, no name.
StatusOr<std::vector<JsonValue>> ParseTools(const ChatOptions& options);

// The contents of all system messages, a blank line between them.
std::string JoinSystem(const std::vector<ChatMessage>& messages);

// Each takes messages that RenderChat has checked.
StatusOr<std::string> RenderV3(const std::vector<ChatMessage>& messages,
                               const ChatOptions& options);
StatusOr<std::string> RenderV31(const std::vector<ChatMessage>& messages,
                                const ChatOptions& options);
StatusOr<std::string> RenderV32(const std::vector<ChatMessage>& messages,
                                const ChatOptions& options);

}  // namespace causeway
