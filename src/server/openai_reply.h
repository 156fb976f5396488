// One request's answer on its way: tokens in, OpenAI's JSON or event stream out.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "net/http_server.h"
#include "server/api_error.h"
#include "server/openai_request.h"
#include "server/text_stream.h"

namespace causeway {

// What a request came to, for the log and for metrics.
struct RequestReport {
  std::string id;         // empty: refused before it got one
  std::string endpoint;   // "/v1/completions"
  int http_status = 200;  // 499: the client went away
  std::string error;
  std::string finish;  // of the first choice: "stop", "length", or empty
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double ttft_seconds = 0;  // from the request's arrival to the first token; 0: none came
  // Of all choices together, without the first token; 0 with no time between first token and end.
  double decode_tokens_per_s = 0;
  // From arrival to the end of the answer.
  double seconds = 0;
};

// The choices of one request share a reply; each is a request of its own to the engine. Used on the
// io thread only.
class OpenAiReply {
 public:
  using Clock = std::chrono::steady_clock;

  // `model` and its tokenizer must outlive this; `id` is what the client sees.
  OpenAiReply(std::string id, OpenAiRequest request, const ServedModel& model,
              HttpResponder responder, Clock::time_point arrived);

  const std::string& id() const { return id_; }
  size_t choices() const { return choices_.size(); }
  // What the engine is to run for choice `index`, without callbacks. The last choice of a prompt
  // takes the prompt itself: call it once per index, in rising order.
  Request EngineRequest(size_t index);
  // "chatcmpl-...-0": the id the engine knows, by which a choice is cancelled.
  std::string EngineId(size_t index) const;
  // True while the engine owes this choice tokens that are still wanted.
  bool Runs(size_t index) const { return !done_ && !choices_[index].finished; }
  bool done() const { return done_; }  // answered, or not to be answered any more

  // Sends the head of a stream. Before the first token, so that the client knows it is served.
  void Begin();
  // Ignored for a choice that does not run. After a stop string the choice no longer runs.
  void OnToken(size_t index, const TokenOutput& output);
  void OnFinish(size_t index, const RequestResult& result);
  // Ends the whole reply: an error answer, or an error event if the stream has begun.
  void Fail(const ApiError& error);
  // The client has gone: nothing is sent, `why` is for the report.
  void Abandon(const ApiError& why);

  // Of use once done() is true: before that, the times are not set.
  RequestReport Report() const;

 private:
  struct Logprob {
    TokenOutput token;
    int64_t offset;  // characters of the answer before it
  };
  struct Choice {
    explicit Choice(TextStream stream) : text(std::move(stream)) {}
    TextStream text;
    TextPiece answer;               // of a reply that is not streamed
    std::vector<Logprob> logprobs;  // not yet sent
    std::string finish;             // "stop", "length"
    int64_t completion_tokens = 0;
    int64_t cached_tokens = 0;  // of its prompt
    bool started = false;       // something of it has been streamed
    bool finished = false;
  };

  bool chat() const { return request_.endpoint == Endpoint::kChat; }
  // Passes text on: to the stream, or to the answer that is being collected.
  void Take(Choice& choice, size_t index, TextPiece piece);
  // Ends one choice; the last one ends the reply.
  void Finish(size_t index, const std::string& reason, TextPiece tail);
  void Complete();

  // JSON.
  Json Envelope() const;  // id, object, created, model
  Json Usage() const;
  int64_t CachedTokens() const;
  Json Logprobs(Choice& choice) const;  // and forgets them
  Json TokenJson(int32_t token, double logprob) const;
  std::string LegacyToken(int32_t token) const;
  Json WholeChoice(size_t index);
  void StreamChoice(size_t index, Json content, Json logprobs, Json finish);
  void SendEvent(const Json& json);

  const std::string id_;
  OpenAiRequest request_;
  const ServedModel& model_;
  HttpResponder responder_;
  const int64_t created_;
  const Clock::time_point arrived_;
  Clock::time_point first_token_{};
  Clock::time_point ended_{};
  std::vector<Choice> choices_;
  int64_t prompt_tokens_ = 0;
  size_t unfinished_;
  bool begun_ = false;
  bool done_ = false;
  int http_status_ = 200;
  std::string error_;
};

}  // namespace causeway
