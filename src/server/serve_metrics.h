// What a server counts, under SGLang's names.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "engine/request.h"
#include "net/http_server.h"

namespace causeway {

// Tokens a second over the last ten whole seconds.
class TokenRate {
 public:
  using Clock = std::chrono::steady_clock;
  void Add(Clock::time_point now, int64_t tokens);
  double PerSecond(Clock::time_point now) const;

 private:
  static constexpr int64_t kSeconds = 10;
  struct Second {
    int64_t number = -1;  // of the clock
    int64_t tokens = 0;
  };
  std::array<Second, kSeconds + 1> ring_;  // the present second and those before it
};

// Used on the io thread only.
class ServeMetrics {
 public:
  using Clock = std::chrono::steady_clock;
  // What never changes while the server runs.
  struct Server {
    std::string model_name;
    int64_t max_total_tokens = 0;
    int64_t context_length = 0;
    int64_t page_size = 0;
  };
  explicit ServeMetrics(const Server& server);

  // One choice on its way: an own request to the engine.
  struct Meter {
    Clock::time_point arrived;
    bool stream = false;
    int64_t prompt_tokens = 0;
    int64_t tokens = 0;  // counted so far
    Clock::time_point first_token = {};
    Clock::time_point last_token = {};
  };
  void OnToken(Meter& meter, Clock::time_point now);
  // It has its answer. `completion_tokens`: an eos or stop token included, for which there was no
  // OnToken.
  void OnEnd(Meter& meter, int64_t completion_tokens, Clock::time_point now);
  // Its client went away, or somebody had it end early.
  void OnAbort() { aborted_.Add(); }
  // What the engine says of any request that it has finished.
  void OnResult(const RequestResult& result);

  // Routes that count their requests. The metrics must outlive them.
  std::vector<HttpRoute> Count(std::vector<HttpRoute> routes);

  double TokensPerSecond(Clock::time_point now) const { return rate_.PerSecond(now); }
  // For /metrics.
  std::string Render(const EngineLoad& load, Clock::time_point now);

 private:
  // One series for requests that stream and one for those that don't: SGLang's label is_streaming.
  template <typename Metric>
  struct ByStream {
    Metric& streaming;
    Metric& whole;
    Metric& of(bool stream) { return stream ? streaming : whole; }
  };
  ByStream<Counter> StreamCounter(const std::string& name, const std::string& help);
  ByStream<Histogram> StreamHistogram(const std::string& name, const std::string& help,
                                      const std::vector<double>& bounds);
  // Counters of ranks up to what `load` says; made when a rank is first seen.
  void CountRanks(const EngineLoad& load);
  // Tokens that the model has made; the first also counts the prompt.
  void CountTokens(Meter& meter, int64_t tokens, Clock::time_point now);

  const Server server_;
  MetricRegistry registry_;
  TokenRate rate_;

  // Of requests.
  ByStream<Counter> prompt_tokens_;
  ByStream<Counter> generation_tokens_;
  ByStream<Counter> requests_;
  Counter& aborted_;
  Counter& cached_tokens_;
  Counter& retracted_;
  ByStream<Histogram> time_to_first_token_;
  Histogram& inter_token_latency_;
  ByStream<Histogram> time_per_output_token_;
  ByStream<Histogram> e2e_latency_;
  Histogram& prompt_lengths_;
  Histogram& generation_lengths_;
  Histogram& queue_time_;
  Histogram& prefill_time_;

  // Of the engine, set when they are asked for.
  Gauge& running_;
  Gauge& waiting_;
  Gauge& retracted_now_;
  Gauge& cache_hit_rate_;
  Gauge& token_usage_;
  Gauge& used_tokens_;
  Gauge& available_tokens_;
  Gauge& throughput_;
  // Of each rank of this host.
  struct RankCounters {
    Counter& compute;
    Counter& wait;
    Counter& exchange;
  };
  std::vector<RankCounters> ranks_;
};

}  // namespace causeway
