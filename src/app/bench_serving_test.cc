#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "app/serving_answer.h"
#include "app/serving_load.h"

namespace causeway {
namespace {

constexpr int64_t kVocab = 500;

TEST(ServingLoadTest, RandomLengthsAndIdsStayWithinTheirBoundsAndFollowTheSeed) {
  ServingLoadFlags flags;
  flags.num_prompts = 300;
  flags.random_input_len = 40;
  flags.random_output_len = 9;
  flags.random_range_ratio = 0.5;
  const auto load = MakeServingLoad(flags, kVocab);
  ASSERT_TRUE(load.ok()) << load.status().message();
  ASSERT_EQ(load->size(), 300u);
  std::set<size_t> inputs;
  std::set<int64_t> outputs;
  for (const ServingPrompt& prompt : *load) {
    inputs.insert(prompt.tokens.size());
    outputs.insert(prompt.output_len);
    EXPECT_EQ(prompt.start_seconds, 0);
    for (const int32_t token : prompt.tokens) EXPECT_TRUE(token >= 0 && token < kVocab) << token;
  }
  EXPECT_EQ(*inputs.begin(), 20u);
  EXPECT_EQ(*inputs.rbegin(), 40u);
  EXPECT_EQ(*outputs.begin(), 4);
  EXPECT_EQ(*outputs.rbegin(), 9);
  EXPECT_EQ(MakeServingLoad(flags, kVocab)->at(7).tokens, load->at(7).tokens);
  flags.seed = 2;
  EXPECT_NE(MakeServingLoad(flags, kVocab)->at(7).tokens, load->at(7).tokens);
}

TEST(ServingLoadTest, PromptsOfAGroupBeginAlikeAndEndDifferently) {
  ServingLoadFlags flags;
  flags.dataset_name = "generated-shared-prefix";
  flags.gsp_num_groups = 5;
  flags.gsp_prompts_per_group = 4;
  flags.gsp_system_prompt_len = 30;
  flags.gsp_question_len = 10;
  const auto load = MakeServingLoad(flags, kVocab);
  ASSERT_TRUE(load.ok()) << load.status().message();
  ASSERT_EQ(load->size(), 20u);
  std::map<std::vector<int32_t>, int> beginnings;
  std::set<std::vector<int32_t>> whole;
  for (const ServingPrompt& prompt : *load) {
    ASSERT_EQ(prompt.tokens.size(), 40u);
    ++beginnings[{prompt.tokens.begin(), prompt.tokens.begin() + 30}];
    whole.insert(prompt.tokens);
  }
  EXPECT_EQ(beginnings.size(), 5u);
  for (const auto& [tokens, count] : beginnings) EXPECT_EQ(count, 4);
  EXPECT_EQ(whole.size(), 20u);
}

TEST(ServingLoadTest, ArrivalsComeAtTheRateThatIsAskedForAndIrregularly) {
  ServingLoadFlags flags;
  flags.num_prompts = 4000;
  flags.random_input_len = flags.random_output_len = 1;
  flags.request_rate = 50;
  const auto load = MakeServingLoad(flags, kVocab);
  ASSERT_TRUE(load.ok()) << load.status().message();
  EXPECT_NEAR(load->back().start_seconds, 80, 5);  // four standard deviations
  int longer = 0;
  for (size_t i = 1; i < load->size(); ++i) {
    const double gap = load->at(i).start_seconds - load->at(i - 1).start_seconds;
    EXPECT_GE(gap, 0);
    longer += gap > 1.0 / 50 ? 1 : 0;
  }
  // Of an exponential distribution 1/e lies beyond the mean.
  EXPECT_NEAR(longer, 4000 / 2.718, 150);
}

TEST(ServingAnswerTest, TimesAreThoseOfTokensHoweverEventsAreCut) {
  const std::string stream =
      "data: {\"text\":\"a\",\"meta_info\":{\"prompt_tokens\":7,\"completion_tokens\":1,"
      "\"cached_tokens\":4}}\n\n"
      "data: {\"text\":\"a \\\"completion_tokens\\\":9\",\"meta_info\":{\"prompt_tokens\":7,"
      "\"completion_tokens\":3,\"cached_tokens\":4}}\n\n"
      "data: [DONE]\n\n";
  const size_t second = stream.find("data:", 1);
  for (size_t cut = 1; cut < second; ++cut) {
    ServingAnswer answer(/*stream=*/true);
    answer.Start(10);
    answer.Head(200);
    answer.Data(10.5, std::string_view(stream).substr(0, cut));
    answer.Data(11, std::string_view(stream).substr(cut, second - cut));
    answer.Data(13, std::string_view(stream).substr(second));
    answer.End(14, Status());
    ASSERT_TRUE(answer.ok()) << answer.error();
    // The first event is there with its empty line.
    EXPECT_DOUBLE_EQ(answer.ttft(), 1);
    EXPECT_DOUBLE_EQ(answer.latency(), 4);
    EXPECT_DOUBLE_EQ(answer.tpot(), 1);
    EXPECT_EQ(answer.gaps(), (std::vector<double>{1, 1}));
    EXPECT_EQ(answer.output_tokens(), 3);
    EXPECT_EQ(answer.prompt_tokens(), 7);
    EXPECT_EQ(answer.cached_tokens(), 4);
  }
}

TEST(ServingAnswerTest, EventsWithTextAreTokensWhereNobodySaysHowMany) {
  ServingAnswer answer(/*stream=*/true);
  answer.Start(0);
  answer.Head(200);
  const auto event = [&](double now, const char* delta) {
    answer.Data(now, Text("data: {\"choices\":[{\"delta\":{", delta, "}}]}\n\n"));
  };
  event(1, R"("role":"assistant","content":"")");
  event(2, R"("content":"a")");
  event(5, R"("content":"b")");
  answer.Data(6, "data: [DONE]\n\n");
  answer.End(6, Status());
  EXPECT_TRUE(answer.ok()) << answer.error();
  EXPECT_DOUBLE_EQ(answer.ttft(), 2);
  EXPECT_EQ(answer.gaps(), std::vector<double>{3});
  EXPECT_EQ(answer.output_tokens(), 2);
}

TEST(ServingAnswerTest, WhatGoesWrongHasAKindAndAMessage) {
  const struct {
    int status;
    const char* body;
    Status end;
    const char* kind;
    const char* message;
  } kCases[] = {{0, "", Unavailable("refused"), "no connection", "refused"},
                {200, "", Unavailable("reset"), "connection lost", "reset"},
                {200, "", DeadlineExceeded("late"), "timed out", "late"},
                {503, R"({"error":{"message":"full"}})", Status(), "HTTP 503", "full"},
                {502, "<html>", Status(), "HTTP 502", "<html>"},
                {200, "data: {\"error\":{\"message\":\"step\"}}\n\n", Status(),
                 "error in the stream", "step"},
                {200, "data: {\"completion_tokens\":1}\n\n", Status(), "stream without its end",
                 "the connection ended before data: [DONE]"}};
  std::vector<ServingAnswer> answers;
  for (const auto& one : kCases) {
    ServingAnswer answer(/*stream=*/true);
    answer.Start(1);
    if (one.status != 0) answer.Head(one.status);
    answer.Data(2, one.body);
    answer.End(3, one.end);
    EXPECT_FALSE(answer.ok());
    EXPECT_EQ(answer.error_kind(), one.kind);
    EXPECT_EQ(answer.error(), one.message) << one.kind;
    answers.push_back(answer);
  }
  answers.push_back(answers[1]);
  const ServingReport report = ServingReport::Of(answers);
  EXPECT_EQ(report.completed, 0u);
  EXPECT_EQ(report.most_under_way, answers.size());
  EXPECT_EQ(report.errors.at("connection lost").count, 2u);
  EXPECT_TRUE(report.ToJson()["mean_ttft_ms"].is_null());
  EXPECT_NE(report.Table().find("errors: 2 x connection lost, such as: reset"), std::string::npos)
      << report.Table();
}

TEST(ServingTimesTest, PercentilesLieBetweenValuesInProportion) {
  std::vector<double> values;
  for (int i = 100; i >= 0; --i) values.push_back(i * 1e-3);
  const ServingTimes times = ServingTimes::Of(values);
  EXPECT_NEAR(times.mean, 50, 1e-9);
  EXPECT_NEAR(times.median, 50, 1e-9);
  EXPECT_NEAR(times.p99, 99, 1e-9);
  EXPECT_NEAR(ServingTimes::Of({0.001, 0.002}).p90, 1.9, 1e-9);
  EXPECT_EQ(ServingTimes::Of({}).count, 0u);
}

}  // namespace
}  // namespace causeway
