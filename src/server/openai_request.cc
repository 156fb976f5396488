// A request is read field by field in groups. Reading goes on after an error, since only the first
// one is kept; what is expensive or needs all fields (tokenising, lengths, seeds) comes last and
// only without one. A field that no group has named is refused at the end: a misspelt name must not
// silently change an answer.
#include "server/openai_request.h"

#include <algorithm>

#include "server/field_reader.h"
#include "server/grammar_store.h"
#include "server/openai_tools.h"
#include "server/sampling_fields.h"
#include "server/tool_grammar.h"

namespace causeway {
namespace {

// What a completion gets without max_tokens, as with OpenAI.
constexpr int64_t kDefaultCompletionTokens = 16;
constexpr int64_t kMaxStops = 16;
constexpr int64_t kMaxLogprobs = 20;
constexpr double kMaxTemperature = 100;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// One parse: the fields of the request in groups, the first error kept.
class Parser {
 public:
  Parser(Endpoint endpoint, const Json& json, const ServedModel& model, FirstError& error)
      : model_(model), error_(error), fields_(json, "", error) {
    out_.endpoint = endpoint;
  }

  OpenAiRequest Run() {
    const bool chat = out_.endpoint == Endpoint::kChat;
    ReadModel();
    ReadSampling();
    ReadStop();
    ReadStream();
    if (chat) {
      ReadChat();
    } else {
      ReadCompletion();
    }
    ReadConstrained();
    out_.bootstrap = ReadBootstrap(fields_, model_.role, out_.prompts.size(), out_.n);
    // After the known fields, so that these calls name the rest of what OpenAI's clients may send;
    // then Finish() refuses what is left.
    RefuseUnsupported();
    fields_.Finish();
    if (error_.ok()) CheckLength();
    if (error_.ok()) ChooseSeeds();
    return std::move(out_);
  }

 private:
  void ReadModel() {
    std::string name;
    // The only error with a status of its own: 404, by which clients tell a wrong name from bad
    // input.
    if (fields_.String("model", name) && name != model_.name) {
      error_.Set({.http_status = 404,
                  .message = Text("there is no model ", DescribeJson(Json(name)),
                                  "; this server has ", Dump(Json(model_.name))),
                  .param = "model",
                  .code = "model_not_found"});
    }
  }

  void ReadSampling() {
    SamplingParams& sampling = out_.sampling;
    fields_.Number("temperature", {.max = kMaxTemperature}, sampling.temperature);
    fields_.Number("top_p", {.max = 1, .above_min = true}, sampling.top_p);
    fields_.Integer("top_k", -1, kNoLimit, sampling.top_k);
    fields_.Number("min_p", {.max = 1}, sampling.min_p);
    ReadPenalties(fields_, model_, sampling);
    fields_.Integer("min_tokens", 0, kNoLimit, sampling.min_new_tokens);
    fields_.Bool("ignore_eos", sampling.ignore_eos);
    fields_.Integer("n", 1, kMaxChoicesPerPrompt, out_.n);
    // Any int64 is a seed; negative ones wrap, which is as good as any other number.
    int64_t seed = 0;
    seed_given_ = fields_.Integer("seed", std::numeric_limits<int64_t>::min(), kNoLimit, seed);
    seed_ = static_cast<uint64_t>(seed);
    // None at all are of use beside "echo" and "logprobs".
    const int64_t fewest = out_.endpoint == Endpoint::kChat ? 1 : 0;
    max_tokens_given_ = fields_.Integer("max_tokens", fewest, kNoLimit, sampling.max_new_tokens);
    if (out_.endpoint == Endpoint::kChat) {
      // The newer name of max_tokens in the chat API. Both may be there if they agree.
      int64_t newer = 0;
      if (fields_.Integer("max_completion_tokens", 1, kNoLimit, newer)) {
        if (max_tokens_given_ && newer != sampling.max_new_tokens) {
          fields_.Fail("max_tokens",
                       Text("max_tokens is ", sampling.max_new_tokens,
                            " and max_completion_tokens is ", newer, "; send one of them"));
        }
        sampling.max_new_tokens = newer;
        max_tokens_given_ = true;
        max_tokens_name_ = "max_completion_tokens";
      }
    }
  }

  void ReadStop() {
    fields_.Bool("skip_special_tokens", out_.skip_special_tokens);
    // SGLang's name and vLLM's.
    fields_.Bool("no_stop_trim", out_.no_stop_trim);
    fields_.Bool("include_stop_str_in_output", out_.no_stop_trim);
    out_.stop_regex = ReadStopRegexes(fields_);
    out_.stop = ReadStopStrings(fields_, "stop", kMaxStops);
    out_.sampling.stop_token_ids = ReadStopTokens(fields_, "stop_token_ids", model_.vocab_size);
  }

  // In thinking mode it is the content that the constraint is about, after </think>.
  void ReadConstrained() {
    const auto forced = out_.sampling.grammar;  // by tool_choice
    ReadConstraint(fields_, model_, {.response_format = true}, error_, out_.sampling);
    if (forced != nullptr && out_.sampling.grammar != forced) {
      fields_.Fail("tool_choice",
                   "tool_choice forces a call, which no response_format, regex or ebnf can have a "
                   "say in; send one of them");
      return;
    }
    if (out_.sampling.grammar == nullptr || out_.reasoning != ReasoningStart::kReasoning) return;
    const std::optional<int32_t> end = model_.tokenizer.TokenId("</think>");
    if (!end) {
      fields_.Fail("response_format",
                   "a constrained answer after reasoning needs a tokenizer with a token </think>");
    } else {
      out_.sampling.grammar_after = *end;
    }
  }

  void ReadStream() {
    fields_.Bool("stream", out_.stream);
    const Json* options = fields_.Any("stream_options");
    if (options == nullptr) return;
    // As OpenAI does: options of a stream that was not asked for are a mistake.
    if (!out_.stream) fields_.Fail("stream_options", "stream_options needs \"stream\": true");
    FieldReader reader(*options, "stream_options", error_);
    reader.Bool("include_usage", out_.include_usage);
    reader.Bool("continuous_usage_stats", out_.continuous_usage);
    reader.NeutralOnly("include_obfuscation", {false});
    reader.Finish();
  }

  // One string or one list of ids.
  void AddPrompt(const Json& prompt, const std::string& where, bool echo) {
    std::vector<int32_t> ids;
    std::string text;
    bool hidden = false;  // its BOS token
    if (prompt.is_string()) {
      text = prompt.get<std::string>();
      ids = EncodePrompt(model_, text);
      hidden =
          model_.bos_token >= 0 && !text.starts_with(model_.tokenizer.TokenBytes(model_.bos_token));
    } else if (prompt.is_array()) {
      ids = ReadTokens(fields_, "prompt", prompt, where, model_.vocab_size);
      // Ids have no text of their own: what they stand for is echoed.
      if (echo) text = model_.tokenizer.Decode(ids);
    } else {
      fields_.Fail("prompt", Text(where, " is ", DescribeJson(prompt),
                                  "; expected a string or a list of token ids"));
    }
    if (ids.empty()) fields_.Fail("prompt", Text(where, " is empty"));
    out_.prompts.push_back(std::move(ids));
    if (!echo) return;
    out_.echo.push_back(std::move(text));
    out_.hidden_bos.push_back(hidden);
  }

  void ReadCompletion() {
    bool echo = false;
    fields_.Bool("echo", echo);
    if (fields_.Integer("logprobs", 0, kMaxLogprobs, out_.sampling.logprobs) && echo) {
      out_.sampling.prompt_logprobs_from = 0;
    }
    const Json* prompt = fields_.Any("prompt");
    if (prompt == nullptr) {
      fields_.Fail("prompt", "prompt is missing");
      return;
    }
    // "prompt" has four forms: a string, a list of ids, a list of strings, a list of lists of ids.
    // The first element tells the last two from a list of ids.
    const bool list = prompt->is_array() && !prompt->empty() &&
                      (prompt->front().is_string() || prompt->front().is_array());
    const auto count = list ? static_cast<int64_t>(prompt->size()) : 1;
    if (count * out_.n > model_.max_choices) {
      fields_.Fail("prompt",
                   Text("the request has ", count, " prompts with n ", out_.n, " each; at most ",
                        model_.max_choices, " answers to one request are allowed"));
    }
    if (!error_.ok()) return;  // before the work of tokenising
    if (!list) {
      AddPrompt(*prompt, "prompt", echo);
      return;
    }
    for (const Json& one : *prompt) {
      AddPrompt(one, Text("prompt[", out_.prompts.size(), "]"), echo);
      if (!error_.ok()) return;
    }
  }

  void ReadChat() {
    bool logprobs = false;
    int64_t top = 0;
    fields_.Bool("logprobs", logprobs);
    if (fields_.Integer("top_logprobs", 0, kMaxLogprobs, top) && top > 0 && !logprobs) {
      fields_.Fail("top_logprobs", "top_logprobs needs \"logprobs\": true");
    }
    // For chat, "logprobs" says whether and "top_logprobs" how many; the engine knows one number.
    if (logprobs) out_.sampling.logprobs = top;
    const ThinkingFields thinking = ReadThinking(fields_, error_);
    const ToolFields tools = ReadTools(fields_, error_);
    if (out_.n > model_.max_choices) {
      fields_.Fail("n", Text("n is ", out_.n, "; at most ", model_.max_choices,
                             " answers to one request are allowed"));
    }
    const std::string text =
        ReadChatPrompt(fields_, error_, model_.chat_format, thinking.thinking, tools);
    if (!error_.ok()) return;
    out_.reasoning = StartOfAnswer(model_.reasoning_format, thinking.thinking, text);
    out_.answer = {.stream = out_.stream,
                   .reasons = out_.reasoning != ReasoningStart::kContent || thinking.thinking,
                   .separate_reasoning = thinking.separate,
                   .stream_reasoning = thinking.stream,
                   .parallel_tool_calls = tools.parallel};
    if (tools.offered()) {
      out_.answer.tools = model_.tool_call_format;
      out_.answer.tool_names = tools.names;
    }
    if (tools.forced()) ForceCalls(tools);
    out_.prompts.push_back(model_.tokenizer.Encode(text));
    if (out_.prompts.front().empty()) fields_.Fail("messages", "the prompt has no tokens");
  }

  // "tool_choice" "required", or a tool's name: constrained decoding leaves the model nothing else.
  void ForceCalls(const ToolFields& tools) {
    if (model_.grammars == nullptr) {
      fields_.Fail("tool_choice", "tool_choice: this server has no constrained answers");
      return;
    }
    std::string key = Text("tool calls ", NameOf(model_.tool_call_format), " ", tools.named,
                           tools.parallel ? " several" : " one");
    for (const std::string& function : tools.functions) key += Text("\n", function);
    const ToolCallFormat format = model_.tool_call_format;
    const auto grammar = model_.grammars->Of(key, [&] { return ToolCallGrammar(format, tools); });
    if (grammar.ok()) {
      out_.sampling.grammar = *grammar;
    } else {
      fields_.Fail("tool_choice", Text("tool_choice: ", grammar.status().message()));
    }
  }

  // Fields of OpenAI, SGLang and vLLM that are known and not supported yet, with the values that
  // ask for nothing; and those that no answer depends on.
  void RefuseUnsupported() {
    fields_.Ignore({"user", "metadata", "store", "service_tier", "safety_identifier",
                    "prompt_cache_key", "prompt_cache_retention"});
    fields_.NeutralOnly("length_penalty", {1});
    fields_.NeutralOnly("spaces_between_special_tokens", {true});
    fields_.NeutralOnly("add_special_tokens", {out_.endpoint == Endpoint::kCompletions});
    fields_.NeutralOnly("use_beam_search", {false});
    fields_.NeutralOnly("return_hidden_states", {false});
    for (const char* name : {"json_schema", "structural_tag", "lora_path", "logits_processors",
                             "truncate_prompt_tokens"}) {
      fields_.NeutralOnly(name);
    }
    if (out_.endpoint == Endpoint::kCompletions) {
      fields_.NeutralOnly("suffix", {""});
      fields_.NeutralOnly("best_of", {out_.n});
      return;
    }
    fields_.NeutralOnly("functions", {Json::array()});
    fields_.NeutralOnly("function_call", {"none", "auto"});
    fields_.NeutralOnly("modalities", {Json::array({"text"})});
    fields_.NeutralOnly("verbosity", {"medium"});
    fields_.NeutralOnly("add_generation_prompt", {true});
    fields_.NeutralOnly("continue_final_message", {false});
    for (const char* name : {"audio", "prediction", "web_search_options", "chat_template"}) {
      fields_.NeutralOnly(name);
    }
  }

  void CheckLength() {
    SamplingParams& sampling = out_.sampling;
    const bool chat = out_.endpoint == Endpoint::kChat;
    // The longest prompt decides, as all choices share max_tokens.
    int64_t longest = 0;
    for (const auto& prompt : out_.prompts) {
      longest = std::max(longest, static_cast<int64_t>(prompt.size()));
    }
    if (longest >= model_.context_length) {
      fields_.Fail(chat ? "messages" : "prompt",
                   Text("the prompt has ", longest, " tokens, which leaves no room for an answer; ",
                        "the context length is ", model_.context_length),
                   "context_length_exceeded");
      return;
    }
    const int64_t left = model_.context_length - longest;
    if (!max_tokens_given_) {
      sampling.max_new_tokens = chat ? left : std::min(left, kDefaultCompletionTokens);
    }
    const int64_t most = sampling.max_new_tokens;
    out_.prefill_only = most == 0;
    if (out_.prefill_only) sampling.max_new_tokens = 1;
    // Compared with what is left: the sum could overflow.
    if (sampling.max_new_tokens > left) {
      fields_.Fail(max_tokens_name_,
                   Text("the prompt has ", longest, " tokens and ", max_tokens_name_, " is ",
                        sampling.max_new_tokens, "; the context length is ", model_.context_length,
                        ", so that ", max_tokens_name_, " can be at most ", left),
                   "context_length_exceeded");
    }
    if (sampling.min_new_tokens > most) {
      fields_.Fail("min_tokens", Text("min_tokens is ", sampling.min_new_tokens, ", more than ",
                                      max_tokens_name_, ", ", most));
    }
  }

  // A seed s gives the choices s, s + 1, ... of every prompt, so that a batch answers as the
  // requests one by one.
  void ChooseSeeds() {
    for (size_t prompt = 0; prompt < out_.prompts.size(); ++prompt) {
      for (int64_t i = 0; i < out_.n; ++i) {
        out_.seeds.push_back(seed_given_ ? seed_ + static_cast<uint64_t>(i) : model_.next_seed());
      }
    }
  }

  const ServedModel& model_;
  FirstError& error_;
  FieldReader fields_;
  OpenAiRequest out_;
  bool seed_given_ = false;
  uint64_t seed_ = 0;
  bool max_tokens_given_ = false;
  std::string max_tokens_name_ = "max_tokens";
};

}  // namespace

const char* PathOf(Endpoint endpoint) {
  return endpoint == Endpoint::kChat ? "/v1/chat/completions" : "/v1/completions";
}

std::optional<ApiError> ParseOpenAiRequest(Endpoint endpoint, std::string_view body,
                                           const ServedModel& model, OpenAiRequest& out) {
  StatusOr<Json> json = ParseOrderedJson(body, "the request's body");
  if (!json.ok()) return ToApiError(json.status());
  FirstError error;
  OpenAiRequest request = Parser(endpoint, *json, model, error).Run();
  if (!error.ok()) return error.get();
  out = std::move(request);
  return std::nullopt;
}

}  // namespace causeway
