#include "server/serve_metrics.h"

#include <gtest/gtest.h>

#include <set>

namespace causeway {
namespace {

using namespace std::chrono_literals;

const ServeMetrics::Clock::time_point kStart = ServeMetrics::Clock::time_point(1000s);

ServeMetrics::Server Server() {
  return {.model_name = "m", .max_total_tokens = 640, .context_length = 300, .page_size = 64};
}

// The value of a series, as it is printed; fails if it is not there.
std::string Value(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  EXPECT_NE(at, std::string::npos) << series << " in\n" << text;
  if (at == std::string::npos) return "";
  const size_t from = at + series.size() + 2;
  return text.substr(from, text.find('\n', from) - from);
}

const std::string kModel = "{model_name=\"m\"}";
const std::string kStreaming = "{model_name=\"m\",is_streaming=\"true\"}";
const std::string kWhole = "{model_name=\"m\",is_streaming=\"false\"}";
const std::string kEngine =
    "{model_name=\"m\",engine_type=\"unified\",tp_rank=\"0\",pp_rank=\"0\",moe_ep_rank=\"0\"}";

TEST(ServeMetricsTest, ARequestIsCountedTokenByToken) {
  ServeMetrics metrics(Server());
  ServeMetrics::Meter meter{.arrived = kStart, .stream = true, .prompt_tokens = 7};
  metrics.OnToken(meter, kStart + 300ms);
  metrics.OnToken(meter, kStart + 305ms);
  std::string text = metrics.Render({}, kStart + 1s);
  EXPECT_EQ(Value(text, "sglang:prompt_tokens_total" + kStreaming), "7.0");
  EXPECT_EQ(Value(text, "sglang:generation_tokens_total" + kStreaming), "2.0");
  EXPECT_EQ(Value(text, "sglang:generation_tokens_total" + kWhole), "0.0");
  EXPECT_EQ(Value(text, "sglang:num_requests_total" + kStreaming), "0.0") << "it still runs";
  // An end token, which the client does not get.
  metrics.OnEnd(meter, 3, kStart + 500ms);
  text = metrics.Render({}, kStart + 1s);
  EXPECT_EQ(Value(text, "sglang:generation_tokens_total" + kStreaming), "3.0");
  EXPECT_EQ(Value(text, "sglang:num_requests_total" + kStreaming), "1.0");
  EXPECT_EQ(Value(text, "sglang:time_to_first_token_seconds_sum" + kStreaming), "0.3");
  EXPECT_EQ(Value(text, "sglang:time_to_first_token_seconds_count" + kStreaming), "1.0");
  EXPECT_EQ(Value(text, "sglang:inter_token_latency_seconds_count" + kModel), "2.0");
  EXPECT_EQ(Value(text, "sglang:e2e_request_latency_seconds_sum" + kStreaming), "0.5");
  EXPECT_EQ(Value(text, "sglang:request_time_per_output_token_seconds_sum" + kStreaming), "0.1");
  EXPECT_EQ(Value(text, "sglang:prompt_tokens_histogram_sum" + kModel), "7.0");
  EXPECT_EQ(Value(text, "sglang:generation_tokens_histogram_sum" + kModel), "3.0");
  const std::string bucket =
      "sglang:time_to_first_token_seconds_bucket{model_name=\"m\","
      "is_streaming=\"true\",le=";
  EXPECT_EQ(Value(text, bucket + "\"0.2\"}"), "0.0");
  EXPECT_EQ(Value(text, bucket + "\"0.4\"}"), "1.0");
  EXPECT_EQ(Value(text, bucket + "\"1.0\"}"), "1.0");
}

TEST(ServeMetricsTest, AnAbortedRequestKeepsItsTokensButIsNoAnswer) {
  ServeMetrics metrics(Server());
  ServeMetrics::Meter meter{.arrived = kStart, .prompt_tokens = 5};
  metrics.OnToken(meter, kStart + 1s);
  metrics.OnAbort();
  const std::string text = metrics.Render({}, kStart);
  EXPECT_EQ(Value(text, "sglang:num_aborted_requests_total" + kModel), "1.0");
  EXPECT_EQ(Value(text, "sglang:num_requests_total" + kWhole), "0.0");
  EXPECT_EQ(Value(text, "sglang:prompt_tokens_total" + kWhole), "5.0");
}

TEST(ServeMetricsTest, TheEnginesLoadIsShownAsItIs) {
  ServeMetrics metrics(Server());
  const EngineLoad load = {.running = 3,
                           .waiting = 4,
                           .used_tokens = 160,
                           .max_total_tokens = 640,
                           .cache_hit_rate = 0.5,
                           .retracted = 2};
  const std::string text = metrics.Render(load, kStart);
  EXPECT_EQ(Value(text, "sglang:num_running_reqs" + kEngine), "3.0");
  EXPECT_EQ(Value(text, "sglang:num_queue_reqs" + kEngine), "4.0");
  EXPECT_EQ(Value(text, "sglang:token_usage" + kEngine), "0.25");
  EXPECT_EQ(Value(text, "sglang:cache_hit_rate" + kEngine), "0.5");
  EXPECT_EQ(Value(text, "sglang:num_retracted_reqs" + kEngine), "2.0");
  EXPECT_EQ(Value(text, "sglang:num_used_tokens" + kEngine), "160.0");
  EXPECT_EQ(Value(text, "sglang:kv_available_tokens" + kEngine), "480.0");
  EXPECT_EQ(Value(text, "sglang:max_total_num_tokens" + kEngine), "640.0");
  EXPECT_EQ(Value(text, "sglang:num_pages" + kEngine), "10.0");
  EXPECT_EQ(Value(text, "sglang:page_size" + kEngine), "64.0");
  EXPECT_EQ(Value(text, "sglang:context_len" + kEngine), "300.0");
}

TEST(ServeMetricsTest, ResultsOfTheEngineAreObserved) {
  ServeMetrics metrics(Server());
  RequestResult result;
  result.cached_tokens = 64;
  result.retractions = 2;
  result.timing = {.queue_seconds = 0.25, .prefill_seconds = 2.0, .decode_seconds = 1.0};
  metrics.OnResult(result);
  result.timing = {.queue_seconds = 0.5, .prefill_seconds = 0.0, .decode_seconds = 0.0};
  metrics.OnResult(result);
  const std::string text = metrics.Render({}, kStart);
  EXPECT_EQ(Value(text, "sglang:queue_time_seconds_sum" + kEngine), "0.75");
  EXPECT_EQ(Value(text, "sglang:queue_time_seconds_count" + kEngine), "2.0");
  EXPECT_EQ(Value(text, "sglang:cached_tokens_total{model_name=\"m\",cache_source=\"device\"}"),
            "128.0");
  EXPECT_EQ(Value(text, "sglang:num_retracted_requests_total" + kEngine), "4.0");
  std::string stage = kEngine;
  stage.insert(stage.size() - 1, ",stage=\"prefill_forward\"");
  EXPECT_EQ(Value(text, "sglang:per_stage_req_latency_seconds_count" + stage), "1.0")
      << "a request that never ran had no prefill";
}

TEST(ServeMetricsTest, EachRanksTimeIsDividedByWhatItDoes) {
  ServeMetrics metrics(Server());
  EngineLoad load;
  EXPECT_EQ(metrics.Render(load, kStart).find("causeway:"), std::string::npos);
  load.ranks = {{.compute = 1.5, .wait = 0.5, .exchange = 0.0},
                {.compute = 1.0, .wait = 0.75, .exchange = 0.25}};
  metrics.Render(load, kStart);
  load.ranks[1].compute = 2.0;
  const std::string text = metrics.Render(load, kStart);
  const std::string series = "causeway:rank_seconds_total{model_name=\"m\",rank=";
  EXPECT_EQ(Value(text, series + "\"0\",kind=\"compute\"}"), "1.5");
  EXPECT_EQ(Value(text, series + "\"1\",kind=\"compute\"}"), "2.0");
  EXPECT_EQ(Value(text, series + "\"1\",kind=\"wait\"}"), "0.75");
  EXPECT_EQ(Value(text, series + "\"1\",kind=\"exchange\"}"), "0.25");
}

TEST(ServeMetricsTest, RoutesCountTheirRequests) {
  ServeMetrics metrics(Server());
  int handled = 0;
  auto routes =
      metrics.Count({{"GET", "/a", [&](const HttpRequest&, const HttpResponder&) { ++handled; }},
                     {"POST", "/a", [&](const HttpRequest&, const HttpResponder&) { ++handled; }}});
  for (int i = 0; i < 2; ++i) {
    routes[1].handler({}, HttpResponder(nullptr, IoExecutor(nullptr), 0));
  }
  EXPECT_EQ(handled, 2);
  const std::string text = metrics.Render({}, kStart);
  EXPECT_EQ(Value(text, "sglang:http_requests_total{endpoint=\"/a\",method=\"POST\"}"), "2.0");
  EXPECT_EQ(Value(text, "sglang:http_requests_total{endpoint=\"/a\",method=\"GET\"}"), "0.0");
}

TEST(ServeMetricsTest, EverySeriesIsWellFormedAndUnique) {
  ServeMetrics metrics(Server());
  std::string text = metrics.Render({}, kStart);
  std::set<std::string> seen;
  while (!text.empty()) {
    const std::string line = text.substr(0, text.find('\n'));
    text.erase(0, line.size() + 1);
    if (line.starts_with("# HELP sglang:") || line.starts_with("# TYPE sglang:")) continue;
    const size_t space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos) << line;
    const std::string series = line.substr(0, space);
    EXPECT_TRUE(series.starts_with("sglang:")) << line;
    EXPECT_NE(series.find("{model_name=\"m\""), std::string::npos) << line;
    EXPECT_EQ(series.find(' '), std::string::npos) << line;
    EXPECT_TRUE(seen.insert(series).second) << line;
    size_t read = 0;
    std::stod(line.substr(space + 1), &read);
    EXPECT_EQ(read, line.size() - space - 1) << line;
  }
  EXPECT_GT(seen.size(), 100u);
}

TEST(TokenRateTest, TheRateIsThatOfTheLastTenWholeSeconds) {
  TokenRate rate;
  EXPECT_EQ(rate.PerSecond(kStart), 0);
  rate.Add(kStart, 50);
  rate.Add(kStart + 500ms, 50);
  EXPECT_EQ(rate.PerSecond(kStart + 900ms), 0) << "the present second is not over";
  EXPECT_EQ(rate.PerSecond(kStart + 1s), 10);
  rate.Add(kStart + 5s, 20);
  EXPECT_EQ(rate.PerSecond(kStart + 10s), 12);
  EXPECT_EQ(rate.PerSecond(kStart + 11s), 2) << "the first second has passed";
  EXPECT_EQ(rate.PerSecond(kStart + 100s), 0);
  rate.Add(kStart + 100s, 30);
  EXPECT_EQ(rate.PerSecond(kStart + 101s), 3);
}

}  // namespace
}  // namespace causeway
