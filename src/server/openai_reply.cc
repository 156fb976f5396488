// A reply is done exactly once: by Complete (all choices have finished), Fail or Abandon. After
// that nothing is written and every call is ignored, as tokens may still be on their way to it.
#include "server/openai_reply.h"

#include <algorithm>
#include <ctime>

namespace causeway {
namespace {

constexpr double kLeastLogprob = -9999;  // JSON has no infinity

}  // namespace

OpenAiReply::OpenAiReply(std::string id, OpenAiRequest request, const ServedModel& model,
                         HttpResponder responder, Clock::time_point arrived)
    : id_(std::move(id)),
      request_(std::move(request)),
      model_(model),
      responder_(std::move(responder)),
      created_(static_cast<int64_t>(std::time(nullptr))),
      arrived_(arrived),
      unfinished_(request_.choices()) {
  choices_.reserve(request_.choices());
  for (size_t i = 0; i < request_.choices(); ++i) {
    // Each choice has a text stream of its own: half a character, or half a stop string, of one
    // says nothing about the others.
    choices_.emplace_back(
        TextStream(model.tokenizer, {.stop = request_.stop,
                                     .min_tokens = request_.sampling.min_new_tokens,
                                     .reasoning = request_.thinking}));
  }
  for (const auto& prompt : request_.prompts) {
    prompt_tokens_ += static_cast<int64_t>(prompt.size());
  }
}

std::string OpenAiReply::EngineId(size_t index) const { return Text(id_, "-", index); }

Request OpenAiReply::EngineRequest(size_t index) {
  Request out;
  out.id = EngineId(index);
  const auto n = static_cast<size_t>(request_.n);
  std::vector<int32_t>& prompt = request_.prompts[index / n];
  // Prompts may be long: the last choice of each takes it.
  out.prompt = index % n == n - 1 ? std::move(prompt) : prompt;
  out.sampling = request_.sampling;
  out.sampling.seed = request_.seeds[index];
  return out;
}

void OpenAiReply::Begin() {
  if (!request_.stream || begun_) return;
  begun_ = true;
  // The last two keep proxies from collecting events before they pass them on.
  responder_.Begin({.content_type = "text/event-stream",
                    .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
}

void OpenAiReply::OnToken(size_t index, const TokenOutput& output) {
  if (!Runs(index)) return;
  // The first token of whichever choice is first: what a client sees as the time to first token.
  if (first_token_ == Clock::time_point{}) first_token_ = Clock::now();
  Choice& choice = choices_[index];
  ++choice.completion_tokens;
  choice.cached_tokens = output.cached_tokens;
  if (request_.sampling.logprobs >= 0) {
    // The offset is taken before the token's text is pushed: it is where this token begins.
    choice.logprobs.push_back({output, choice.text.characters()});
  }
  TextPiece piece = choice.text.Push(output.token);
  if (!choice.text.stopped()) {
    if (!piece.empty()) Take(choice, index, std::move(piece));
    return;
  }
  // Tokens of which nothing is returned are not reported either.
  const int64_t end = choice.text.returned_characters();
  while (!choice.logprobs.empty() && choice.logprobs.back().offset >= end) {
    choice.logprobs.pop_back();
  }
  // The matcher for </think> may hold text back that now can't become it.
  TextPiece held = choice.text.Flush();
  piece.reasoning += held.reasoning;
  piece.content += held.content;
  Finish(index, "stop", std::move(piece));
}

void OpenAiReply::OnFinish(size_t index, const RequestResult& result) {
  if (!Runs(index)) return;
  if (!result.status.ok()) {
    // One choice's failure is the whole request's: OpenAI's format has no error for a single
    // choice.
    Fail(ToApiError(result.status));
    return;
  }
  Choice& choice = choices_[index];
  // A final eos or stop token counts too, for which there was no OnToken.
  choice.completion_tokens = result.completion_tokens;
  choice.cached_tokens = result.cached_tokens;
  TextPiece tail = choice.text.Flush();
  const bool stopped = choice.text.stopped() || result.reason == FinishReason::kStop;
  Finish(index, stopped ? "stop" : "length", std::move(tail));
}

void OpenAiReply::Take(Choice& choice, size_t index, TextPiece piece) {
  if (!request_.stream) {
    choice.answer.reasoning += piece.reasoning;
    choice.answer.content += piece.content;
    return;
  }
  // Those of all tokens since the last event: pieces and tokens do not pair up, since a token may
  // end inside a character.
  const Json logprobs = Logprobs(choice);
  if (!chat()) {
    StreamChoice(index, piece.content, logprobs, nullptr);
    return;
  }
  Json delta = Json::object();
  if (!piece.reasoning.empty()) delta["reasoning_content"] = piece.reasoning;
  if (!piece.content.empty()) delta["content"] = piece.content;
  StreamChoice(index, delta, logprobs, nullptr);
}

void OpenAiReply::Finish(size_t index, const std::string& reason, TextPiece tail) {
  Choice& choice = choices_[index];
  choice.finish = reason;
  choice.finished = true;
  // The text before the event with finish_reason, which has none.
  if (!tail.empty()) Take(choice, index, std::move(tail));
  if (request_.stream) {
    StreamChoice(index, chat() ? Json::object() : Json(""), Logprobs(choice), reason);
  }
  if (--unfinished_ == 0) Complete();
}

void OpenAiReply::Complete() {
  done_ = true;
  ended_ = Clock::now();
  if (request_.stream) {
    if (request_.include_usage) {
      Json last = Envelope();
      last["choices"] = Json::array();
      last["usage"] = Usage();
      SendEvent(last);
    }
    // OpenAI's end of a stream; clients read until it, not until the connection closes.
    responder_.Write("data: [DONE]\n\n");
    responder_.End();
    return;
  }
  Json answer = Envelope();
  answer["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) answer["choices"].push_back(WholeChoice(i));
  answer["usage"] = Usage();
  responder_.Send({.body = Dump(answer)});
}

void OpenAiReply::Fail(const ApiError& error) {
  if (done_) return;
  done_ = true;
  ended_ = Clock::now();
  http_status_ = error.http_status;
  error_ = error.message;
  // After the head of a stream the status is 200 for good: an event is all that can say it.
  if (begun_) {
    SendEvent(ErrorJson(error));
    responder_.End();
  } else {
    responder_.Send(ErrorResponse(error));
  }
}

void OpenAiReply::Abandon(const ApiError& why) {
  if (done_) return;
  done_ = true;
  ended_ = Clock::now();
  http_status_ = why.http_status;
  error_ = why.message;
}

RequestReport OpenAiReply::Report() const {
  const auto seconds = [](Clock::duration span) {
    return std::chrono::duration<double>(span).count();
  };
  RequestReport out;
  out.id = id_;
  out.endpoint = PathOf(request_.endpoint);
  out.http_status = http_status_;
  out.error = error_;
  out.finish = choices_.front().finish;
  out.prompt_tokens = prompt_tokens_;
  for (const Choice& choice : choices_) out.completion_tokens += choice.completion_tokens;
  out.seconds = seconds(ended_ - arrived_);
  if (first_token_ != Clock::time_point{}) {
    out.ttft_seconds = seconds(first_token_ - arrived_);
    const double decode = seconds(ended_ - first_token_);
    if (decode > 0) {
      // The first token belongs to the prefill, so a decode rate counts those after it.
      out.decode_tokens_per_s = static_cast<double>(out.completion_tokens - 1) / decode;
    }
  }
  return out;
}

Json OpenAiReply::Envelope() const {
  const char* object = !chat()           ? "text_completion"
                       : request_.stream ? "chat.completion.chunk"
                                         : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_.name}};
}

// Prompts count once, however many choices answer them: the first of each, as the others may find
// what it has computed.
int64_t OpenAiReply::CachedTokens() const {
  int64_t cached = 0;
  for (size_t i = 0; i < choices_.size(); i += static_cast<size_t>(request_.n)) {
    cached += choices_[i].cached_tokens;
  }
  return cached;
}

Json OpenAiReply::Usage() const {
  int64_t completion = 0;
  int64_t reasoning = 0;
  for (const Choice& choice : choices_) {
    completion += choice.completion_tokens;
    reasoning += choice.text.reasoning_tokens();
  }
  Json usage = {{"prompt_tokens", prompt_tokens_},
                {"completion_tokens", completion},
                {"total_tokens", prompt_tokens_ + completion},
                {"prompt_tokens_details", {{"cached_tokens", CachedTokens()}}}};
  if (request_.thinking) usage["completion_tokens_details"] = {{"reasoning_tokens", reasoning}};
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
    out["token_logprobs"].push_back(std::max(one.token.logprob, kLeastLogprob));
    out["tokens"].push_back(LegacyToken(one.token.token));
    if (request_.sampling.logprobs == 0) continue;
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
    Json message = {{"role", "assistant"}, {"content", choice.answer.content}};
    if (request_.thinking) message["reasoning_content"] = choice.answer.reasoning;
    message["refusal"] = nullptr;
    out["message"] = std::move(message);
  } else {
    const size_t prompt = index / static_cast<size_t>(request_.n);
    const std::string& echo = request_.echo.empty() ? std::string() : request_.echo[prompt];
    out["text"] = echo + choice.answer.content;
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
    SendEvent(event);
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

void OpenAiReply::SendEvent(const Json& json) {
  responder_.Write(Text("data: ", Dump(json), "\n\n"));
}

}  // namespace causeway
