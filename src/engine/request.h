// A request as the engine sees it: token ids in, token ids out. Text is the server's business.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

class TokenGrammar;  // grammar/token_grammar.h

// Added to a token's logit.
struct LogitBias {
  int32_t token = 0;
  double bias = 0.0;
};

struct SamplingParams {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;        // (0, 1]
  int64_t top_k = -1;        // -1 or 0: off
  double min_p = 0.0;        // [0, 1]
  // See engine/logit_changes.h.
  double frequency_penalty = 0.0;   // times how often the answer has the token
  double presence_penalty = 0.0;    // if the answer has it
  double repetition_penalty = 1.0;  // if prompt or answer have it; 1: off
  std::vector<LogitBias> logit_bias = {};
  // The answer is a text of this grammar, if there is one, from the first token `grammar_after` on
  // (< 0: from its start), and ends where the grammar does, whatever ignore_eos says.
  std::shared_ptr<TokenGrammar> grammar = nullptr;
  int32_t grammar_after = -1;
  uint64_t seed = 0;  // random numbers are a function of (seed, position) alone
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  int64_t logprobs = -1;  // -1: none; n >= 0: the token's and the n most likely ones'
  std::vector<int32_t> logprob_ids = {};  // with logprobs >= 0, those of these ids too
  // With logprobs >= 0, also of the prompt's tokens behind this position; < 0: none.
  int64_t prompt_logprobs_from = -1;
};

// An eos or stop token, max_new_tokens, Cancel or the end of the server, a failed step.
enum class FinishReason { kStop, kLength, kCancelled, kError };

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0.0;
};

// One generated token.
struct TokenOutput {
  int32_t token = 0;
  double logprob = 0.0;                   // if asked for
  std::vector<TokenLogprob> top = {};     // if asked for, best first
  std::vector<TokenLogprob> listed = {};  // those of logprob_ids
  int64_t cached_tokens = 0;              // as in RequestResult
  // Of the first token: the prompt's tokens from prompt_logprobs_from + 1 on, if asked for.
  std::shared_ptr<const std::vector<TokenOutput>> prompt = nullptr;
};

// Where a finished request's time went, in seconds.
struct RequestTiming {
  double queue_seconds = 0.0;
  double prefill_seconds = 0.0;  // TTFT = queue + prefill
  double decode_seconds = 0.0;
};

struct RequestResult {
  Status status;  // not ok: kError or kCancelled, with the message for the client
  FinishReason reason = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt: found in the prefix cache, not computed
  int64_t retractions = 0;    // how often it had to give its pages up and wait again
  RequestTiming timing;
  // With kStop, the eos or stop token, for which there was no on_token; else token is -1.
  TokenOutput stop_token = {.token = -1, .top = {}};
};

// Where a rank's time in steps went, since the start. What is missing to the steps' whole time is
// between operations.
struct RankSeconds {
  double compute = 0.0;
  double wait = 0.0;      // for other ranks
  double exchange = 0.0;  // of tokens between experts' ranks
};

// How much an engine has to do, at a moment between two steps.
struct EngineLoad {
  int64_t running = 0;      // requests in prefill or decode
  int64_t waiting = 0;      // submitted and not yet running
  int64_t used_tokens = 0;  // of the KV cache, in whole pages of requests
  int64_t max_total_tokens = 0;
  int64_t max_running_requests = 0;
  // Of the prompts that were last admitted together, the part that was in the prefix cache, 0 to 1.
  double cache_hit_rate = 0.0;
  int64_t retracted = 0;                // of the waiting: those that had to give up their pages
  std::vector<RankSeconds> ranks = {};  // of this host
};

// Callbacks come from the engine thread, in order, on_finish last and exactly once; they must not
// block (post to the io thread).
struct Request {
  std::string id;
  std::vector<int32_t> prompt;  // not empty
  SamplingParams sampling;
  std::function<void(const TokenOutput&)> on_token;  // not called for the eos or stop token
  std::function<void(const RequestResult&)> on_finish;
};

// Which steps a profile is of, and where it goes.
struct ProfileOptions {
  std::string output_dir = {};  // made if it is not there
  std::string prefix = {};      // of the file's name; no slash
  int64_t start_step =
      0;  // steps count from 0, since the start of the engine; the next at the least
  int64_t num_steps = 0;  // after so many it ends by itself; 0: until StopProfile
};
// Gets the file's path, or what is wrong. From any thread.
using ProfileReply = std::function<void(StatusOr<std::string>)>;

// What the server needs of an engine. The engine proper implements it; tests of the server use a
// scripted one.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  // Takes the request, or says why not (queue full, prompt too long with both numbers, empty);
  // then no callback is called. From any thread.
  virtual Status Submit(std::shared_ptr<Request> request) = 0;
  // Ends a request early; its on_finish follows with kCancelled. Unknown ids are ignored. From any
  // thread.
  virtual void Cancel(const std::string& id) = 0;
  // Frees the pages of the prefix cache that no running request uses, before the next step. What is
  // in use stays, and can be found as before: it is right. From any thread.
  virtual void FlushCache() {}
  // Keeps what the ranks of this host do from the next step on; `reply` comes once that is so, with
  // the path that will be written. From any thread, as is the next.
  virtual void StartProfile(const ProfileOptions&, ProfileReply reply) {
    reply(Unavailable("this engine keeps no profiles"));
  }
  // Writes the profile; `reply` comes when the file is there.
  virtual void StopProfile(ProfileReply reply) {
    reply(Unavailable("this engine keeps no profiles"));
  }
  virtual int64_t context_length() const = 0;  // prompt + completion, in tokens
  virtual bool healthy() const = 0;            // false: a step failed or hangs: the process ends
  // For reports and metrics. From any thread.
  virtual EngineLoad load() const { return {}; }
};

}  // namespace causeway
