#include "app/serving_load.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

namespace causeway {
namespace {

// std::mt19937_64 gives the same numbers everywhere; the library's distributions need not.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  // [low, high], both included
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  // (0, 1]
  double Unit() { return (static_cast<double>(engine_() >> 11) + 1) * 0x1p-53; }
  size_t Below(size_t count) { return engine_() % count; }

 private:
  std::mt19937_64 engine_;
};

// Common words, most of which are a token each.
constexpr const char* kWords[] = {
    "the",  "of",   "and", "to",    "in",  "for",  "is",   "on",  "that",   "by",
    "this", "with", "you", "it",    "not", "or",   "be",   "are", "from",   "at",
    "as",   "your", "all", "have",  "new", "more", "an",   "was", "we",     "will",
    "home", "can",  "us",  "about", "if",  "page", "my",   "has", "search", "free",
    "but",  "our",  "one", "other", "do",  "no",   "time", "they"};

void AppendTokens(std::vector<int32_t>& tokens, int64_t count, int64_t vocab_size, Dice& dice) {
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(dice.Between(0, vocab_size - 1)));
  }
}

std::vector<ServingPrompt> RandomPrompts(const ServingLoadFlags& flags, int64_t vocab, Dice& dice) {
  const auto length = [&](int64_t longest) {
    const auto least =
        static_cast<int64_t>(static_cast<double>(longest) * flags.random_range_ratio);
    return dice.Between(std::clamp<int64_t>(least, 1, longest), longest);
  };
  std::vector<ServingPrompt> out(static_cast<size_t>(flags.num_prompts));
  for (ServingPrompt& prompt : out) {
    AppendTokens(prompt.tokens, length(flags.random_input_len), vocab, dice);
    prompt.output_len = length(flags.random_output_len);
  }
  return out;
}

// In random order, so that prompts of a group do not come one after another.
std::vector<ServingPrompt> GroupedPrompts(const ServingLoadFlags& flags, int64_t vocab,
                                          Dice& dice) {
  std::vector<ServingPrompt> out;
  for (int64_t group = 0; group < flags.gsp_num_groups; ++group) {
    std::vector<int32_t> system;
    AppendTokens(system, flags.gsp_system_prompt_len, vocab, dice);
    for (int64_t i = 0; i < flags.gsp_prompts_per_group; ++i) {
      ServingPrompt prompt{.tokens = system, .output_len = flags.gsp_output_len};
      AppendTokens(prompt.tokens, flags.gsp_question_len, vocab, dice);
      out.push_back(std::move(prompt));
    }
  }
  for (size_t i = out.size(); i > 1; --i) std::swap(out[i - 1], out[dice.Below(i)]);
  return out;
}

}  // namespace

StatusOr<std::vector<ServingPrompt>> MakeServingLoad(const ServingLoadFlags& flags,
                                                     int64_t vocab_size) {
  if (vocab_size < 1) {
    return InvalidArgument(Text("the vocabulary has ", vocab_size, " tokens; expected 1 or more"));
  }
  const bool grouped = flags.dataset_name == "generated-shared-prefix";
  if (!grouped && flags.dataset_name != "random") {
    return InvalidArgument(Text("--dataset-name is ", flags.dataset_name,
                                "; expected random or generated-shared-prefix"));
  }
  // All prompts are held in memory, as ids and as text.
  constexpr double kMostTokens = 1e9;
  const auto product = [](int64_t a, int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  const double tokens =
      grouped ? product(flags.gsp_num_groups, flags.gsp_prompts_per_group) *
                    static_cast<double>(flags.gsp_system_prompt_len + flags.gsp_question_len)
              : product(flags.num_prompts, flags.random_input_len);
  if (tokens > kMostTokens) {
    return InvalidArgument(Text("the prompts would have up to ", tokens, " tokens in all; at most ",
                                kMostTokens, " are possible: fewer or shorter ones"));
  }
  Dice dice(flags.seed);
  std::vector<ServingPrompt> out =
      grouped ? GroupedPrompts(flags, vocab_size, dice) : RandomPrompts(flags, vocab_size, dice);
  double start = 0;
  for (ServingPrompt& prompt : out) {
    prompt.start_seconds = start;
    // The times between arrivals of a Poisson process are exponential.
    if (flags.request_rate > 0) start += -std::log(dice.Unit()) / flags.request_rate;
  }
  return out;
}

const char* ServingPath(ServingBackend backend) {
  switch (backend) {
    case ServingBackend::kOpenAi:
      return "/v1/completions";
    case ServingBackend::kOpenAiChat:
      return "/v1/chat/completions";
    case ServingBackend::kNative:
      return "/generate";
  }
  return "";
}

std::string ServingBody(const ServingPrompt& prompt, const ServingBodyOptions& options) {
  if (options.backend == ServingBackend::kNative) {
    return nlohmann::json{{"input_ids", prompt.tokens},
                          {"sampling_params",
                           {{"temperature", 0},
                            {"max_new_tokens", prompt.output_len},
                            {"ignore_eos", options.ignore_eos}}},
                          {"stream", options.stream}}
        .dump();
  }
  nlohmann::json body = {{"temperature", 0}, {"ignore_eos", options.ignore_eos}};
  if (!options.model.empty()) body["model"] = options.model;
  if (options.stream) {
    body["stream"] = true;
    // How many tokens an event brings can't be told from its text.
    body["stream_options"] = {{"include_usage", true}, {"continuous_usage_stats", true}};
  }
  if (options.backend == ServingBackend::kOpenAi) {
    body["prompt"] = prompt.tokens;
    body["max_tokens"] = prompt.output_len;
    return body.dump();
  }
  std::string text;
  for (const int32_t token : prompt.tokens) {
    if (!text.empty()) text += ' ';
    text += kWords[static_cast<size_t>(token) % std::size(kWords)];
  }
  body["messages"] = nlohmann::json::array({{{"role", "user"}, {"content", text}}});
  body["max_completion_tokens"] = prompt.output_len;
  return body.dump();
}

}  // namespace causeway
