#include "router/router_metrics.h"

namespace causeway {
namespace {

constexpr size_t kMaxModels = 64;

const std::vector<double>& Durations() {
  static const std::vector<double> bounds = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                             0.5,   1,     2.5,  5,     10,   15,  30,
                                             45,    60,    90,   120,   180,  240};
  return bounds;
}

const std::vector<double>& TokenTimes() {
  static const std::vector<double> bounds = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05,
                                             0.075, 0.1,    0.15,  0.25, 0.5,  1,    2.5};
  return bounds;
}

const std::vector<double>& Backoffs() {
  static const std::vector<double> bounds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
  return bounds;
}

std::string KeyOf(const char* name, const MetricLabels& labels) {
  std::string key = name;
  for (const auto& [label, value] : labels) {
    key += '\n';
    key += value;
  }
  return key;
}

}  // namespace

Counter& RouterMetrics::CounterOf(const char* name, const char* help, MetricLabels labels) {
  Counter*& counter = counters_[KeyOf(name, labels)];
  if (counter == nullptr) counter = &registry_.AddCounter(name, help, std::move(labels));
  return *counter;
}

Histogram& RouterMetrics::HistogramOf(const char* name, const char* help,
                                      const std::vector<double>& bounds, MetricLabels labels) {
  Histogram*& histogram = histograms_[KeyOf(name, labels)];
  if (histogram == nullptr) {
    histogram = &registry_.AddHistogram(name, help, bounds, std::move(labels));
  }
  return *histogram;
}

MetricLabels RouterMetrics::LabelsOf(const RequestLabels& labels) {
  std::string model = labels.model.empty() ? "default" : labels.model;
  if (!models_.contains(model)) {
    if (models_.size() < kMaxModels) {
      models_.insert(model);
    } else {
      model = "other";
    }
  }
  return {{"router_type", "http"},
          {"backend_type", backend_},
          {"connection_mode", "http"},
          {"model", std::move(model)},
          {"endpoint", labels.endpoint}};
}

void RouterMetrics::HttpRequest(const std::string& method, const std::string& path) {
  CounterOf("smg_http_requests_total", "Requests of clients.", {{"method", method}, {"path", path}})
      .Add();
}

void RouterMetrics::HttpResponse(const std::string& method, const std::string& path, int status,
                                 const std::string& error_code, double seconds) {
  CounterOf("smg_http_responses_total", "Answers to clients.",
            {{"status_code", Text(status)}, {"error_code", error_code}})
      .Add();
  HistogramOf("smg_http_request_duration_seconds", "From a request to the end of its answer.",
              Durations(), {{"method", method}, {"path", path}})
      .Observe(seconds);
}

void RouterMetrics::RateLimit(const char* result) {
  CounterOf("smg_http_rate_limit_total",
            "What the limits of requests under way and of their rate said.", {{"result", result}})
      .Add();
}

void RouterMetrics::Begun(const RequestLabels& labels) {
  MetricLabels all = LabelsOf(labels);
  all.push_back({"streaming", labels.stream ? "true" : "false"});
  CounterOf("smg_router_requests_total", "Requests to be passed on to workers.", std::move(all))
      .Add();
}

void RouterMetrics::Ended(const RequestLabels& labels, double seconds, const std::string& error) {
  HistogramOf("smg_router_request_duration_seconds",
              "From a request to the end of the answer that a worker gave.", Durations(),
              LabelsOf(labels))
      .Observe(seconds);
  if (error.empty()) return;
  MetricLabels all = LabelsOf(labels);
  all.push_back({"error_type", error});
  CounterOf("smg_router_request_errors_total", "Requests that ended with an error.", std::move(all))
      .Add();
}

void RouterMetrics::FirstByte(const RequestLabels& labels, double seconds) {
  HistogramOf("smg_router_ttft_seconds", "Of streams: until the first byte of the answer.",
              Durations(), LabelsOf(labels))
      .Observe(seconds);
}

void RouterMetrics::Generated(const RequestLabels& labels, double seconds, int64_t events) {
  HistogramOf("smg_router_generation_duration_seconds",
              "Of streams: from the first byte of the answer to the last.", Durations(),
              LabelsOf(labels))
      .Observe(seconds);
  if (events < 2) return;
  HistogramOf("smg_router_tpot_seconds",
              "Of streams: the mean time from an event to the next, with workers that send one "
              "for each token.",
              TokenTimes(), LabelsOf(labels))
      .Observe(seconds / static_cast<double>(events - 1));
}

void RouterMetrics::Answered(const RequestLabels& labels, int status) {
  MetricLabels all = LabelsOf(labels);
  all.push_back({"status_code", Text(status)});
  CounterOf("smg_router_upstream_responses_total", "Answers of workers.", std::move(all)).Add();
}

void RouterMetrics::Selected(const char* worker_type, const std::string& policy) {
  CounterOf("smg_worker_selection_total", "Choices of a worker.",
            {{"worker_type", worker_type}, {"connection_mode", "http"}, {"policy", policy}})
      .Add();
}

void RouterMetrics::WorkerError(const char* worker_type, const char* error) {
  CounterOf("smg_worker_errors_total", "Tries that a worker failed.",
            {{"worker_type", worker_type}, {"connection_mode", "http"}, {"error_type", error}})
      .Add();
}

void RouterMetrics::Retried(const RequestLabels& labels, int tried, double backoff_seconds) {
  CounterOf("smg_worker_retries_total", "Requests that were sent once more.",
            {{"worker_type", backend_}, {"endpoint", labels.endpoint}})
      .Add();
  HistogramOf("smg_worker_retry_backoff_seconds", "Pauses before they were.", Backoffs(),
              {{"attempt", Text(tried)}})
      .Observe(backoff_seconds);
}

void RouterMetrics::RetriesExhausted(const RequestLabels& labels) {
  CounterOf("smg_worker_retries_exhausted_total", "Requests that failed in every try.",
            {{"worker_type", backend_}, {"endpoint", labels.endpoint}})
      .Add();
}

void RouterMetrics::HealthCheck(const std::string& url, bool good) {
  CounterOf("smg_worker_health_checks_total", "Health checks of workers.",
            {{"worker", url}, {"result", good ? "success" : "failure"}})
      .Add();
}

void RouterMetrics::BreakerOutcome(const std::string& url, bool good) {
  CounterOf("smg_worker_cb_outcomes_total", "What circuit breakers were told of requests.",
            {{"worker", url}, {"outcome", good ? "success" : "failure"}})
      .Add();
}

void RouterMetrics::BreakerTransition(const std::string& url, const char* from, const char* to) {
  CounterOf("smg_worker_cb_transitions_total", "Changes of the state of circuit breakers.",
            {{"worker", url}, {"from", from}, {"to", to}})
      .Add();
}

std::string RouterMetrics::Render(const std::vector<WorkerSample>& workers) const {
  // Gauges of workers are made anew: those of a worker that has gone must not stay.
  MetricRegistry now;
  std::unordered_map<std::string, int> pools;
  for (const WorkerSample& worker : workers) {
    const MetricLabels labels = {{"worker", worker.url}};
    const auto set = [&](const char* name, const char* help, double value) {
      now.AddGauge(name, help, labels).Set(value);
    };
    set("smg_worker_health", "Whether the worker answers its health checks.", worker.up ? 1 : 0);
    set("smg_worker_requests_active", "Requests under way at the worker.",
        static_cast<double>(worker.requests));
    set("smg_worker_cb_state", "Of the circuit breaker: 0 closed, 1 open, 2 half-open.",
        worker.breaker_state);
    set("smg_worker_cb_consecutive_failures", "Of the circuit breaker.", worker.failures);
    set("smg_worker_cb_consecutive_successes", "Of the circuit breaker.",
        static_cast<double>(worker.successes));
    ++pools[worker.type];
  }
  for (const auto& [type, count] : pools) {
    now.AddGauge("smg_worker_pool_size", "Workers.",
                 {{"worker_type", type}, {"connection_mode", "http"}})
        .Set(count);
  }
  return registry_.Render() + now.Render();
}

}  // namespace causeway
