// Names, kinds, labels and the bounds of histograms are SGLang's, so that its dashboards and alerts
// work unchanged. Two things are counted earlier than there: tokens when the model makes them, not
// when the request ends, so that a long answer does not appear as one jump.
#include "server/serve_metrics.h"

#include <algorithm>

namespace causeway {
namespace {

double Seconds(ServeMetrics::Clock::duration span) {
  return std::chrono::duration<double>(span).count();
}

int64_t SecondOf(TokenRate::Clock::time_point now) {
  return std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
}

constexpr double kFirstTokenBounds[] = {0.1, 0.2, 0.4, 0.6, 0.8, 1,  2,   4,   6,
                                        8,   10,  20,  40,  60,  80, 100, 200, 400};
constexpr double kLatencyBounds[] = {0.1, 0.2, 0.4, 0.6, 0.8, 1,   2,   4,   6,    8,    10,
                                     20,  40,  60,  80,  100, 200, 400, 600, 1200, 1800, 2400};
constexpr double kTokenBounds[] = {0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025,
                                   0.03,  0.035, 0.04,  0.06,  0.08, 0.1,   0.2,  0.4,
                                   0.6,   0.8,   1,     2,     4,    6,     8};
constexpr double kLengthBounds[] = {
    100,   300,   500,   700,   1000,   1500,   2000,   3000,   4000,   5000,  6000,   7000,
    8000,  9000,  10000, 12500, 15000,  17500,  20000,  22500,  25000,  27500, 30000,  35000,
    40000, 60000, 80000, 1e5,   200000, 300000, 400000, 600000, 800000, 1e6,   1100000};
constexpr double kQueueBounds[] = {0,   0.001, 0.005, 0.01, 0.05, 0.1,  0.2,  0.5,  1,    2,
                                   3,   4,     5,     10,   15,   20,   30,   40,   50,   60,
                                   70,  80,    90,    100,  200,  300,  400,  500,  600,  700,
                                   800, 900,   1000,  1200, 1400, 1600, 1800, 2000, 2500, 3000};

template <size_t kCount>
std::vector<double> List(const double (&values)[kCount]) {
  return {values, values + kCount};
}

// 1 ms to 20 minutes in equal ratios.
std::vector<double> StageBounds() {
  std::vector<double> bounds;
  double bound = 0.001;
  for (int i = 0; i < 30; ++i, bound *= 1.62) bounds.push_back(bound);
  return bounds;
}

MetricLabels ModelLabels(const ServeMetrics::Server& server) {
  return {{"model_name", server.model_name}};
}

// SGLang has these of each scheduler; here one schedules for all ranks.
MetricLabels EngineLabels(const ServeMetrics::Server& server) {
  return {{"model_name", server.model_name},
          {"engine_type", "unified"},
          {"tp_rank", "0"},
          {"pp_rank", "0"},
          {"moe_ep_rank", "0"}};
}

MetricLabels With(MetricLabels labels, const char* name, const char* value) {
  labels.emplace_back(name, value);
  return labels;
}

}  // namespace

void TokenRate::Add(Clock::time_point now, int64_t tokens) {
  const int64_t number = SecondOf(now);
  Second& second = ring_[static_cast<size_t>(number) % ring_.size()];
  if (second.number != number) second = {.number = number};
  second.tokens += tokens;
}

double TokenRate::PerSecond(Clock::time_point now) const {
  const int64_t number = SecondOf(now);
  int64_t tokens = 0;
  for (const Second& second : ring_) {
    // The present second is not whole yet.
    if (second.number < number && second.number >= number - kSeconds) tokens += second.tokens;
  }
  return static_cast<double>(tokens) / kSeconds;
}

ServeMetrics::ServeMetrics(const Server& server)
    : server_(server),
      prompt_tokens_(StreamCounter("sglang:prompt_tokens_total",
                                   "Prompt tokens of requests that got their first token.")),
      generation_tokens_(StreamCounter("sglang:generation_tokens_total", "Generated tokens.")),
      requests_(StreamCounter("sglang:num_requests_total", "Requests that got their answer.")),
      aborted_(registry_.AddCounter("sglang:num_aborted_requests_total",
                                    "Requests that ended early, by the client or an operator.",
                                    ModelLabels(server))),
      cached_tokens_(registry_.AddCounter("sglang:cached_tokens_total",
                                          "Prompt tokens that were found in the prefix cache.",
                                          With(ModelLabels(server), "cache_source", "device"))),
      retracted_(registry_.AddCounter("sglang:num_retracted_requests_total",
                                      "How often requests had to give up their pages.",
                                      EngineLabels(server))),
      time_to_first_token_(StreamHistogram("sglang:time_to_first_token_seconds",
                                           "From a request's arrival to its first token.",
                                           List(kFirstTokenBounds))),
      inter_token_latency_(registry_.AddHistogram("sglang:inter_token_latency_seconds",
                                                  "From one token of a request to the next.",
                                                  List(kTokenBounds), ModelLabels(server))),
      time_per_output_token_(StreamHistogram("sglang:request_time_per_output_token_seconds",
                                             "Mean time of a request's tokens after the first.",
                                             List(kTokenBounds))),
      e2e_latency_(StreamHistogram("sglang:e2e_request_latency_seconds",
                                   "From a request's arrival to the end of its answer.",
                                   List(kLatencyBounds))),
      prompt_lengths_(registry_.AddHistogram("sglang:prompt_tokens_histogram",
                                             "Prompt tokens of answered requests.",
                                             List(kLengthBounds), ModelLabels(server))),
      generation_lengths_(registry_.AddHistogram("sglang:generation_tokens_histogram",
                                                 "Generated tokens of answered requests.",
                                                 List(kLengthBounds), ModelLabels(server))),
      queue_time_(registry_.AddHistogram("sglang:queue_time_seconds",
                                         "From a request's submission to its first step.",
                                         List(kQueueBounds), EngineLabels(server))),
      prefill_time_(registry_.AddHistogram("sglang:per_stage_req_latency_seconds",
                                           "Time of requests in one stage.", StageBounds(),
                                           With(EngineLabels(server), "stage", "prefill_forward"))),
      running_(registry_.AddGauge("sglang:num_running_reqs", "Requests in prefill or decode.",
                                  EngineLabels(server))),
      waiting_(registry_.AddGauge("sglang:num_queue_reqs", "Requests that wait to run.",
                                  EngineLabels(server))),
      retracted_now_(registry_.AddGauge("sglang:num_retracted_reqs",
                                        "Requests that gave up their pages and wait to go on.",
                                        EngineLabels(server))),
      cache_hit_rate_(registry_.AddGauge(
          "sglang:cache_hit_rate",
          "Part of the prompts last admitted that was in the prefix cache, 0 to 1.",
          EngineLabels(server))),
      token_usage_(registry_.AddGauge("sglang:token_usage", "Used part of the KV cache, 0 to 1.",
                                      EngineLabels(server))),
      used_tokens_(registry_.AddGauge("sglang:num_used_tokens",
                                      "Tokens of the KV cache in pages that are in use.",
                                      EngineLabels(server))),
      available_tokens_(registry_.AddGauge("sglang:kv_available_tokens",
                                           "Tokens of the KV cache in free pages.",
                                           EngineLabels(server))),
      throughput_(registry_.AddGauge("sglang:gen_throughput",
                                     "Generated tokens a second, over the last ten seconds.",
                                     EngineLabels(server))) {
  const auto constant = [&](const char* name, const char* help, int64_t value) {
    registry_.AddGauge(name, help, EngineLabels(server)).Set(static_cast<double>(value));
  };
  constant("sglang:max_total_num_tokens", "Tokens that the KV cache holds.",
           server.max_total_tokens);
  constant("sglang:page_size", "Tokens of a page of the KV cache.", server.page_size);
  constant("sglang:num_pages", "Pages of the KV cache.",
           server.page_size > 0 ? server.max_total_tokens / server.page_size : 0);
  constant("sglang:context_len", "Tokens of prompt and answer together, at most.",
           server.context_length);
}

ServeMetrics::ByStream<Counter> ServeMetrics::StreamCounter(const std::string& name,
                                                            const std::string& help) {
  Counter& streaming =
      registry_.AddCounter(name, help, With(ModelLabels(server_), "is_streaming", "true"));
  return {streaming,
          registry_.AddCounter(name, help, With(ModelLabels(server_), "is_streaming", "false"))};
}

ServeMetrics::ByStream<Histogram> ServeMetrics::StreamHistogram(const std::string& name,
                                                                const std::string& help,
                                                                const std::vector<double>& bounds) {
  Histogram& streaming = registry_.AddHistogram(name, help, bounds,
                                                With(ModelLabels(server_), "is_streaming", "true"));
  return {streaming, registry_.AddHistogram(name, help, bounds,
                                            With(ModelLabels(server_), "is_streaming", "false"))};
}

void ServeMetrics::CountTokens(Meter& meter, int64_t tokens, Clock::time_point now) {
  if (tokens <= 0) return;
  if (meter.tokens == 0) {
    meter.first_token = now;
    prompt_tokens_.of(meter.stream).Add(static_cast<double>(meter.prompt_tokens));
    time_to_first_token_.of(meter.stream).Observe(Seconds(now - meter.arrived));
  } else {
    inter_token_latency_.Observe(Seconds(now - meter.last_token));
  }
  meter.tokens += tokens;
  meter.last_token = now;
  generation_tokens_.of(meter.stream).Add(static_cast<double>(tokens));
  rate_.Add(now, tokens);
}

void ServeMetrics::OnToken(Meter& meter, Clock::time_point now) { CountTokens(meter, 1, now); }

void ServeMetrics::OnEnd(Meter& meter, int64_t completion_tokens, Clock::time_point now) {
  CountTokens(meter, completion_tokens - meter.tokens, now);
  requests_.of(meter.stream).Add();
  e2e_latency_.of(meter.stream).Observe(Seconds(now - meter.arrived));
  if (meter.tokens > 1) {
    time_per_output_token_.of(meter.stream)
        .Observe(Seconds(now - meter.first_token) / static_cast<double>(meter.tokens - 1));
  }
  prompt_lengths_.Observe(static_cast<double>(meter.prompt_tokens));
  generation_lengths_.Observe(static_cast<double>(meter.tokens));
}

void ServeMetrics::OnResult(const RequestResult& result) {
  const RequestTiming& timing = result.timing;
  cached_tokens_.Add(static_cast<double>(result.cached_tokens));
  retracted_.Add(static_cast<double>(result.retractions));
  queue_time_.Observe(timing.queue_seconds);
  if (timing.prefill_seconds > 0) prefill_time_.Observe(timing.prefill_seconds);
}

std::vector<HttpRoute> ServeMetrics::Count(std::vector<HttpRoute> routes) {
  for (HttpRoute& route : routes) {
    Counter& counter = registry_.AddCounter("sglang:http_requests_total",
                                            "HTTP requests, by the path that answers them.",
                                            {{"endpoint", route.path}, {"method", route.method}});
    route.handler = [&counter, handler = std::move(route.handler)](HttpRequest request,
                                                                   HttpResponder responder) {
      counter.Add();
      handler(std::move(request), std::move(responder));
    };
  }
  return routes;
}

void ServeMetrics::CountRanks(const EngineLoad& load) {
  while (ranks_.size() < load.ranks.size()) {
    const std::string rank = std::to_string(ranks_.size());
    const auto counter = [&](const char* kind) -> Counter& {
      return registry_.AddCounter(
          "causeway:rank_seconds_total", "Where a rank's time in steps went.",
          {{"model_name", server_.model_name}, {"rank", rank}, {"kind", kind}});
    };
    ranks_.push_back({counter("compute"), counter("wait"), counter("exchange")});
  }
  const auto raise = [](Counter& counter, double value) {
    counter.Add(std::max(0.0, value - counter.value()));
  };
  for (size_t i = 0; i < load.ranks.size(); ++i) {
    raise(ranks_[i].compute, load.ranks[i].compute);
    raise(ranks_[i].wait, load.ranks[i].wait);
    raise(ranks_[i].exchange, load.ranks[i].exchange);
  }
}

std::string ServeMetrics::Render(const EngineLoad& load, Clock::time_point now) {
  running_.Set(static_cast<double>(load.running));
  waiting_.Set(static_cast<double>(load.waiting));
  retracted_now_.Set(static_cast<double>(load.retracted));
  cache_hit_rate_.Set(load.cache_hit_rate);
  used_tokens_.Set(static_cast<double>(load.used_tokens));
  available_tokens_.Set(static_cast<double>(load.max_total_tokens - load.used_tokens));
  token_usage_.Set(load.max_total_tokens > 0 ? static_cast<double>(load.used_tokens) /
                                                   static_cast<double>(load.max_total_tokens)
                                             : 0.0);
  CountRanks(load);
  throughput_.Set(rate_.PerSecond(now));
  return registry_.Render();
}

}  // namespace causeway
