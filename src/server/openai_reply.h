// Tokens in, OpenAI's JSON or event stream out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "net/http_server.h"
#include "server/api_error.h"
#include "server/chat_answer.h"
#include "server/openai_request.h"
#include "server/reply.h"
#include "server/text_stream.h"
#include "text/detokenizer.h"

namespace causeway {

// Used on the io thread only.
class OpenAiReply : public Reply {
 public:
  // `model` and its tokenizer must outlive this; `id` is what the client sees.
  OpenAiReply(std::string id, OpenAiRequest request, const ServedModel& model,
              HttpResponder responder, Clock::time_point arrived);

  Request EngineRequest(size_t index) override;

 private:
  struct Logprob {
    TokenOutput token;
    int64_t offset;     // characters of the answer before it; below 0 in the prompt
    bool none = false;  // a prompt's first token has no log-probability
  };
  struct Choice {
    explicit Choice(TextStream stream) : text(std::move(stream)) {}
    TextStream text;
    std::string answer;  // of a completion that is not streamed
    std::optional<ChatAnswer> chat;
    std::vector<Logprob> logprobs;  // not yet sent
    std::string finish;             // "stop", "length", "tool_calls", "abort"
    bool started = false;           // something of it has been streamed
    TextPiece held;                 // for the next event of the stream
    int64_t until_event = 0;        // tokens before the one that sends it
  };

  // Puts the prompt's log-probabilities first, if the token brings them.
  void TakePrompt(size_t index, const TokenOutput& output);
  void TakeToken(size_t index, const TokenOutput& output) override;
  void TakeEnd(size_t index, const RequestResult& result) override;
  void Complete() override;
  HttpResponse ErrorAnswer(const ApiError& error) const override { return ErrorResponse(error); }
  void SendErrorEvents(const ApiError& error) override { SendEvent(Dump(ErrorJson(error))); }

  bool chat() const { return request_.endpoint == Endpoint::kChat; }
  // Text of one more token; it waits where events have several.
  void TakeText(Choice& choice, size_t index, const TextPiece& piece);
  // Passes text on: to the stream, or to the answer that is being collected.
  void Take(Choice& choice, size_t index, TextPiece piece);
  void Stream(size_t index, std::vector<Json> deltas);
  // Sends what is left of a choice and finishes it.
  void EndChoice(size_t index, const std::string& reason, TextPiece tail);

  // JSON.
  Json Envelope() const;  // id, object, created, model
  Json Usage() const;
  int64_t CachedTokens() const;
  Json Logprobs(Choice& choice) const;  // and forgets them
  Json TokenJson(int32_t token, double logprob) const;
  std::string LegacyToken(int32_t token) const;
  Json WholeChoice(size_t index);
  void StreamChoice(size_t index, Json content, Json logprobs, Json finish);

  OpenAiRequest request_;
  const ServedModel& model_;
  const int64_t created_;
  std::vector<int32_t> first_tokens_;  // of the prompts
  std::vector<Choice> choices_;
};

}  // namespace causeway
