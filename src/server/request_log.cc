#include "server/request_log.h"

#include "base/log.h"

namespace causeway {
namespace {

constexpr size_t kPartTokens = 256;  // of each end

const char* NameOf(FinishReason reason, bool stop_string) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return stop_string ? "stop_string" : "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

}  // namespace

std::string RequestLog::TextOf(const std::vector<int32_t>& tokens) const {
  if (level_ == RequestLogLevel::kWhole || tokens.size() <= 2 * kPartTokens) {
    return tokenizer_.Decode(tokens, /*skip_special=*/false);
  }
  const auto part = static_cast<int64_t>(kPartTokens);
  return Text(tokenizer_.Decode({tokens.begin(), tokens.begin() + part}, false), " [",
              tokens.size() - 2 * kPartTokens, " tokens] ",
              tokenizer_.Decode({tokens.end() - part, tokens.end()}, false));
}

void RequestLog::Received(Key key, const char* endpoint, bool stream, const Request& request) {
  open_[key].id = request.id;
  LogLine line("request_received");
  line.Add("id", request.id)
      .Add("endpoint", endpoint)
      .Add("stream", stream ? "yes" : "no")
      .Add("prompt_tokens", request.prompt.size());
  if (level_ >= RequestLogLevel::kSampling) {
    const SamplingParams& sampling = request.sampling;
    line.Add("max_new_tokens", sampling.max_new_tokens)
        .Add("min_new_tokens", sampling.min_new_tokens)
        .Add("temperature", sampling.temperature)
        .Add("top_p", sampling.top_p)
        .Add("top_k", sampling.top_k)
        .Add("min_p", sampling.min_p)
        .Add("seed", sampling.seed)
        .Add("ignore_eos", sampling.ignore_eos ? "yes" : "no")
        .Add("stop_token_ids", sampling.stop_token_ids.size())
        .Add("logprobs", sampling.logprobs);
  }
  if (level_ >= RequestLogLevel::kPart) line.Add("prompt", TextOf(request.prompt));
}

void RequestLog::Token(Key key, const TokenOutput& output) {
  if (level_ < RequestLogLevel::kPart) return;
  if (const auto found = open_.find(key); found != open_.end()) {
    found->second.output.push_back(output.token);
  }
}

void RequestLog::StopString(Key key) {
  if (const auto found = open_.find(key); found != open_.end()) found->second.stop_string = true;
}

void RequestLog::Finished(Key key, const RequestResult& result) {
  const auto found = open_.find(key);
  if (found == open_.end()) return;
  const Open& open = found->second;
  LogLine line("request_finished");
  line.Add("id", open.id)
      .Add("finish", NameOf(result.reason, open.stop_string))
      .Add("prompt_tokens", result.prompt_tokens)
      .Add("cached_tokens", result.cached_tokens)
      .Add("completion_tokens", result.completion_tokens)
      .Add("retractions", result.retractions)
      .AddSeconds("queue_s", result.timing.queue_seconds)
      .AddSeconds("prefill_s", result.timing.prefill_seconds)
      .AddSeconds("decode_s", result.timing.decode_seconds);
  if (result.reason == FinishReason::kError) line.Add("error", result.status.message());
  if (level_ >= RequestLogLevel::kPart) line.Add("output", TextOf(open.output));
  open_.erase(found);
}

}  // namespace causeway
