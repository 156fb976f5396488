// What SGLang's clients send to /generate, checked and made token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/api_error.h"
#include "server/request_fields.h"
#include "server/text_stream.h"

namespace causeway {

// One prompt with its own parameters.
struct NativePrompt {
  std::vector<int32_t> tokens;
  SamplingParams sampling;  // logprobs >= 0 where return_logprob is set
  std::vector<std::string> stop;
  std::vector<StopRegex> stop_regex;
  bool no_stop_trim = false;
  bool skip_special_tokens = true;
  int64_t stream_interval = 1;  // tokens from one event to the next; the first sends one
  // max_new_tokens 0: the engine makes one token, since a prompt can't end without, and it is
  // dropped.
  bool prefill_only = false;
  int64_t n = 1;  // the same for all prompts
  std::optional<uint64_t> seed;
  std::optional<Bootstrap> bootstrap;  // of its first answer (ReadBootstrap)
};

struct NativeRequest {
  std::string id;  // of the request as a whole
  std::vector<NativePrompt> prompts;
  // Per choice, [prompt * n + i].
  std::vector<std::string> rids;
  std::vector<uint64_t> seeds;
  int64_t n = 1;
  bool list = false;  // the answer is a list, whatever its length
  bool stream = false;
  bool text_in_logprobs = false;

  size_t choices() const { return rids.size(); }
};

// Sets `out`, or returns the first thing that is wrong. Ids that the client does not give are
// random.
std::optional<ApiError> ParseNativeRequest(std::string_view body, const ServedModel& model,
                                           NativeRequest& out);

}  // namespace causeway
