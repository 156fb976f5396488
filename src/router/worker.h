// The servers that the router sends requests to.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "net/http_upstream.h"
#include "router/circuit_breaker.h"
#include "router/health.h"

namespace causeway {

enum class WorkerType { kRegular, kPrefill, kDecode };
const char* NameOf(WorkerType type);
StatusOr<WorkerType> ParseWorkerType(std::string_view name);

struct WorkerSpec {
  std::string url;  // "http://host:port"
  WorkerType type = WorkerType::kRegular;
  std::optional<int> bootstrap_port = {};
  std::string api_key = {};  // empty: the router's
};

// Of "http://HOST[:PORT][/]", also without the scheme. Errors name `source`.
StatusOr<HostPort> ParseWorkerUrl(const std::string& source, const std::string& url);
// "http://host:port", by which a worker is known.
std::string WorkerUrl(const HostPort& address);

using WorkerTime = Deadline::Clock::time_point;

// Used on the io thread only, as all here.
class Worker {
 public:
  Worker(UpstreamSweep& sweep, uint64_t number, std::string id, WorkerSpec spec, HostPort address,
         const UpstreamOptions& upstream, const BreakerOptions& breaker,
         const HealthOptions& health);

  const uint64_t number;
  const std::string id;
  const WorkerSpec spec;
  Upstream upstream;
  CircuitBreaker breaker;
  WorkerHealth health;

  const WorkerTime added_at = Deadline::Clock::now();
  WorkerTime next_check{};
  bool checking = false;
  bool late = false;  // it did not come up in time, and this has been logged
  CircuitBreaker::State logged_state = CircuitBreaker::State::kClosed;
  int64_t requests = 0;  // under way
  int64_t uses = 0;      // by coroutines: it may not go while there are any

  bool Available(WorkerTime now) const { return health.up() && breaker.Allows(now); }
};

// Keeps a worker from going while something refers to it.
class WorkerUse {
 public:
  explicit WorkerUse(Worker& worker) : worker_(worker) { ++worker_.uses; }
  ~WorkerUse() { --worker_.uses; }
  WorkerUse(const WorkerUse&) = delete;
  WorkerUse& operator=(const WorkerUse&) = delete;
  Worker& worker() const { return worker_; }

 private:
  Worker& worker_;
};

// One request at a worker: counted, and its outcome told to the circuit breaker.
class WorkerLease {
 public:
  explicit WorkerLease(Worker& worker);
  ~WorkerLease();
  Worker& worker() const { return use_.worker(); }
  // At most one of these. Without one, the request says nothing about the worker.
  void Succeeded();
  void Failed();

 private:
  WorkerUse use_;
  bool told_ = false;
};

class WorkerList {
 public:
  WorkerList(UpstreamSweep& sweep, const UpstreamOptions& upstream, const BreakerOptions& breaker,
             const HealthOptions& health);

  // kInvalidArgument: no such URL; kUnavailable: the URL is there already.
  StatusOr<Worker*> Add(const WorkerSpec& spec);
  // By id or URL; null: none.
  Worker* Find(const std::string& name) const;
  // It gets no more requests; it goes when those that it has have ended.
  void Remove(Worker* worker);
  // Lets go of those whose last request has ended.
  void Reap();

  // In the order in which they were added.
  const std::vector<std::unique_ptr<Worker>>& all() const { return workers_; }
  size_t leaving() const { return leaving_.size(); }

 private:
  UpstreamSweep& sweep_;
  const UpstreamOptions upstream_;
  const BreakerOptions breaker_;
  const HealthOptions health_;
  uint64_t last_number_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Worker>> leaving_;
};

}  // namespace causeway
