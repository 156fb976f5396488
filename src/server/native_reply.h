// Tokens in, the JSON or event stream of SGLang's /generate out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/json.h"
#include "server/native_request.h"
#include "server/reply.h"
#include "server/text_stream.h"

namespace causeway {

constexpr const char* kGeneratePath = "/generate";

// {"error": {"message", "type", "code", "param", "retryable"}}: SGLang's form, with the field's
// name beside it.
HttpResponse NativeErrorResponse(const ApiError& error);

// Used on the io thread only.
class NativeReply : public Reply {
 public:
  // `model` and its tokenizer must outlive this.
  NativeReply(NativeRequest request, const ServedModel& model, HttpResponder responder,
              Clock::time_point arrived);

  Request EngineRequest(size_t index) override;

 private:
  // An event holds the whole answer so far. Its long parts are kept as JSON text that only grows,
  // so that an event costs a copy and no more.
  struct Choice {
    explicit Choice(TextStream stream) : text(std::move(stream)) {}
    TextStream text;
    int64_t prompt_tokens = 0;
    std::string answer;        // the inside of a JSON string
    std::string ids;           // the inside of a list, as are the next two
    std::string logprobs;      // [logprob, id, text or null]
    std::string top_logprobs;  // lists of those
    std::string id_logprobs;   // the same, of token_ids_logprob
    // The same of the prompt, from logprob_start_len on.
    std::string input_logprobs, input_top_logprobs, input_id_logprobs;
    int32_t first_input = -1;  // the first of these tokens, which has none
    int64_t logprob_count = 0;
    int64_t until_event = 0;  // tokens before the one that sends the next
    Json finish_reason;       // null while it runs
    double e2e_latency = 0;
  };

  void TakeToken(size_t index, const TokenOutput& output) override;
  void TakeEnd(size_t index, const RequestResult& result) override;
  void Complete() override;
  HttpResponse ErrorAnswer(const ApiError& error) const override {
    return NativeErrorResponse(error);
  }
  void SendErrorEvents(const ApiError& error) override;

  const NativePrompt& prompt(size_t index) const {
    return request_.prompts[index / static_cast<size_t>(request_.n)];
  }
  // Adds a token to the lists of ids and log-probabilities.
  void AddToken(size_t index, const TokenOutput& output);
  // Fills the lists of the prompt, if the token brings them.
  void AddInput(size_t index, const TokenOutput& output);
  // "[[logprob, id, text or null],...]"
  std::string ListText(const std::vector<TokenLogprob>& list) const;
  void EndChoice(size_t index, Json finish_reason);
  // What was held back: at the end of the answer.
  void AddText(Choice& choice, const TextPiece& piece);
  // [logprob, id, text or null]
  std::string LogprobText(int32_t token, double logprob) const;
  // {"text", "output_ids", "meta_info"}; with "index" in a stream of several.
  std::string ChoiceText(size_t index) const;

  NativeRequest request_;
  const ServedModel& model_;
  std::vector<Choice> choices_;
};

}  // namespace causeway
