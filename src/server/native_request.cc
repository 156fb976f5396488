// SGLang allows most fields of /generate either once for all prompts or as a list with one value
// for each (PerPrompt). As in the OpenAI API, a field that nobody has read is refused, and one that
// is not supported may only have the value with which it does nothing.
#include "server/native_request.h"

#include <algorithm>
#include <set>

#include "server/field_reader.h"
#include "server/sampling_fields.h"

namespace causeway {
namespace {

constexpr int64_t kDefaultNewTokens = 128;
// Of max_new_tokens, until the prompt's length is known.
constexpr int64_t kDefault = -1;
constexpr int64_t kWhatIsLeft = -2;
constexpr int64_t kMaxStops = 32;
constexpr int64_t kMaxTopLogprobs = 128;
constexpr size_t kMaxLogprobIds = 1024;
constexpr size_t kMaxRidBytes = 512;
constexpr double kMaxTemperature = 100;
// Below this SGLang takes the most likely token.
constexpr double kGreedyTemperature = 1e-6;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

class Parser {
 public:
  Parser(const Json& json, const ServedModel& model, FirstError& error)
      : model_(model), error_(error), fields_(json, "", error) {}

  NativeRequest Run() {
    fields_.Bool("stream", out_.stream);
    fields_.Bool("return_text_in_logprobs", out_.text_in_logprobs);
    ReadPrompts();
    if (error_.ok()) ReadSampling();
    ReadLogprobs();
    ReadRooms();
    RefuseUnsupported();
    fields_.Finish();
    if (error_.ok()) CheckCount();
    for (size_t i = 0; error_.ok() && i < out_.prompts.size(); ++i) CheckLength(i);
    if (error_.ok()) NameChoices();
    return std::move(out_);
  }

 private:
  // "input_ids[3]" where there is a list, else "input_ids".
  std::string Where(std::string_view field, size_t prompt) const {
    return out_.list ? Text(field, "[", prompt, "]") : std::string(field);
  }

  void ReadRooms() {
    const int64_t n = out_.prompts.empty() ? 1 : out_.prompts.front().n;
    const std::vector<Bootstrap> rooms =
        ReadBootstrap(fields_, model_.role, out_.prompts.size(), n);
    for (size_t i = 0; i < rooms.size(); ++i) out_.prompts[i].bootstrap = rooms[i];
  }

  void ReadPrompts() {
    const Json* text = fields_.Any("text");
    const Json* ids = fields_.Any("input_ids");
    fields_.NeutralOnly("input_embeds");
    if ((text != nullptr) == (ids != nullptr)) {
      fields_.Fail("text", text == nullptr ? "text and input_ids are missing; one is needed"
                                           : "text and input_ids are both there; send one of them");
      return;
    }
    const char* field = text != nullptr ? "text" : "input_ids";
    const Json& value = text != nullptr ? *text : *ids;
    // A list of ids is one prompt; a list of lists, or of texts, is several.
    out_.list =
        value.is_array() && (text != nullptr || (!value.empty() && !value.front().is_number()));
    const Json single = out_.list ? Json() : Json(Json::array_t{value});
    const Json& list = out_.list ? value : single;
    if (list.empty() || list.size() > static_cast<size_t>(model_.max_choices)) {
      fields_.Fail(
          field, Text(field, " has ", list.size(), " prompts; expected 1 to ", model_.max_choices));
      return;
    }
    for (size_t i = 0; i < list.size() && error_.ok(); ++i) {
      NativePrompt prompt;
      if (text != nullptr && list[i].is_string()) {
        prompt.tokens = EncodePrompt(model_, list[i].get<std::string>());
      } else if (text == nullptr && list[i].is_array()) {
        prompt.tokens = ReadTokens(fields_, field, list[i], Where(field, i), model_.vocab_size);
      } else {
        fields_.Fail(field, Text(Where(field, i), " is ", DescribeJson(list[i]), "; expected ",
                                 text != nullptr ? "a string" : "a list of token ids"));
      }
      if (prompt.tokens.empty()) fields_.Fail(field, Text(Where(field, i), " is empty"));
      out_.prompts.push_back(std::move(prompt));
    }
  }

  // One value for each prompt; null where the field is absent.
  std::vector<Json> PerPrompt(std::string_view field) {
    const Json* value = fields_.Any(field);
    std::vector<Json> out(out_.prompts.size());
    if (value == nullptr) return out;
    if (!value->is_array()) {
      std::fill(out.begin(), out.end(), *value);
    } else if (!out_.list || value->size() != out.size()) {
      fields_.Fail(field, Text(field, " is a list of ", value->size(), "; expected one value",
                               out_.list ? Text(", or a list of ", out.size(), " as of prompts")
                                         : std::string(" for the one prompt")));
    } else {
      std::copy(value->begin(), value->end(), out.begin());
    }
    return out;
  }

  void ReadSampling() {
    const std::vector<Json> params = PerPrompt("sampling_params");
    for (size_t i = 0; i < params.size() && error_.ok(); ++i) {
      NativePrompt& prompt = out_.prompts[i];
      const Json empty = Json::object();
      const bool several = params[i] != params.front();
      FieldReader reader(params[i].is_null() ? empty : params[i],
                         several ? Text("sampling_params[", i, "]") : "sampling_params", error_);
      const bool null_max = params[i].is_object() && params[i].contains("max_new_tokens") &&
                            params[i]["max_new_tokens"].is_null();
      ReadOneSampling(reader, prompt, null_max);
      reader.Finish();
      if (prompt.n != out_.prompts.front().n) {
        reader.Fail("n",
                    Text(reader.Path("n"), " is ", prompt.n, "; all prompts must have the same",
                         ", and the first has ", out_.prompts.front().n));
      }
    }
  }

  // `null_max`: max_new_tokens is there and null, which SGLang takes as "no limit".
  void ReadOneSampling(FieldReader& reader, NativePrompt& prompt, bool null_max) {
    SamplingParams& sampling = prompt.sampling;
    sampling.max_new_tokens = null_max ? kWhatIsLeft : kDefault;
    reader.Integer("max_new_tokens", 0, kNoLimit, sampling.max_new_tokens);
    reader.Integer("min_new_tokens", 0, kNoLimit, sampling.min_new_tokens);
    reader.Number("temperature", {.max = kMaxTemperature}, sampling.temperature);
    if (sampling.temperature < kGreedyTemperature) sampling.temperature = 0;
    reader.Number("top_p", {.max = 1, .above_min = true}, sampling.top_p);
    reader.Integer("top_k", -1, kNoLimit, sampling.top_k);
    reader.Number("min_p", {.max = 1}, sampling.min_p);
    ReadPenalties(reader, model_, sampling);
    reader.Bool("ignore_eos", sampling.ignore_eos);
    reader.Integer("n", 1, kMaxChoicesPerPrompt, prompt.n);
    int64_t seed = 0;
    if (reader.Integer("sampling_seed", std::numeric_limits<int64_t>::min(), kNoLimit, seed)) {
      prompt.seed = static_cast<uint64_t>(seed);
    }
    ReadConstraint(reader, model_, {.json_schema = true}, error_, sampling);
    prompt.stop_regex = ReadStopRegexes(reader);
    prompt.stop = ReadStopStrings(reader, "stop", kMaxStops);
    sampling.stop_token_ids = ReadStopTokens(reader, "stop_token_ids", model_.vocab_size);
    reader.Bool("no_stop_trim", prompt.no_stop_trim);
    reader.Bool("skip_special_tokens", prompt.skip_special_tokens);
    prompt.stream_interval = model_.stream_interval;
    reader.Integer("stream_interval", 1, kNoLimit, prompt.stream_interval);

    reader.Ignore({"custom_params"});
    reader.NeutralOnly("spaces_between_special_tokens", {true});
    reader.NeutralOnly("beam_width", {1});
    reader.NeutralOnly("structural_tag", {""});
    reader.NeutralOnly("watermark");
  }

  // Of the prompts' values of a field, `read` gets those that are there.
  template <typename Read>
  void EachPrompt(std::string_view field, Read read) {
    const std::vector<Json> values = PerPrompt(field);
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i].is_null()) read(i, values[i]);
    }
  }

  void ReadLogprobs() {
    std::vector<int64_t> top(out_.prompts.size(), 0);
    EachPrompt("top_logprobs_num", [&](size_t i, const Json& value) {
      if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
          value.get<int64_t>() > kMaxTopLogprobs) {
        fields_.Fail("top_logprobs_num", Text("top_logprobs_num is ", DescribeJson(value),
                                              "; expected an integer 0 to ", kMaxTopLogprobs));
        return;
      }
      top[i] = value.get<int64_t>();
    });
    EachPrompt("return_logprob", [&](size_t i, const Json& value) {
      if (!value.is_boolean()) {
        fields_.Fail("return_logprob",
                     Text("return_logprob is ", DescribeJson(value), "; expected true or false"));
      } else if (value.get<bool>()) {
        out_.prompts[i].sampling.logprobs = top[i];
      }
    });
    EachPrompt("logprob_start_len", [&](size_t i, const Json& value) {
      NativePrompt& prompt = out_.prompts[i];
      const auto length = static_cast<int64_t>(prompt.tokens.size());
      if (!value.is_number_integer() || value.get<int64_t>() < -1 ||
          value.get<int64_t>() > length) {
        fields_.Fail("logprob_start_len",
                     Text("logprob_start_len is ", DescribeJson(value),
                          "; expected an integer -1 to ", length, ", the prompt's length"));
        return;
      }
      // Without log-probabilities the number means nothing; at the end there are none.
      if (prompt.sampling.logprobs >= 0 && value.get<int64_t>() < length) {
        prompt.sampling.prompt_logprobs_from = value.get<int64_t>();
      }
    });
    ReadLogprobIds();
  }

  // A list of ids for all prompts, or a list of such lists.
  void ReadLogprobIds() {
    constexpr const char* kName = "token_ids_logprob";
    const Json* value = fields_.Any(kName);
    if (value == nullptr) return;
    const bool lists = value->is_array() && !value->empty() && !value->front().is_number();
    if (!value->is_array() || (lists && value->size() != out_.prompts.size())) {
      fields_.Fail(kName, Text(kName, " is ", DescribeJson(*value),
                               "; expected a list of token ids, or one for each prompt"));
      return;
    }
    for (size_t i = 0; i < out_.prompts.size(); ++i) {
      const Json& ids = lists ? (*value)[i] : *value;
      if (ids.is_null()) continue;
      if (!ids.is_array() || ids.size() > kMaxLogprobIds) {
        fields_.Fail(kName, Text(kName, " holds ", DescribeJson(ids), "; expected at most ",
                                 kMaxLogprobIds, " token ids"));
        return;
      }
      out_.prompts[i].sampling.logprob_ids =
          ReadTokens(fields_, kName, ids, lists ? Where(kName, i) : kName, model_.vocab_size);
    }
  }

  void RefuseUnsupported() {
    // No answer depends on these. SGLang's router writes the model even where the client didn't.
    fields_.Ignore({"model", "log_metrics", "no_logs", "conversation_id", "session_id",
                    "routing_key", "custom_labels", "external_trace_header", "received_time",
                    "parallel_batch", "modalities", "use_audio_in_video"});
    // Known fields of SGLang whose effect is missing here.
    fields_.NeutralOnly("lora_path", {"", Json::array()});
    fields_.NeutralOnly("image_data", {Json::array()});
    fields_.NeutralOnly("video_data", {Json::array()});
    fields_.NeutralOnly("audio_data", {Json::array()});
    fields_.NeutralOnly("priority", {0});
    fields_.NeutralOnly("extra_key", {""});
    fields_.NeutralOnly("cache_salt", {""});
    fields_.NeutralOnly("routed_experts_start_len", {0});
    for (const char* name :
         {"return_hidden_states", "return_routed_experts", "return_indexer_topk",
          "return_sampling_mask", "return_prompt_token_ids", "return_entropy", "return_bytes",
          "return_flat_raw_top_logprobs", "return_flat_raw_output_top_logprobs",
          "return_flat_raw_top_logprobs_b64", "background", "require_reasoning"}) {
      fields_.NeutralOnly(name, {false});
    }
    for (const char* name : {"sampling_logprobs_mode",
                             "session_params",
                             "custom_logit_processor",
                             "lora_id",
                             "positional_embed_overrides",
                             "bootstrap_pair_key",
                             "decode_tp_size",
                             "routed_dp_rank",
                             "data_parallel_rank",
                             "disagg_prefill_dp_rank",
                             "max_thinking_tokens",
                             "watermark",
                             "video_config",
                             "mm_hashes",
                             "mm_content_hashes",
                             "mm_processor_kwargs",
                             "images_config",
                             "kv_hints",
                             "multi_item_delimiter_indices",
                             "token_indices_to_pool"}) {
      fields_.NeutralOnly(name);
    }
    rid_ = fields_.Any("rid");
  }

  void CheckCount() {
    out_.n = out_.prompts.front().n;
    const auto count = static_cast<int64_t>(out_.prompts.size());
    if (count * out_.n > model_.max_choices) {
      fields_.Fail("sampling_params",
                   Text("the request has ", count, " prompts with n ", out_.n, " each; at most ",
                        model_.max_choices, " answers to one request are allowed"));
    }
  }

  void CheckLength(size_t index) {
    NativePrompt& prompt = out_.prompts[index];
    SamplingParams& sampling = prompt.sampling;
    const auto length = static_cast<int64_t>(prompt.tokens.size());
    const std::string where = out_.list ? Text("prompt ", index) : "the prompt";
    if (length >= model_.context_length) {
      fields_.Fail("text",
                   Text(where, " has ", length, " tokens, which leaves no room for an answer; ",
                        "the context length is ", model_.context_length),
                   "context_length_exceeded");
      return;
    }
    const int64_t left = model_.context_length - length;
    prompt.prefill_only = sampling.max_new_tokens == 0;
    if (prompt.prefill_only) sampling.max_new_tokens = 1;
    if (sampling.max_new_tokens == kDefault) {
      sampling.max_new_tokens = std::min(left, kDefaultNewTokens);
    }
    if (sampling.max_new_tokens == kWhatIsLeft) sampling.max_new_tokens = left;
    if (sampling.max_new_tokens > left) {
      fields_.Fail("sampling_params",
                   Text(where, " has ", length, " tokens and max_new_tokens is ",
                        sampling.max_new_tokens, "; the context length is ", model_.context_length,
                        ", so that max_new_tokens can be at most ", left),
                   "context_length_exceeded");
    }
    const int64_t most = prompt.prefill_only ? 0 : sampling.max_new_tokens;
    if (sampling.min_new_tokens > most) {
      fields_.Fail("sampling_params", Text("min_new_tokens is ", sampling.min_new_tokens,
                                           ", more than max_new_tokens, ", most));
    }
  }

  // Ids and seeds. A string names one answer, or is the start of the names of several; a list names
  // each prompt.
  void NameChoices() {
    const size_t count = out_.prompts.size() * static_cast<size_t>(out_.n);
    const auto n = static_cast<size_t>(out_.n);
    out_.list = out_.list || count > 1;
    const bool named = rid_ != nullptr && rid_->is_string();
    const bool each = rid_ != nullptr && rid_->is_array();
    if (rid_ != nullptr && !named && (!each || rid_->size() != out_.prompts.size())) {
      fields_.Fail("rid", Text("rid is ", DescribeJson(*rid_), "; expected a string, or a list of ",
                               out_.prompts.size(), " strings as of prompts"));
      return;
    }
    out_.id = named ? rid_->get<std::string>() : RandomName();
    std::set<std::string> seen;
    for (size_t i = 0; i < count; ++i) {
      std::string rid = out_.id;
      if (each) {
        const Json& given = (*rid_)[i / n];
        rid = given.is_string() ? given.get<std::string>() : "";
        if (n > 1 && !rid.empty()) rid += Text("_", i % n);
      } else if (out_.list) {
        rid += Text("_", i);
      }
      if (rid.empty() || rid.size() > kMaxRidBytes || !seen.insert(rid).second) {
        fields_.Fail("rid",
                     Text("rid names ", DescribeJson(Json(rid)), "; expected strings of 1 to ",
                          kMaxRidBytes, " bytes, all different"));
        return;
      }
      out_.rids.push_back(std::move(rid));
      const std::optional<uint64_t>& seed = out_.prompts[i / n].seed;
      out_.seeds.push_back(seed ? *seed + i % n : model_.next_seed());
    }
  }

  const ServedModel& model_;
  FirstError& error_;
  FieldReader fields_;
  const Json* rid_ = nullptr;
  NativeRequest out_;
};

}  // namespace

std::optional<ApiError> ParseNativeRequest(std::string_view body, const ServedModel& model,
                                           NativeRequest& out) {
  StatusOr<Json> json = ParseOrderedJson(body, "the request's body");
  if (!json.ok()) return ToApiError(json.status());
  FirstError error;
  NativeRequest request = Parser(*json, model, error).Run();
  if (!error.ok()) return error.get();
  out = std::move(request);
  return std::nullopt;
}

}  // namespace causeway
