// A pair of workers answers /generate in two halves: the prefill worker has the prompt's logprobs,
// the decode worker the rest. What the client gets has both.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace causeway {

// The lists of meta_info that are of the prompt.
inline constexpr std::array<std::string_view, 3> kPromptLists = {
    "input_token_logprobs", "input_top_logprobs", "input_token_ids_logprobs"};

// By the index of the prompt: the text between the brackets of each list that there is.
using PromptLogprobs = std::map<int64_t, std::array<std::optional<std::string>, 3>>;

// Of an answer: an object, or a list of them for a batch, or a stream of events, of which the first
// for each index counts. Answers without logprobs give none.
PromptLogprobs ReadPromptLogprobs(std::string_view answer, bool stream);

// An answer that is not a stream, with the prompt's logprobs before its own. What is not JSON is
// left as it is.
std::string MergeAnswer(std::string answer, const PromptLogprobs& prompt);

// The same for a stream, whose pieces may be cut anywhere. Without logprobs it only gathers whole
// events.
class EventMerger {
 public:
  explicit EventMerger(PromptLogprobs prompt) : prompt_(std::move(prompt)) {}
  // The events that are complete now.
  std::string Add(std::string_view piece);
  // What is left at the end of the stream.
  std::string Rest() { return std::move(rest_); }
  // More than fits an event; then nothing more should be added.
  bool too_long() const;

 private:
  const PromptLogprobs prompt_;
  std::string rest_;
};

}  // namespace causeway
