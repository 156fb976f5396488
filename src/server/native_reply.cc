#include "server/native_reply.h"

#include <algorithm>

namespace causeway {
namespace {

Json NativeErrorJson(const ApiError& error) {
  return {{"error",
           {{"message", error.message},
            {"type", error.http_status < 500 ? "invalid_request_error" : "server_error"},
            {"code", error.http_status},
            {"param", error.param.empty() ? Json() : Json(error.param)},
            {"retryable", error.http_status == 503}}}};
}

ReplyPlan PlanOf(const NativeRequest& request) {
  ReplyPlan plan{.id = request.id,
                 .endpoint = kGeneratePath,
                 .choices = request.choices(),
                 .stream = request.stream,
                 .names = request.rids};
  for (const NativePrompt& prompt : request.prompts) {
    plan.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  }
  return plan;
}

// What stands between the quotes.
std::string JsonInside(const std::string& text) {
  const std::string quoted = Dump(Json(text));
  return quoted.substr(1, quoted.size() - 2);
}

void Append(std::string& list, const std::string& item) {
  if (!list.empty()) list += ',';
  list += item;
}

}  // namespace

HttpResponse NativeErrorResponse(const ApiError& error) {
  HttpResponse response = ErrorResponse(error);  // for its headers
  response.body = Dump(NativeErrorJson(error));
  return response;
}

NativeReply::NativeReply(NativeRequest request, const ServedModel& model, HttpResponder responder,
                         Clock::time_point arrived)
    : Reply(PlanOf(request), std::move(responder), arrived),
      request_(std::move(request)),
      model_(model) {
  choices_.reserve(choices());
  for (size_t i = 0; i < choices(); ++i) {
    choices_.emplace_back(
        TextStream(model.tokenizer, {.stop = prompt(i).stop,
                                     .stop_regex = prompt(i).stop_regex,
                                     .min_tokens = prompt(i).sampling.min_new_tokens,
                                     .skip_special = prompt(i).skip_special_tokens}));
    choices_[i].prompt_tokens = static_cast<int64_t>(prompt(i).tokens.size());
    const int64_t from = prompt(i).sampling.prompt_logprobs_from;
    if (from >= 0) choices_[i].first_input = prompt(i).tokens[static_cast<size_t>(from)];
  }
}

Request NativeReply::EngineRequest(size_t index) {
  const auto n = static_cast<size_t>(request_.n);
  NativePrompt& prompt = request_.prompts[index / n];
  Request out;
  out.id = EngineId(index);
  // Prompts may be long: the last choice of each takes it.
  out.prompt = index % n == n - 1 ? std::move(prompt.tokens) : prompt.tokens;
  out.sampling = prompt.sampling;
  out.sampling.seed = request_.seeds[index];
  out.bootstrap = prompt.bootstrap;
  if (out.bootstrap) out.bootstrap->room = RoomBehind(out.bootstrap->room, index % n);
  return out;
}

void NativeReply::AddToken(size_t index, const TokenOutput& output) {
  Choice& choice = choices_[index];
  const SamplingParams& sampling = prompt(index).sampling;
  Append(choice.ids, std::to_string(output.token));
  if (sampling.logprobs < 0) return;
  ++choice.logprob_count;
  Append(choice.logprobs, LogprobText(output.token, output.logprob));
  if (sampling.logprobs > 0) Append(choice.top_logprobs, ListText(output.top));
  if (!sampling.logprob_ids.empty()) Append(choice.id_logprobs, ListText(output.listed));
}

void NativeReply::AddInput(size_t index, const TokenOutput& output) {
  Choice& choice = choices_[index];
  if (output.prompt == nullptr || choice.first_input < 0) return;
  // As in SGLang: the first token is named, and has no log-probability.
  Json first = Json::parse(LogprobText(choice.first_input, 0));
  first[0] = nullptr;
  choice.input_logprobs = Dump(first);
  choice.input_top_logprobs = "null";
  choice.input_id_logprobs = "null";
  for (const TokenOutput& one : *output.prompt) {
    Append(choice.input_logprobs, LogprobText(one.token, one.logprob));
    Append(choice.input_top_logprobs, ListText(one.top));
    Append(choice.input_id_logprobs, ListText(one.listed));
  }
}

std::string NativeReply::ListText(const std::vector<TokenLogprob>& list) const {
  std::string out;
  for (const TokenLogprob& one : list) Append(out, LogprobText(one.token, one.logprob));
  return Text("[", out, "]");
}

std::string NativeReply::LogprobText(int32_t token, double logprob) const {
  Json text;
  if (request_.text_in_logprobs) text = model_.tokenizer.Decode({token}, /*skip_special=*/false);
  return Dump(Json::array_t{Json(std::max(logprob, kLeastLogprob)), Json(token), text});
}

void NativeReply::AddText(Choice& choice, const TextPiece& piece) {
  if (!piece.content.empty()) choice.answer += JsonInside(piece.content);
}

void NativeReply::TakeToken(size_t index, const TokenOutput& output) {
  AddInput(index, output);
  if (prompt(index).prefill_only) return;  // its end follows
  Choice& choice = choices_[index];
  AddToken(index, output);
  AddText(choice, choice.text.Push(output.token));
  if (choice.text.stopped()) {
    const std::string& stop = choice.text.stop();
    if (prompt(index).no_stop_trim) choice.answer += JsonInside(choice.text.cut());
    EndChoice(index, {{"type", "stop"}, {"matched", stop}});
  } else if (stream() && --choice.until_event < 0) {
    choice.until_event = prompt(index).stream_interval - 1;
    SendEvent(ChoiceText(index));
  }
}

void NativeReply::TakeEnd(size_t index, const RequestResult& result) {
  Choice& choice = choices_[index];
  const NativePrompt& options = prompt(index);
  AddInput(index, result.stop_token);
  if (options.prefill_only) {
    EndChoice(index, {{"type", "length"}, {"length", 0}});
    return;
  }
  const TokenOutput& last = result.stop_token;
  if (last.token >= 0) {
    AddToken(index, last);
    if (options.no_stop_trim && !model_.tokenizer.IsSpecial(last.token)) {
      AddText(choice, choice.text.Push(last.token));
    }
  }
  if (!choice.text.stopped()) AddText(choice, choice.text.Flush());
  Json reason;
  if (choice.text.stopped()) {  // in what was held back
    reason = {{"type", "stop"}, {"matched", choice.text.stop()}};
  } else if (result.reason == FinishReason::kStop) {
    reason = {{"type", "stop"}, {"matched", last.token >= 0 ? Json(last.token) : Json()}};
  } else if (result.reason == FinishReason::kCancelled) {
    reason = {{"type", "abort"},
              {"message", "the request was aborted"},
              {"status_code", nullptr},
              {"err_type", nullptr}};
  } else {
    reason = {{"type", "length"}, {"length", result.completion_tokens}};
  }
  EndChoice(index, std::move(reason));
}

void NativeReply::EndChoice(size_t index, Json finish_reason) {
  Choice& choice = choices_[index];
  choice.finish_reason = std::move(finish_reason);
  choice.e2e_latency = SecondsSinceArrival();
  if (stream()) SendEvent(ChoiceText(index));
  Finish(index, choice.finish_reason["type"].get<std::string>());
}

std::string NativeReply::ChoiceText(size_t index) const {
  const Choice& choice = choices_[index];
  const NativePrompt& options = prompt(index);
  Json meta = {{"id", request_.rids[index]},
               {"finish_reason", choice.finish_reason},
               {"prompt_tokens", choice.prompt_tokens},
               {"weight_version", "default"},
               {"completion_tokens", options.prefill_only ? 0 : completion_tokens(index)},
               {"cached_tokens", cached_tokens(index)}};
  if (!choice.finish_reason.is_null()) meta["e2e_latency"] = choice.e2e_latency;
  std::string meta_text = Dump(meta);
  if (options.sampling.logprobs >= 0) {
    meta_text.pop_back();  // the brace
    const auto add = [&](const char* name, const std::string& list) {
      meta_text += Text(",\"", name, "\":[", list, "]");
    };
    add("input_token_logprobs", choice.input_logprobs);
    add("output_token_logprobs", choice.logprobs);
    meta_text += Text(R"(,"output_token_logprobs_length":)", choice.logprob_count);
    if (options.sampling.logprobs > 0) {
      add("input_top_logprobs", choice.input_top_logprobs);
      add("output_top_logprobs", choice.top_logprobs);
    }
    if (!options.sampling.logprob_ids.empty()) {
      add("input_token_ids_logprobs", choice.input_id_logprobs);
      add("output_token_ids_logprobs", choice.id_logprobs);
    }
    meta_text += "}";
  }
  std::string out = Text(R"({"text":")", choice.answer, R"(","output_ids":[)", choice.ids,
                         R"(],"meta_info":)", meta_text);
  if (stream() && request_.list) out += Text(R"(,"index":)", index);
  return out + "}";
}

void NativeReply::Complete() {
  if (stream()) {
    SendEvent("[DONE]");
    responder().End();
    return;
  }
  std::string body;
  for (size_t i = 0; i < choices(); ++i) Append(body, ChoiceText(i));
  responder().Send({.body = request_.list ? Text("[", body, "]") : body});
}

void NativeReply::SendErrorEvents(const ApiError& error) {
  SendEvent(Dump(NativeErrorJson(error)));
  SendEvent("[DONE]");
}

}  // namespace causeway
