// The router's metrics, under the names of SGLang's router.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/metrics.h"

namespace causeway {

// A request that is passed on, as its series name it.
struct RequestLabels {
  const char* endpoint = "";  // "generate", "chat", "completions"
  std::string model;
  bool stream = false;
};

// How a worker stands now.
struct WorkerSample {
  std::string url;
  const char* type = "";
  bool up = false;
  int breaker_state = 0;
  int failures = 0;
  int64_t successes = 0;
  int64_t requests = 0;
};

// Used on the io thread only. Series appear with their first value.
class RouterMetrics {
 public:
  // `backend`: "pd" or "regular".
  explicit RouterMetrics(std::string backend) : backend_(std::move(backend)) {}

  // Of clients.
  void HttpRequest(const std::string& method, const std::string& path);
  void HttpResponse(const std::string& method, const std::string& path, int status,
                    const std::string& error_code, double seconds);
  void RateLimit(const char* result);  // "allowed", "rejected", "timeout"
  // Of requests passed on. `error`: empty for those that went well.
  void Begun(const RequestLabels& labels);
  void Ended(const RequestLabels& labels, double seconds, const std::string& error);
  // Of streams: until the first byte, for each further event, from the first byte to the last.
  void FirstByte(const RequestLabels& labels, double seconds);
  void Generated(const RequestLabels& labels, double seconds, int64_t events);
  // Of tries.
  void Answered(const RequestLabels& labels, int status);
  void Selected(const char* worker_type, const std::string& policy);
  void WorkerError(const char* worker_type, const char* error);
  void Retried(const RequestLabels& labels, int tried, double backoff_seconds);
  void RetriesExhausted(const RequestLabels& labels);
  // Of workers.
  void HealthCheck(const std::string& url, bool good);
  void BreakerOutcome(const std::string& url, bool good);
  void BreakerTransition(const std::string& url, const char* from, const char* to);

  // Prometheus' text, with the workers as they are now.
  std::string Render(const std::vector<WorkerSample>& workers) const;

 private:
  Counter& CounterOf(const char* name, const char* help, MetricLabels labels);
  Histogram& HistogramOf(const char* name, const char* help, const std::vector<double>& bounds,
                         MetricLabels labels);
  MetricLabels LabelsOf(const RequestLabels& labels);

  const std::string backend_;
  MetricRegistry registry_;
  std::unordered_map<std::string, Counter*> counters_;  // by name and labels
  std::unordered_map<std::string, Histogram*> histograms_;
  // Clients choose the names of models: those beyond the first ones share a series.
  std::set<std::string> models_;
};

}  // namespace causeway
