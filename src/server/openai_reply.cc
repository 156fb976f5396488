#include "server/openai_reply.h"

#include <algorithm>
#include <ctime>

namespace causeway {
namespace {

int64_t CountTokens(const std::vector<std::vector<int32_t>>& prompts) {
  int64_t tokens = 0;
  for (const auto& prompt : prompts) tokens += static_cast<int64_t>(prompt.size());
  return tokens;
}

}  // namespace

OpenAiReply::OpenAiReply(std::string id, OpenAiRequest request, const ServedModel& model,
                         HttpResponder responder, Clock::time_point arrived)
    : Reply({.id = std::move(id),
             .endpoint = PathOf(request.endpoint),
             .choices = request.choices(),
             .prompt_tokens = CountTokens(request.prompts),
             .stream = request.stream},
            std::move(responder), arrived),
      request_(std::move(request)),
      model_(model),
      created_(static_cast<int64_t>(std::time(nullptr))) {
  for (const auto& prompt : request_.prompts) first_tokens_.push_back(prompt.front());
  choices_.reserve(request_.choices());
  for (size_t i = 0; i < request_.choices(); ++i) {
    // Each choice has a text stream of its own: half a character, or half a stop string, of one
    // says nothing about the others.
    choices_.emplace_back(TextStream(
        model.tokenizer, {.stop = request_.stop,
                          .stop_regex = request_.stop_regex,
                          .min_tokens = request_.sampling.min_new_tokens,
                          .reasoning = request_.reasoning,
                          .skip_special = request_.skip_special_tokens,
                          .keep_special = request_.answer.tools ? &IsToolMark : nullptr}));
    if (chat()) choices_.back().chat.emplace(request_.answer);
  }
}

Request OpenAiReply::EngineRequest(size_t index) {
  Request out;
  out.id = EngineId(index);
  const auto n = static_cast<size_t>(request_.n);
  std::vector<int32_t>& prompt = request_.prompts[index / n];
  // Prompts may be long: the last choice of each takes it.
  out.prompt = index % n == n - 1 ? std::move(prompt) : prompt;
  out.sampling = request_.sampling;
  out.sampling.seed = request_.seeds[index];
  if (!request_.bootstrap.empty()) {
    out.bootstrap = request_.bootstrap[index / n];
    out.bootstrap->room = RoomBehind(out.bootstrap->room, index % n);
  }
  return out;
}

void OpenAiReply::TakePrompt(size_t index, const TokenOutput& output) {
  if (output.prompt == nullptr || request_.echo.empty()) return;
  const size_t prompt = index / static_cast<size_t>(request_.n);
  std::vector<Logprob>& logprobs = choices_[index].logprobs;
  Detokenizer text(model_.tokenizer);
  int64_t offset = -CountCharacters(request_.echo[prompt]);
  if (!request_.hidden_bos[prompt]) {
    logprobs.push_back({{.token = first_tokens_[prompt]}, offset, /*none=*/true});
    offset += CountCharacters(text.Push(first_tokens_[prompt]));
  }
  for (const TokenOutput& one : *output.prompt) {
    logprobs.push_back({one, std::min<int64_t>(offset, 0)});
    offset += CountCharacters(text.Push(one.token));
  }
}

void OpenAiReply::TakeToken(size_t index, const TokenOutput& output) {
  Choice& choice = choices_[index];
  TakePrompt(index, output);
  if (request_.prefill_only) return;  // its end follows
  if (request_.sampling.logprobs >= 0) {
    // The offset is taken before the token's text is pushed: it is where this token begins.
    choice.logprobs.push_back({output, choice.text.characters()});
  }
  TextPiece piece = choice.text.Push(output.token);
  if (!choice.text.stopped()) {
    TakeText(choice, index, piece);
    // One call was all that was asked for.
    if (choice.chat && choice.chat->complete()) EndChoice(index, "stop", {});
    return;
  }
  // Tokens of which nothing is returned are not reported either.
  const int64_t end = choice.text.returned_characters() +
                      (request_.no_stop_trim ? CountCharacters(choice.text.cut()) : 0);
  while (!choice.logprobs.empty() && choice.logprobs.back().offset >= end) {
    choice.logprobs.pop_back();
  }
  // The matcher for </think> may hold text back that now can't become it.
  piece.Append(choice.text.Flush());
  if (request_.no_stop_trim) piece.content += choice.text.cut();
  EndChoice(index, "stop", std::move(piece));
}

void OpenAiReply::TakeEnd(size_t index, const RequestResult& result) {
  Choice& choice = choices_[index];
  TakePrompt(index, result.stop_token);
  if (request_.prefill_only && result.reason != FinishReason::kCancelled) {
    EndChoice(index, "length", {});
    return;
  }
  TextPiece tail = choice.text.Flush();
  if (request_.no_stop_trim) tail.content += choice.text.cut();
  const bool stopped = choice.text.stopped() || result.reason == FinishReason::kStop;
  const bool aborted = result.reason == FinishReason::kCancelled;
  EndChoice(index, stopped ? "stop" : aborted ? "abort" : "length", std::move(tail));
}

void OpenAiReply::TakeText(Choice& choice, size_t index, const TextPiece& piece) {
  choice.held.Append(piece);
  // Calls are followed token by token, as one may end the answer.
  const bool every_token = !request_.stream || request_.answer.tools;
  if (--choice.until_event >= 0 && !every_token) return;
  choice.until_event = model_.stream_interval - 1;
  if (!choice.held.empty()) Take(choice, index, std::exchange(choice.held, {}));
}

void OpenAiReply::Take(Choice& choice, size_t index, TextPiece piece) {
  if (chat()) {
    Stream(index, choice.chat->Push(piece));
  } else if (request_.stream) {
    Stream(index, {std::move(piece.content)});
  } else {
    choice.answer += piece.content;
  }
}

void OpenAiReply::Stream(size_t index, std::vector<Json> deltas) {
  // Logprobs are those of all tokens since the last event: events and tokens do not pair up, since
  // a token may end inside a character, or inside the mark of a call.
  for (Json& delta : deltas) {
    StreamChoice(index, std::move(delta), Logprobs(choices_[index]), nullptr);
  }
}

void OpenAiReply::EndChoice(size_t index, const std::string& reason, TextPiece tail) {
  Choice& choice = choices_[index];
  // The text before the event with finish_reason, which has none.
  choice.held.Append(tail);
  tail = std::exchange(choice.held, {});
  if (!tail.empty()) Take(choice, index, std::move(tail));
  if (choice.chat) Stream(index, choice.chat->Flush());
  // An answer that was cut off says so, calls or not.
  const bool called = choice.chat && choice.chat->called() && reason == "stop";
  choice.finish = called ? "tool_calls" : reason;
  if (request_.stream) {
    StreamChoice(index, chat() ? Json::object() : Json(""), Logprobs(choice), choice.finish);
  }
  Finish(index, choice.finish);
}

void OpenAiReply::Complete() {
  if (request_.stream) {
    if (request_.include_usage) {
      Json last = Envelope();
      last["choices"] = Json::array();
      last["usage"] = Usage();
      SendEvent(Dump(last));
    }
    // OpenAI's end of a stream; clients read until it, not until the connection closes.
    SendEvent("[DONE]");
    responder().End();
    return;
  }
  Json answer = Envelope();
  answer["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) answer["choices"].push_back(WholeChoice(i));
  answer["usage"] = Usage();
  responder().Send({.body = Dump(answer)});
}

Json OpenAiReply::Envelope() const {
  const char* object = !chat()           ? "text_completion"
                       : request_.stream ? "chat.completion.chunk"
                                         : "chat.completion";
  return {{"id", id()}, {"object", object}, {"created", created_}, {"model", model_.name}};
}

// Prompts count once, however many choices answer them: the first of each, as the others may find
// what it has computed.
int64_t OpenAiReply::CachedTokens() const {
  int64_t cached = 0;
  for (size_t i = 0; i < choices(); i += static_cast<size_t>(request_.n)) {
    cached += cached_tokens(i);
  }
  return cached;
}

Json OpenAiReply::Usage() const {
  int64_t completion = 0;
  int64_t reasoning = 0;
  for (size_t i = 0; i < choices(); ++i) {
    if (!request_.prefill_only) completion += completion_tokens(i);
    reasoning += choices_[i].text.reasoning_tokens();
  }
  Json usage = {{"prompt_tokens", plan().prompt_tokens},
                {"completion_tokens", completion},
                {"total_tokens", plan().prompt_tokens + completion},
                {"prompt_tokens_details", {{"cached_tokens", CachedTokens()}}}};
  if (request_.answer.reasons) {
    usage["completion_tokens_details"] = {{"reasoning_tokens", reasoning}};
    usage["reasoning_tokens"] = reasoning;  // where SGLang's clients look
  }
  return usage;
}

Json OpenAiReply::TokenJson(int32_t token, double logprob) const {
  Json bytes = Json::array();
  for (char c : model_.tokenizer.TokenBytes(token)) bytes.push_back(static_cast<uint8_t>(c));
  return {{"token", model_.tokenizer.Decode({token}, /*skip_special=*/false)},
          {"logprob", std::max(logprob, kLeastLogprob)},
          {"bytes", bytes}};
}

// Tokens that are no text by themselves as "bytes:\xe4\xbd", so that different ones stay different.
std::string OpenAiReply::LegacyToken(int32_t token) const {
  const std::string_view bytes = model_.tokenizer.TokenBytes(token);
  std::string text = model_.tokenizer.Decode({token}, /*skip_special=*/false);
  if (text == bytes) return text;
  constexpr char kDigits[] = "0123456789abcdef";
  text = "bytes:";
  for (char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    text += "\\x";
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Json OpenAiReply::Logprobs(Choice& choice) const {
  if (request_.sampling.logprobs < 0 || choice.logprobs.empty()) return nullptr;
  // Each is reported once: with the event that goes out, or in the one answer.
  const std::vector<Logprob> logprobs = std::exchange(choice.logprobs, {});
  if (chat()) {
    Json content = Json::array();
    for (const Logprob& one : logprobs) {
      Json token = TokenJson(one.token.token, one.token.logprob);
      token["top_logprobs"] = Json::array();
      for (const TokenLogprob& top : one.token.top) {
        token["top_logprobs"].push_back(TokenJson(top.token, top.logprob));
      }
      content.push_back(std::move(token));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  // The format of /v1/completions: four lists side by side instead of one list of objects.
  Json out = {{"text_offset", Json::array()},
              {"token_logprobs", Json::array()},
              {"tokens", Json::array()},
              {"top_logprobs", request_.sampling.logprobs > 0 ? Json::array() : Json()}};
  // `choice` is an element of choices_, so its place there tells which prompt it answers.
  const size_t prompt = static_cast<size_t>(&choice - choices_.data()) / request_.n;
  const int64_t base = request_.echo.empty() ? 0 : CountCharacters(request_.echo[prompt]);
  for (const Logprob& one : logprobs) {
    out["text_offset"].push_back(base + one.offset);
    out["token_logprobs"].push_back(one.none ? Json()
                                             : Json(std::max(one.token.logprob, kLeastLogprob)));
    out["tokens"].push_back(LegacyToken(one.token.token));
    if (request_.sampling.logprobs == 0) continue;
    if (one.none) {
      out["top_logprobs"].push_back(nullptr);
      continue;
    }
    Json top = Json::object();
    for (const TokenLogprob& entry : one.token.top) {
      top[LegacyToken(entry.token)] = std::max(entry.logprob, kLeastLogprob);
    }
    out["top_logprobs"].push_back(std::move(top));
  }
  return out;
}

Json OpenAiReply::WholeChoice(size_t index) {
  Choice& choice = choices_[index];
  Json out = {{"index", index}};
  if (chat()) {
    out["message"] = choice.chat->Message();
  } else {
    const size_t prompt = index / static_cast<size_t>(request_.n);
    const std::string& echo = request_.echo.empty() ? std::string() : request_.echo[prompt];
    out["text"] = echo + choice.answer;
  }
  out["logprobs"] = Logprobs(choice);
  out["finish_reason"] = choice.finish;
  return out;
}

// `content`: a chat's delta, or a completion's text.
void OpenAiReply::StreamChoice(size_t index, Json content, Json logprobs, Json finish) {
  Choice& choice = choices_[index];
  const auto send = [&](Json what, Json its_logprobs, Json its_finish) {
    Json event = Envelope();
    event["choices"] = Json::array({Json{{"index", index},
                                         {chat() ? "delta" : "text", std::move(what)},
                                         {"logprobs", std::move(its_logprobs)},
                                         {"finish_reason", std::move(its_finish)}}});
    if (request_.include_usage) event["usage"] = nullptr;
    if (request_.continuous_usage) event["usage"] = Usage();
    SendEvent(Dump(event));
  };
  // A chat's stream opens with the role, a completion's with the prompt where echo is asked for:
  // both once, before the first text.
  if (!std::exchange(choice.started, true)) {
    if (chat()) {
      send({{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    } else if (!request_.echo.empty()) {
      send(request_.echo[index / static_cast<size_t>(request_.n)], nullptr, nullptr);
    }
  }
  send(std::move(content), std::move(logprobs), std::move(finish));
}

}  // namespace causeway
