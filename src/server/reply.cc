#include "server/reply.h"

#include "base/check.h"

namespace causeway {
namespace {

double Seconds(Reply::Clock::duration span) { return std::chrono::duration<double>(span).count(); }

}  // namespace

Reply::Reply(ReplyPlan plan, HttpResponder responder, Clock::time_point arrived)
    : plan_(std::move(plan)),
      responder_(std::move(responder)),
      arrived_(arrived),
      states_(plan_.choices),
      unfinished_(plan_.choices) {
  CHECK(plan_.choices > 0 && (plan_.names.empty() || plan_.names.size() == plan_.choices),
        plan_.choices);
}

std::string Reply::EngineId(size_t index) const { return Text(plan_.id, "-", index); }

void Reply::Begin() {
  if (!plan_.stream || begun_ || done_) return;
  begun_ = true;
  // The last two keep proxies from collecting events before they pass them on.
  responder_.Begin({.content_type = "text/event-stream",
                    .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
}

void Reply::OnToken(size_t index, const TokenOutput& output) {
  if (!Runs(index)) return;
  // The first token of whichever choice is first: what a client sees as the time to first token.
  if (first_token_ == Clock::time_point{}) first_token_ = Clock::now();
  ++states_[index].completion_tokens;
  states_[index].cached_tokens = output.cached_tokens;
  TakeToken(index, output);
}

void Reply::OnFinish(size_t index, const RequestResult& result) {
  if (!Runs(index)) return;
  if (!result.status.ok()) {
    // One choice's failure is the whole request's: the formats have no error for a single choice.
    Fail(ToApiError(result.status));
    return;
  }
  states_[index].completion_tokens = result.completion_tokens;
  states_[index].cached_tokens = result.cached_tokens;
  TakeEnd(index, result);
}

void Reply::Abort(size_t index) {
  if (!Runs(index)) return;
  RequestResult result;
  result.reason = FinishReason::kCancelled;
  result.completion_tokens = states_[index].completion_tokens;
  TakeEnd(index, result);
}

void Reply::Finish(size_t index, const std::string& reason) {
  State& state = states_[index];
  state.finish = reason;
  state.finished = true;
  if (--unfinished_ > 0) return;
  End(200, "");
  Complete();
}

void Reply::Fail(const ApiError& error) {
  if (done_) return;
  End(error.http_status, error.message);
  // After the head of a stream the status is 200 for good: an event is all that can say it.
  if (begun_) {
    SendErrorEvents(error);
    responder_.End();
  } else {
    responder_.Send(ErrorAnswer(error));
  }
}

void Reply::Abandon(const ApiError& why) {
  if (!done_) End(why.http_status, why.message);
}

void Reply::End(int http_status, const std::string& error) {
  done_ = true;
  ended_ = Clock::now();
  http_status_ = http_status;
  error_ = error;
}

void Reply::SendEvent(const std::string& json) { responder_.Write(Text("data: ", json, "\n\n")); }

double Reply::SecondsSinceArrival() const { return Seconds(Clock::now() - arrived_); }

RequestReport Reply::Report() const {
  RequestReport out;
  out.id = plan_.id;
  out.endpoint = plan_.endpoint;
  out.http_status = http_status_;
  out.error = error_;
  out.finish = states_.front().finish;
  out.prompt_tokens = plan_.prompt_tokens;
  for (const State& state : states_) out.completion_tokens += state.completion_tokens;
  out.seconds = Seconds(ended_ - arrived_);
  if (first_token_ != Clock::time_point{}) {
    out.ttft_seconds = Seconds(first_token_ - arrived_);
    const double decode = Seconds(ended_ - first_token_);
    if (decode > 0) {
      // The first token belongs to the prefill, so a decode rate counts those after it.
      out.decode_tokens_per_s = static_cast<double>(out.completion_tokens - 1) / decode;
    }
  }
  return out;
}

}  // namespace causeway
