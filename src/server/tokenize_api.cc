#include "server/tokenize_api.h"

#include "server/openai_request.h"

namespace causeway {
namespace {

// Prompts of one request; each is at most as long as the body.
constexpr size_t kMaxPrompts = 1024;

// "prompt": a text, or a list of them. `each` has the one text, or is called for every one.
template <typename Each>
void ForEachPrompt(FieldReader& fields, const Json& prompt, const Each& each) {
  if (prompt.is_string()) {
    each(prompt.get<std::string>());
    return;
  }
  if (!prompt.is_array() || prompt.empty() || prompt.size() > kMaxPrompts) {
    fields.Fail("prompt", Text("prompt is ", DescribeJson(prompt),
                               "; expected a string or a list of 1 to ", kMaxPrompts, " strings"));
    return;
  }
  size_t at = 0;
  for (const Json& one : prompt) {
    if (!one.is_string()) {
      fields.Fail("prompt", Text("prompt[", at, "] is ", DescribeJson(one), "; expected a string"));
      return;
    }
    each(one.get<std::string>());
    ++at;
  }
}

// {"tokens", "count", "max_model_len"} of "prompt", or of "messages" as a chat makes them a prompt.
Json Tokenize(FieldReader& fields, FirstError& error, const ServedModel& model) {
  bool special = true;
  fields.Bool("add_special_tokens", special);
  std::vector<std::vector<int32_t>> all;
  const Json* prompt = fields.Any("prompt");
  bool list = false;
  if (prompt != nullptr) {
    list = prompt->is_array();
    ForEachPrompt(fields, *prompt, [&](const std::string& text) {
      all.push_back(special ? EncodePrompt(model, text) : model.tokenizer.Encode(text));
    });
  } else if (fields.Any("messages") != nullptr) {
    const ThinkingFields thinking = ReadThinking(fields, error);
    const ToolFields tools = ReadTools(fields, error);
    fields.NeutralOnly("add_generation_prompt", {true});
    const std::string text =
        ReadChatPrompt(fields, error, model.chat_format, thinking.thinking, tools);
    if (error.ok()) all.push_back(model.tokenizer.Encode(text));
  } else {
    fields.Fail("prompt", "prompt is missing, and so is messages");
  }
  fields.Finish();
  if (!error.ok()) return {};
  if (list) {
    Json counts = Json::array();
    for (const auto& ids : all) counts.push_back(ids.size());
    return {{"tokens", all}, {"count", counts}, {"max_model_len", model.context_length}};
  }
  return {{"tokens", all.front()},
          {"count", all.front().size()},
          {"max_model_len", model.context_length}};
}

// {"text"} of "tokens", a list of ids or a list of such lists.
Json Detokenize(FieldReader& fields, FirstError& error, const ServedModel& model) {
  bool skip_special = true;
  fields.Bool("skip_special_tokens", skip_special);
  const Json* tokens = fields.Any("tokens");
  Json text;
  if (tokens == nullptr || !tokens->is_array()) {
    fields.Fail("tokens", tokens == nullptr
                              ? "tokens is missing"
                              : Text("tokens is ", DescribeJson(*tokens),
                                     "; expected a list of token ids or a list of such lists"));
  } else if (!tokens->empty() && tokens->front().is_array()) {
    text = Json::array();
    for (const Json& ids : *tokens) {
      const std::string where = Text("tokens[", text.size(), "]");
      if (!ids.is_array()) {
        fields.Fail("tokens",
                    Text(where, " is ", DescribeJson(ids), "; expected a list of token ids"));
        break;
      }
      text.push_back(model.tokenizer.Decode(
          ReadTokens(fields, "tokens", ids, where, model.vocab_size), skip_special));
    }
  } else {
    text = model.tokenizer.Decode(ReadTokens(fields, "tokens", *tokens, "tokens", model.vocab_size),
                                  skip_special);
  }
  fields.Finish();
  return error.ok() ? Json{{"text", std::move(text)}} : Json();
}

// Both take any "model": there is one tokenizer.
RequestDesk::Intake MakeIntake(const char* endpoint, const ServedModel& model,
                               Json (*answer)(FieldReader&, FirstError&, const ServedModel&)) {
  RequestDesk::Intake intake;
  intake.endpoint = endpoint;
  intake.answer = [&model, answer](std::string_view body,
                                   HttpResponse& out) -> std::optional<ApiError> {
    const StatusOr<Json> json = ParseOrderedJson(body, "the request's body");
    if (!json.ok()) return ToApiError(json.status());
    FirstError error;
    FieldReader fields(*json, "", error);
    fields.Ignore({"model"});
    const Json found = answer(fields, error, model);
    if (error.ok()) out.body = Dump(found);
    return error.get();
  };
  return intake;
}

}  // namespace

TokenizeApi::TokenizeApi(const ServedModel& model, ApiKey key)
    : model_(model),
      key_(std::move(key)),
      tokenize_(MakeIntake("/v1/tokenize", model_, &Tokenize)),
      detokenize_(MakeIntake("/v1/detokenize", model_, &Detokenize)) {}

std::vector<HttpRoute> TokenizeApi::Routes(RequestDesk& desk) const {
  std::vector<HttpRoute> routes;
  const auto add = [&](const char* path, const RequestDesk::Intake& intake) {
    routes.push_back(
        {"POST", path, key_.Guard([&desk, &intake](HttpRequest request, HttpResponder responder) {
           desk.Take(intake, std::move(request), std::move(responder));
         })});
  };
  for (const char* path : {"/v1/tokenize", "/tokenize"}) add(path, tokenize_);
  for (const char* path : {"/v1/detokenize", "/detokenize"}) add(path, detokenize_);
  return routes;
}

}  // namespace causeway
