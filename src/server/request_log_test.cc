#include "server/request_log.h"

#include <gtest/gtest.h>

#include "server/fake_tokenizer.h"

namespace causeway {
namespace {

// The lines of a request with one token in its answer, at a level.
std::string Lines(RequestLogLevel level, const RequestResult& result, bool stop_string = false) {
  const FakeTokenizer tokenizer;
  RequestLog log(level, tokenizer);
  Request request;
  request.id = "cmpl-1-0";
  request.prompt = {FakeTokenizer::ByteId('h'), FakeTokenizer::ByteId('i')};
  request.sampling.max_new_tokens = 9;
  request.sampling.temperature = 0.5;
  testing::internal::CaptureStderr();
  log.Received({1, 0}, "/generate", true, request);
  log.Token({1, 0}, {.token = 300, .top = {}});
  if (stop_string) log.StopString({1, 0});
  log.Finished({1, 0}, result);
  EXPECT_EQ(log.open(), 0u);
  return testing::internal::GetCapturedStderr();
}

RequestResult Result() {
  RequestResult result;
  result.reason = FinishReason::kLength;
  result.prompt_tokens = 2;
  result.completion_tokens = 1;
  result.cached_tokens = 1;
  result.retractions = 4;
  result.timing = {.queue_seconds = 0.5, .prefill_seconds = 1.25, .decode_seconds = 2};
  return result;
}

void ExpectIn(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
}

TEST(RequestLogTest, LevelZeroHasSizesTimesAndTheEndButNothingThatWasSaid) {
  const std::string log = Lines(RequestLogLevel::kMetadata, Result());
  ExpectIn(log,
           "event=request_received id=cmpl-1-0 endpoint=/generate stream=yes prompt_tokens=2\n");
  ExpectIn(log,
           "event=request_finished id=cmpl-1-0 finish=length prompt_tokens=2 cached_tokens=1 "
           "completion_tokens=1 retractions=4 queue_s=0.5000 prefill_s=1.2500 decode_s=2.0000\n");
}

TEST(RequestLogTest, LevelOneAddsTheSamplingParameters) {
  const std::string log = Lines(RequestLogLevel::kSampling, Result());
  ExpectIn(log, " max_new_tokens=9 min_new_tokens=0 temperature=0.5 ");
  EXPECT_EQ(log.find("prompt="), std::string::npos) << log;
  EXPECT_EQ(log.find("output="), std::string::npos) << log;
}

TEST(RequestLogTest, LevelTwoAddsPromptAndOutput) {
  const std::string log = Lines(RequestLogLevel::kPart, Result());
  ExpectIn(log, " prompt=hi\n");
  ExpectIn(log, " output=Hel\n");
}

TEST(RequestLogTest, LevelTwoShowsTheEndsOfALongPromptAndLevelThreeAllOfIt) {
  const FakeTokenizer tokenizer;
  Request request;
  request.prompt.assign(1000, FakeTokenizer::ByteId('x'));
  for (const auto level : {RequestLogLevel::kPart, RequestLogLevel::kWhole}) {
    RequestLog log(level, tokenizer);
    testing::internal::CaptureStderr();
    log.Received({1, 0}, "/generate", false, request);
    log.Refused({1, 0});
    EXPECT_EQ(log.open(), 0u);
    const std::string ends = std::string(256, 'x');
    ExpectIn(testing::internal::GetCapturedStderr(),
             level == RequestLogLevel::kPart ? Text("\"", ends, " [488 tokens] ", ends, "\"")
                                             : Text("=", std::string(1000, 'x'), "\n"));
  }
}

TEST(RequestLogTest, HowARequestEndedIsNamed) {
  RequestResult result = Result();
  result.reason = FinishReason::kCancelled;
  ExpectIn(Lines(RequestLogLevel::kMetadata, result), " finish=cancelled ");
  ExpectIn(Lines(RequestLogLevel::kMetadata, result, /*stop_string=*/true), " finish=stop_string ");
  result.reason = FinishReason::kStop;
  ExpectIn(Lines(RequestLogLevel::kMetadata, result), " finish=stop ");
  result.reason = FinishReason::kError;
  result.status = InternalError("rank 1 failed");
  ExpectIn(Lines(RequestLogLevel::kMetadata, result), " error=\"rank 1 failed\"\n");
}

}  // namespace
}  // namespace causeway
