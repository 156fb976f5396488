// What OpenAI's clients send, checked and made token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/api_error.h"
#include "server/chat_answer.h"
#include "server/field_reader.h"
#include "server/json.h"
#include "server/openai_tools.h"
#include "server/request_fields.h"
#include "server/text_stream.h"
#include "text/chat_format.h"

namespace causeway {

enum class Endpoint { kCompletions, kChat };
const char* PathOf(Endpoint endpoint);  // "/v1/completions"

struct OpenAiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  std::vector<std::vector<int32_t>> prompts;  // one for chat
  std::vector<std::string> echo;              // per prompt, its text; empty unless asked for
  std::vector<bool> hidden_bos;               // per prompt: its first token is not in that text
  SamplingParams sampling;                    // logprobs >= 0 also for a bare "logprobs": true
  std::vector<uint64_t> seeds;                // [prompt * n + i]
  std::vector<Bootstrap> bootstrap;           // per prompt, of its first answer; may be empty
  std::vector<std::string> stop;
  std::vector<StopRegex> stop_regex;
  // max_tokens 0, of completions: the engine makes one token, since a prompt can't end without,
  // and it is dropped.
  bool prefill_only = false;
  bool no_stop_trim = false;        // the answer includes the stop string
  bool skip_special_tokens = true;  // special tokens have no text
  int64_t n = 1;
  ReasoningStart reasoning = ReasoningStart::kContent;
  ChatAnswerOptions answer;
  bool stream = false;
  bool include_usage = false;     // stream_options
  bool continuous_usage = false;  // stream_options: in every event

  size_t choices() const { return seeds.size(); }
};

// `max_tokens` is 16 for completions and what the context leaves for chat, if not given. Sets
// `out`, or returns the first thing that is wrong.
std::optional<ApiError> ParseOpenAiRequest(Endpoint endpoint, std::string_view body,
                                           const ServedModel& model, OpenAiRequest& out);

// The messages of a chat, for `RenderChat`, tools' results in the order of their calls.
std::vector<ChatMessage> ParseMessages(const Json& messages, FirstError& error);

// "messages" as the text of a prompt; empty after an error.
std::string ReadChatPrompt(FieldReader& fields, FirstError& error, ChatFormat format, bool thinking,
                           const ToolFields& tools);

}  // namespace causeway
