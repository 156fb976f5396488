// One request's answer on its way: what every form of answer has in common.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/request.h"
#include "net/http_server.h"
#include "server/api_error.h"

namespace causeway {

constexpr double kLeastLogprob = -9999;  // JSON has no infinity

// What a request came to, for the log.
struct RequestReport {
  std::string id;         // empty: refused before it got one
  std::string endpoint;   // "/v1/completions"
  int http_status = 200;  // 499: the client went away
  std::string error;
  std::string finish;  // of the first choice: "stop", "length", "abort", or empty
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double ttft_seconds = 0;  // from the request's arrival to the first token; 0: none came
  // Of all choices together, without the first token; 0 with no time between first token and end.
  double decode_tokens_per_s = 0;
  // From arrival to the end of the answer.
  double seconds = 0;
};

// What is known of a request before it runs.
struct ReplyPlan {
  std::string id;  // what the client sees, and what no other reply under way has
  const char* endpoint = "";
  size_t choices = 1;
  int64_t prompt_tokens = 0;  // each prompt once
  bool stream = false;
  // By which clients name choices, where they have names of their own; empty: they have none.
  std::vector<std::string> names = {};
};

// The choices of one request share a reply; each is a request of its own to the engine. Used on the
// io thread only.
//
// This class knows which choices run and when the reply is done: exactly once, when all choices
// have finished, by Fail or by Abandon. After that nothing is written and every call is ignored, as
// tokens may still be on their way. What is written, and in which form, is the derived class's.
class Reply {
 public:
  using Clock = std::chrono::steady_clock;

  Reply(ReplyPlan plan, HttpResponder responder, Clock::time_point arrived);
  virtual ~Reply() = default;
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  const ReplyPlan& plan() const { return plan_; }
  const std::string& id() const { return plan_.id; }
  size_t choices() const { return plan_.choices; }
  bool stream() const { return plan_.stream; }
  // "chatcmpl-...-0": the id the engine knows, by which a choice is cancelled.
  std::string EngineId(size_t index) const;
  // What the engine is to run for choice `index`, without callbacks. The last choice of a prompt
  // takes the prompt itself: call it once per index, in rising order.
  virtual Request EngineRequest(size_t index) = 0;
  // True while the engine owes this choice tokens that are still wanted.
  bool Runs(size_t index) const { return !done_ && !states_[index].finished; }
  bool done() const { return done_; }  // answered, or not to be answered any more

  // Sends the head of a stream. Before the first token, so that the client knows it is served.
  void Begin();
  // Ignored for a choice that does not run. After a stop string the choice no longer runs.
  void OnToken(size_t index, const TokenOutput& output);
  void OnFinish(size_t index, const RequestResult& result);
  // The choice ends with what it has, as somebody asked for.
  void Abort(size_t index);
  // Ends the whole reply: an error answer, or an error event if the stream has begun.
  void Fail(const ApiError& error);
  // The client has gone: nothing is sent, `why` is for the report.
  void Abandon(const ApiError& why);

  // Of use once done() is true: before that, the times are not set.
  RequestReport Report() const;

 protected:
  // From TakeToken or TakeEnd: this choice has all it will get. The last one ends the reply.
  void Finish(size_t index, const std::string& reason);
  // One event of a stream.
  void SendEvent(const std::string& json);
  HttpResponder& responder() { return responder_; }
  // An eos or stop token counts too, for which there was no OnToken.
  int64_t completion_tokens(size_t index) const { return states_[index].completion_tokens; }
  int64_t cached_tokens(size_t index) const { return states_[index].cached_tokens; }
  double SecondsSinceArrival() const;

 private:
  struct State {
    int64_t completion_tokens = 0;
    int64_t cached_tokens = 0;  // of its prompt
    std::string finish;
    bool finished = false;
  };

  // One more token of a running choice.
  virtual void TakeToken(size_t index, const TokenOutput& output) = 0;
  // The engine has ended the choice, or an Abort has (kCancelled); calls Finish.
  virtual void TakeEnd(size_t index, const RequestResult& result) = 0;
  // All choices have finished: the whole answer, or the end of the stream.
  virtual void Complete() = 0;
  virtual HttpResponse ErrorAnswer(const ApiError& error) const = 0;
  // Sends what stands for an error in a stream that has begun; its end follows.
  virtual void SendErrorEvents(const ApiError& error) = 0;

  void End(int http_status, const std::string& error);

  const ReplyPlan plan_;
  HttpResponder responder_;
  const Clock::time_point arrived_;
  Clock::time_point first_token_{};
  Clock::time_point ended_{};
  std::vector<State> states_;
  size_t unfinished_;
  bool begun_ = false;
  bool done_ = false;
  int http_status_ = 200;
  std::string error_;
};

}  // namespace causeway
