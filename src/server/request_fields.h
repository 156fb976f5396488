// Fields that requests of several APIs have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/field_reader.h"
#include "server/reasoning_parser.h"
#include "server/tool_call_parser.h"
#include "text/chat_format.h"
#include "text/tokenizer.h"

namespace causeway {

class GrammarStore;

uint64_t RandomSeed();

// What requests are checked against. The tokenizer and the grammars must outlive it.
struct ServedModel {
  std::string name;
  const Tokenizer& tokenizer;
  ChatFormat chat_format = ChatFormat::kV3;
  int64_t context_length = 0;  // prompt and answer, in tokens
  int64_t vocab_size = 0;      // ids of prompts are below this
  int32_t bos_token = -1;      // before a text prompt that does not start with it; -1: none
  int64_t max_choices = 512;   // prompts x n of one request
  // How its answers call tools and reason.
  ToolCallFormat tool_call_format = ToolCallFormatOf(chat_format);
  ReasoningFormat reasoning_format = ReasoningFormat::kDeepSeekV3;
  GrammarStore* grammars = nullptr;  // of constrained answers; null: there are none
  ServerRole role = ServerRole::kCombined;
  int64_t stream_interval = 1;  // tokens from one event of a stream to the next
  // Seeds of requests without one; called on the thread that parses requests.
  std::function<uint64_t()> next_seed = &RandomSeed;
};

// Every call gives the next of the numbers that follow from `seed`.
std::function<uint64_t()> SeedsFrom(uint64_t seed);

constexpr int64_t kMaxChoicesPerPrompt = 128;

// 24 hexadecimal digits that no other request has.
std::string RandomName();

// Ids of the model's vocabulary; none after an error. `where` is for messages, "prompt[3]".
std::vector<int32_t> ReadTokens(FieldReader& fields, std::string_view field, const Json& list,
                                const std::string& where, int64_t vocab_size);

// One string or a list of at most `max` of them, none empty.
std::vector<std::string> ReadStopStrings(FieldReader& fields, std::string_view field, int64_t max);

std::vector<int32_t> ReadStopTokens(FieldReader& fields, std::string_view field,
                                    int64_t vocab_size);

// The room `count` behind one; after the last comes room 0.
int64_t RoomBehind(int64_t room, uint64_t count);

// "bootstrap_host", "bootstrap_port" and "bootstrap_room", by which a prefill and a decode server
// know a request of both: lists with a value for each prompt, or one value for all, of which answer
// i takes the room plus i, as with SGLang. By prompt: the first of its `n` answers has this room,
// the others those behind it. Empty if there is no room: a server of either role needs one, others
// refuse it.
std::vector<Bootstrap> ReadBootstrap(FieldReader& fields, ServerRole role, size_t prompts,
                                     int64_t n);

// A text prompt's ids, with the BOS token in front.
std::vector<int32_t> EncodePrompt(const ServedModel& model, const std::string& text);

}  // namespace causeway
