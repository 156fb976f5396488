// libFuzzer entry: any bytes as the body of a request, to each API and in each chat format, give an
// error that can be answered, or a request that the engine can take.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "server/fake_tokenizer.h"
#include "server/json.h"
#include "server/native_reply.h"
#include "server/native_request.h"
#include "server/openai_request.h"

namespace causeway {
namespace {

constexpr int64_t kContext = 300;
constexpr int64_t kMaxChoices = 8;

// What was written is read again as the same value.
void CheckJson(std::string_view text) {
  const StatusOr<Json> json = ParseOrderedJson(text, "fuzz");
  if (!json.ok()) {
    CHECK(json.status().message().starts_with("fuzz: "), json.status().message());
    return;
  }
  const std::string written = Dump(*json);
  const StatusOr<Json> again = ParseOrderedJson(written, "written");
  CHECK(again.ok(), again.status().message());
  CHECK(Dump(*again) == written, written);
  CHECK(DescribeJson(*json).size() < 200, DescribeJson(*json));
}

void CheckError(const ApiError& error) {
  CHECK(error.http_status >= 400 && error.http_status < 500, error.http_status);
  CHECK(!error.message.empty() && error.message.size() < 2000, error.message.size());
  for (const HttpResponse& response : {ErrorResponse(error), NativeErrorResponse(error)}) {
    CHECK(ParseOrderedJson(response.body, "answer").ok(), response.body);
    // Throws away nothing and breaks no line of the header.
    (void)FormatHead(response, BodyFraming::kLength, response.body.size(), true);
  }
}

void CheckSampling(const SamplingParams& sampling, size_t prompt) {
  CHECK(sampling.temperature >= 0 && sampling.top_p > 0 && sampling.top_p <= 1, sampling.top_p);
  CHECK(sampling.min_p >= 0 && sampling.min_p <= 1 && sampling.top_k >= -1, sampling.min_p);
  CHECK(sampling.max_new_tokens >= 1, sampling.max_new_tokens);
  CHECK(static_cast<int64_t>(prompt) + sampling.max_new_tokens <= kContext, prompt);
  CHECK(sampling.min_new_tokens <= sampling.max_new_tokens, sampling.min_new_tokens);
}

void CheckPrompt(const std::vector<int32_t>& tokens) {
  CHECK(!tokens.empty(), "an empty prompt");
  for (const int32_t id : tokens) CHECK(id >= 0 && id < FakeTokenizer::kVocabulary, id);
}

void CheckOpenAi(Endpoint endpoint, std::string_view body, const ServedModel& model) {
  OpenAiRequest request;
  if (const auto error = ParseOpenAiRequest(endpoint, body, model, request)) {
    CheckError(*error);
    return;
  }
  CHECK(request.choices() == request.prompts.size() * static_cast<size_t>(request.n), request.n);
  CHECK(request.choices() >= 1 && request.choices() <= kMaxChoices, request.choices());
  for (const auto& prompt : request.prompts) {
    CheckPrompt(prompt);
    CheckSampling(request.sampling, prompt.size());
  }
  for (const std::string& stop : request.stop) CHECK(!stop.empty(), request.stop.size());
}

void CheckNative(std::string_view body, const ServedModel& model) {
  NativeRequest request;
  if (const auto error = ParseNativeRequest(body, model, request)) {
    CheckError(*error);
    return;
  }
  CHECK(request.rids.size() == request.prompts.size() * static_cast<size_t>(request.n), request.n);
  CHECK(request.seeds.size() == request.rids.size(), request.seeds.size());
  CHECK(request.choices() >= 1 && request.choices() <= kMaxChoices, request.choices());
  for (const NativePrompt& prompt : request.prompts) {
    CheckPrompt(prompt.tokens);
    CheckSampling(prompt.sampling, prompt.tokens.size());
  }
}

}  // namespace
}  // namespace causeway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace causeway;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  static const FakeTokenizer tokenizer;
  CheckJson(body);
  for (const ChatFormat format : {ChatFormat::kV3, ChatFormat::kV31, ChatFormat::kV32}) {
    const ServedModel model{.name = "m",
                            .tokenizer = tokenizer,
                            .chat_format = format,
                            .context_length = kContext,
                            .vocab_size = FakeTokenizer::kVocabulary,
                            .bos_token = FakeTokenizer::kBos,
                            .max_choices = kMaxChoices};
    CheckOpenAi(Endpoint::kChat, body, model);
    if (format != ChatFormat::kV3) continue;
    CheckOpenAi(Endpoint::kCompletions, body, model);
    CheckNative(body, model);
  }
  return 0;
}
